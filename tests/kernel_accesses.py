"""What interpreted kernels read and write, checked: bounds, and races between programs.

ttsem (`scripts/kernels sanitize`) does this for what Triton compiles, and more, but needs another
Python, torch and 5 GB. Here every interpreted test is one of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from triton.runtime import interpreter


@contextmanager
def checked() -> Iterator[None]:
    """Within it an interpreted launch fails that leaves the tensors it was given, or in which one
    program writes what another reads or writes."""
    with pytest.MonkeyPatch.context() as patch:
        accesses = _Accesses(interpreter._interpreter)
        run = interpreter.GridExecutor.__call__

        def launch(executor: Any, *arguments: Any, **options: Any) -> Any:
            accesses.begin([each for each in arguments if hasattr(each, "data_ptr")])
            run(executor, *arguments, **options)
            accesses.end(executor.fn.__name__)

        patch.setattr(interpreter, "_interpreter", accesses)
        patch.setattr(interpreter.GridExecutor, "__call__", launch)
        yield


class _Accesses:
    """Stands for the interpreter's own loads and stores; addresses are in bytes."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.begin([])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def begin(self, tensors: list[Any]) -> None:
        """A launch that is given some tensors."""
        ends = [
            1 + sum((n - 1) * step for n, step in zip(each.shape, each.stride(), strict=True))
            for each in tensors
        ]
        begins = np.array([each.data_ptr() for each in tensors], dtype=np.uint64)
        sizes = np.array([each.element_size() for each in tensors], dtype=np.uint64)
        order = np.argsort(begins, kind="stable")
        self.begins = begins[order]
        # Of tensors that begin at one address, views of one another, the last is looked up.
        self.ends = np.maximum.accumulate((begins + np.array(ends, dtype=np.uint64) * sizes)[order])
        self.read: list[tuple[int, Any]] = []
        self.written: list[tuple[int, Any]] = []

    def load(self, pointers: Any, mask: Any, *rest: Any) -> Any:
        self.read.append(self._within(pointers, mask, "reads"))
        return self.own.load(pointers, mask, *rest)

    def store(self, pointers: Any, values: Any, mask: Any) -> Any:
        self.written.append(self._within(pointers, mask, "writes"))
        return self.own.store(pointers, values, mask)

    def _within(self, pointers: Any, mask: Any, does: str) -> tuple[int, Any]:
        """(the program, what it accesses)."""
        program: int = interpreter.interpreter_builder.grid_idx[0]
        at = pointers[mask.astype(bool)].ravel()
        nearest = np.searchsorted(self.begins, at, side="right").astype(np.int64) - 1
        if (outside := (nearest < 0) | (at >= self.ends[nearest])).any():
            raise AssertionError(f"program {program} {does} {outside.sum()} elements out of bounds")
        return program, at

    def end(self, kernel: str) -> None:
        """All programs of a launch have run."""
        at, program = _joined(self.written)
        order = np.argsort(at, kind="stable")
        at, program = at[order], program[order]
        if ((at[1:] == at[:-1]) & (program[1:] != program[:-1])).any():
            raise AssertionError(f"{kernel}: two programs write one place")
        read_at, reader = _joined(self.read)
        place = np.searchsorted(at, read_at).clip(max=len(at) - 1)
        if ((at[place] == read_at) & (program[place] != reader)).any():
            raise AssertionError(f"{kernel}: a program reads what another writes")


def _joined(accesses: list[tuple[int, Any]]) -> tuple[Any, Any]:
    """(every address, its program)."""
    at = np.concatenate([each for _, each in accesses])
    return at, np.repeat([program for program, _ in accesses], [len(each) for _, each in accesses])
