"""Prometheus' series of what was blended, beside vLLM's own on /metrics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

RATES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
"""Upper bounds of the histogram's buckets."""


class Metrics:
    """Counters by policy, in prometheus_client's default registry.

    vLLM shows that one, or, where several API servers run, collects what each process has counted.
    """

    def __init__(self) -> None:
        from prometheus_client import Counter, Histogram  # vLLM brings it

        self._requests = Counter(
            "blendin_requests", "Requests that a policy decides.", labelnames=("policy",)
        )
        self._refused = Counter("blendin_refused_requests", "Requests refused before they ran.")
        self._unreported = Counter(
            "blendin_unreported_requests", "Finished requests whose report could not be had."
        )
        self._counts = {
            name: Counter(f"blendin_{name}", text, labelnames=("policy",))
            for name, text in (
                ("steps", "Steps of finished requests."),
                ("interventions", "Of those, interventions."),
                ("guide_forwards", "Forwards of the guide for finished requests."),
            )
        }
        self._rates = Histogram(
            "blendin_intervention_rate",
            "Interventions over steps of a finished request.",
            labelnames=("policy",),
            buckets=RATES,
        )

    def began(self, policy: str) -> None:
        """vLLM has taken a request."""
        self._requests.labels(policy).inc()

    def refused(self) -> None:
        """A request was refused."""
        self._refused.inc()

    def finished(self, policy: str, report: Mapping[str, Any]) -> None:
        """A request has its report."""
        if "steps" not in report:
            self._unreported.inc()
            return
        for name, counter in self._counts.items():
            counter.labels(policy).inc(report[name])
        self._rates.labels(policy).observe(report["intervention_rate"])


@cache
def metrics() -> Metrics:
    """Those of this process: a registry takes each series once."""
    return Metrics()
