"""What a child of `os.fork` lacks: its parent's other threads, and the locks that they held.

Only the thread that forks is in the child. A lock that another one held at that moment is never
released there, and whoever waits for it waits for ever. So locks are made anew in a child, and
torch computes with one thread.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from types import TracebackType
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm
from tqdm.std import TqdmDefaultWriteLock

T = TypeVar("T")

logger = logging.getLogger("blendin")

_generation = _settled = 0


def generation() -> int:
    """How many forks lie between this process and the first of its line.

    A process id is no name for a process of the line: it is given again once its owner has ended.
    """
    return _generation


class Lock:
    """A re-entrant lock of one process's threads; a child of `fork` has it free."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def acquire(self, timeout: float = -1) -> bool:
        """Waits for it, for some seconds at most where `timeout` is not negative."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Makes it free, in a child."""
        self._lock = threading.RLock()


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


class cached_property(functools.cached_property[T]):
    """functools', without the lock around the computation that Python 3.11's has.

    One lock serves all instances, and torch lets other threads run, and fork, while it is held.
    """

    def __init__(self, func: Callable[[Any], T]) -> None:
        super().__init__(func)
        self.lock = nullcontext()


def settle() -> None:
    """Lets torch compute with one thread in a child, once: OpenMP waits for the parent's others."""
    global _settled
    if _settled != _generation:
        _settled = _generation
        if (threads := torch.get_num_threads()) > 1:
            torch.set_num_threads(1)
            logger.warning(
                "this process was forked: torch computes with 1 thread in it, not %d, for OpenMP's "
                "others are in the parent alone; start processes by spawn to have them all",
                threads,
            )


def _in_child() -> None:
    global _generation
    _generation += 1
    for lock in list(_locks):
        lock.renew()
    _renew_lock_of_bars()


def _renew_lock_of_bars() -> None:
    """tqdm's own, which every bar takes, hidden ones too; one that a caller has set is left."""
    if TqdmDefaultWriteLock.th_lock is not None:
        TqdmDefaultWriteLock.th_lock = threading.RLock()
        for kind in tqdm.__mro__:
            if isinstance(vars(kind).get("_lock"), TqdmDefaultWriteLock):
                kind.set_lock(TqdmDefaultWriteLock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
