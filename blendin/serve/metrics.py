"""Prometheus' series of what is decided here."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from ..protocol.metrics import RATES, PolicyMetrics
from ..protocol.report import report
from ..trace import Generation

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histograms' buckets."""


class Metrics(PolicyMetrics):
    """What every server counts, times, and gauges of the queue and the caches.

    Under vLLM the times are vLLM's own series, as are the queue and its caches.
    """

    def __init__(self) -> None:
        super().__init__(CollectorRegistry())
        self._gauges = dict[str, Gauge]()
        self._prompt_tokens = self.counter("prompt_tokens", "Tokens of prompts.")
        self._alphas = self.histogram("alpha", "The guide's weight at interventions.", RATES)
        self._first = self.histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first step.", SECONDS
        )
        self._seconds = self.histogram(
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

    def queued(self, policy: str, prompt_tokens: int) -> None:
        """A text joined the queue."""
        self.began(policy)
        self._prompt_tokens.labels(policy).inc(prompt_tokens)

    def first_step(self, policy: str, seconds: float) -> None:
        """A text has its first step."""
        self._first.labels(policy).observe(seconds)

    def ended(self, policy: str, reason: str, output: Generation, seconds: float) -> None:
        """A text has ended."""
        self.finished(policy, reason, report(output, tells_steps=False))
        self._seconds.labels(policy).observe(seconds)
        for step in output.steps:
            if step.alpha is not None:
                self._alphas.labels(policy).observe(step.alpha)

    def shown(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
