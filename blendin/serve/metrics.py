"""Prometheus' series of what is decided here; those of `blendin serve --engine vllm` by name."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..trace import Generation

RATES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histograms' buckets."""


class Metrics:
    """Counters by policy, and gauges of the queue and the caches."""

    def __init__(self) -> None:
        self.registry, self._gauges = CollectorRegistry(), dict[str, Gauge]()
        self._requests = self._counter("requests", "Texts that a policy decides.")
        self._refused = Counter(
            "blendin_refused_requests", "Requests refused before they ran.", registry=self.registry
        )
        self._finished = self._counter("finished_requests", "Texts that ended.", "reason")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self._counts = {
            name: self._counter(name, text)
            for name, text in (
                ("steps", "Steps of finished requests."),
                ("interventions", "Of those, interventions."),
                ("base_forwards", "Forwards of the base for finished requests."),
                ("guide_forwards", "Forwards of the guide for finished requests."),
            )
        }
        self._rates = self._histogram(
            "intervention_rate", "Interventions over steps of a finished request.", RATES
        )
        self._alphas = self._histogram("alpha", "The guide's weight at interventions.", RATES)
        self._first = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first step.", SECONDS
        )
        self._seconds = self._histogram(
            "request_seconds", "From a request's arrival to its last step.", SECONDS
        )

    def gauge(self, name: str, text: str, value: Callable[[], float], **labels: str) -> None:
        """A number that is looked up when it is asked for."""
        gauge = self._gauges.get(name)
        if gauge is None:
            names = tuple(labels)
            gauge = Gauge(f"blendin_{name}", text, labelnames=names, registry=self.registry)
            self._gauges[name] = gauge
        (gauge.labels(**labels) if labels else gauge).set_function(value)

    def began(self, policy: str, prompt_tokens: int) -> None:
        """A text joined the queue."""
        self._requests.labels(policy).inc()
        self._prompt_tokens.labels(policy).inc(prompt_tokens)

    def refused(self) -> None:
        """A request was refused."""
        self._refused.inc()

    def first_step(self, policy: str, seconds: float) -> None:
        """A text has its first step."""
        self._first.labels(policy).observe(seconds)

    def finished(self, policy: str, reason: str, output: Generation, seconds: float) -> None:
        """A text has ended."""
        self._finished.labels(policy, reason).inc()
        self._seconds.labels(policy).observe(seconds)
        self._counts["steps"].labels(policy).inc(len(output.steps))
        self._counts["interventions"].labels(policy).inc(output.interventions)
        self._counts["base_forwards"].labels(policy).inc(output.base_forwards)
        self._counts["guide_forwards"].labels(policy).inc(output.guide_forwards)
        self._rates.labels(policy).observe(output.intervention_rate)
        for step in output.steps:
            if step.alpha is not None:
                self._alphas.labels(policy).observe(step.alpha)

    def shown(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(
            f"blendin_{name}", text, labelnames=("policy", *labels), registry=self.registry
        )

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"blendin_{name}",
            text,
            labelnames=("policy",),
            buckets=buckets,
            registry=self.registry,
        )
