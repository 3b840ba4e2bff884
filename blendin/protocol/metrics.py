"""Prometheus' series of what was decided, by the same names for every server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

RATES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
"""Upper bounds of the histograms' buckets."""


class PolicyMetrics:
    """Counters by policy: of texts that begin, are refused and end, and of their steps.

    Attributes:
        registry: where they are.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self._requests = self.counter("requests", "Texts that a policy decides.")
        self._refused = Counter(
            "blendin_refused_requests", "Requests refused before they ran.", registry=registry
        )
        self._finished = self.counter("finished_requests", "Texts that ended.", "reason")
        self._counts = {
            name: self.counter(name, text)
            for name, text in (
                ("steps", "Steps of finished requests."),
                ("interventions", "Of those, interventions."),
                ("base_forwards", "Forwards of the base for finished requests."),
                ("guide_forwards", "Forwards of the guide for finished requests."),
            )
        }
        self._rates = self.histogram(
            "intervention_rate", "Interventions over steps of a finished request.", RATES
        )

    def began(self, policy: str) -> None:
        """A text is taken."""
        self._requests.labels(policy).inc()

    def refused(self) -> None:
        """A request was refused."""
        self._refused.inc()

    def finished(self, policy: str, reason: str, report: Mapping[str, Any]) -> None:
        """A text has ended.

        Args:
            policy: its class.
            reason: why.
            report: as `protocol.report` makes it; what it has not is not counted.
        """
        self._finished.labels(policy, reason).inc()
        for name in self._counts.keys() & report.keys():
            self._counts[name].labels(policy).inc(report[name])
        if "intervention_rate" in report:
            self._rates.labels(policy).observe(report["intervention_rate"])

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter by policy and further labels."""
        return Counter(
            f"blendin_{name}", text, labelnames=("policy", *labels), registry=self.registry
        )

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        """A histogram by policy."""
        return Histogram(
            f"blendin_{name}",
            text,
            labelnames=("policy",),
            buckets=buckets,
            registry=self.registry,
        )
