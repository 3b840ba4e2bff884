"""Which CUDA calls a second thread's reads make, in which order: without a GPU, by stand-ins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from blendin.models.streams import ReadingStream

GPU = torch.device("cuda", 1)


class Stream:
    """Notes what is done with it."""

    def __init__(self, name: str, calls: list[Any]) -> None:
        self.name, self.calls = name, calls

    def record_event(self) -> str:
        self.calls.append(("record", self.name))
        return f"event of {self.name}"

    def wait_event(self, event: str) -> None:
        self.calls.append((self.name, "waits for", event))

    def synchronize(self) -> None:
        self.calls.append(("synchronize", self.name))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    current = [Stream("asker's", found)]

    def make(device: torch.device) -> Stream:
        assert device == GPU
        found.append("made")
        return Stream("own", found)

    @contextmanager
    def within(stream: Any) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    def current_stream(device: torch.device) -> Stream:
        assert device == GPU
        return current[-1]

    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "Stream", make)
    return found


def test_a_read_begins_after_what_was_launched_and_is_over_when_it_is_told(
    calls: list[Any],
) -> None:
    stream = ReadingStream(GPU)
    for _ in range(2):
        mark = stream.mark()
        with stream.reading(mark):
            calls.append(("read in", torch.cuda.current_stream(GPU).name))  # type: ignore[attr-defined]
    once = [
        ("record", "asker's"), ("own", "waits for", "event of asker's"), ("read in", "own"),
        ("synchronize", "own"),
    ]  # fmt: skip
    assert calls == [once[0], "made", *once[1:], *once]
    calls.clear()
    with pytest.raises(MemoryError), stream.reading(stream.mark()):
        raise MemoryError
    assert calls[-1] == ("synchronize", "own")  # what was launched still writes


def test_the_memory_of_what_was_found_is_kept_for_the_asker(calls: list[Any]) -> None:
    kept = []
    found: Any = SimpleNamespace(device=GPU, record_stream=lambda stream: kept.append(stream.name))
    ReadingStream(GPU).taken(found)
    assert kept == ["asker's"]


def test_elsewhere_nothing_is_called(calls: list[Any]) -> None:
    stream = ReadingStream(torch.device("cpu"))
    assert stream.mark() is None
    with stream.reading(None):
        stream.taken(torch.ones(1))
    assert not calls
