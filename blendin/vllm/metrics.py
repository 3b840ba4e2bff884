"""Prometheus' series of what was blended, beside vLLM's own on /metrics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from ..protocol.metrics import PolicyMetrics


class Metrics(PolicyMetrics):
    """What every server counts, in prometheus_client's default registry.

    vLLM shows that one, or, where several API servers run, collects what each process has counted.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        super().__init__(registry)
        self._unreported = Counter(
            "blendin_unreported_requests",
            "Finished requests whose report could not be had.",
            registry=registry,
        )

    def finished(self, policy: str, reason: str, report: Mapping[str, Any]) -> None:
        """As ever; one whose report could not be had is counted, too."""
        super().finished(policy, reason, report)
        if "steps" not in report and reason != "gone":
            self._unreported.inc()


@cache
def metrics() -> Metrics:
    """Those of this process: a registry takes each series once."""
    return Metrics()
