"""Several servers of one model: where a sequence is sent, and what happens when one is down."""

from __future__ import annotations

import logging
import random
import time
import weakref
from collections.abc import Sequence

from .errors import PassingError

logger = logging.getLogger("blendin")

FIRST_REST, LONGEST_REST = 0.5, 20.0
"""Seconds for which a server that failed is left alone, doubled at each failure in a row; for as
long as it asks, where it does."""

CROWDED, SPARE = 2, 4
"""A sequence leaves a server that has more than twice as many as another and four."""


class Replica:
    """One server.

    Attributes:
        url: up to and including /v1.
        homed: the sequences decoded there, whose prefixes the server's cache holds.
        awake_at: when it may be asked again, on the monotonic clock.
        asked_rest: whether it said so itself.
        failures: in a row.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.homed: weakref.WeakSet[object] = weakref.WeakSet()
        self.awake_at, self.failures, self.asked_rest = 0.0, 0, False

    @property
    def is_awake(self) -> bool:
        return time.monotonic() >= self.awake_at

    def failed(self, error: PassingError) -> None:
        """Leaves the server alone: for as long as it asks, or longer with every failure."""
        if self.is_awake:  # many requests fail at once where a server goes down: one failure
            self.failures += 1
            rest = min(LONGEST_REST, FIRST_REST * 2 ** (self.failures - 1))
            rest *= random.uniform(0.8, 1.2)
            self.asked_rest = error.wait is not None
            self.awake_at = time.monotonic() + (
                rest if error.wait is None else max(0.1, error.wait)
            )
            if self.failures == 1:
                logger.warning("%s: trying again", error)

    def answered(self) -> None:
        self.awake_at, self.failures = 0.0, 0


class Replicas:
    """The servers of one model."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.all = [Replica(url) for url in urls]

    def home(self, sequence: object, before: Replica | None) -> Replica | None:
        """Where a sequence is decoded: where it was, or where the fewest are.

        It moves, and is read again, where its server is down or much busier than another, as when
        that one comes back. None where no server may be asked now.
        """
        awake = [replica for replica in self.all if replica.is_awake]
        if not awake:
            return None
        home = min(awake, key=lambda replica: len(replica.homed))
        if before in awake and len(before.homed) <= CROWDED * (len(home.homed) + SPARE):
            return before
        if before is not None:
            before.homed.discard(sequence)
        home.homed.add(sequence)
        return home

    @property
    def next_awake(self) -> float:
        """Seconds until one may be asked again."""
        return max(0.0, min(replica.awake_at for replica in self.all) - time.monotonic())

    @property
    def asked_rest(self) -> float:
        """Seconds for which all of them have asked to be left alone; 0 where one has not."""
        return self.next_awake if all(replica.asked_rest for replica in self.all) else 0.0

    @property
    def urls(self) -> str:
        return ", ".join(replica.url for replica in self.all)
