"""A file is hashed anew whenever anything has touched it, and otherwise once a week."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from blendin.models import digests as module
from blendin.models.digests import KEPT, SETTLED, digests


class Clock:
    """Seconds from now on; hours pass at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import time

        self.ahead = 0.0
        self.time = time.time
        monkeypatch.setattr(module, "time", self.__class__.Module(self))

    class Module:
        def __init__(self, clock: Clock) -> None:
            self.time = lambda: clock.time() + clock.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    whole = module.sha256
    monkeypatch.setattr(module, "sha256", lambda path: (names.append(path.name), whole(path))[1])
    return names


def made(folder: Path) -> list[Path]:
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode() * 1000)
    return [folder / "a", folder / "b"]


def expected(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def flip(path: Path) -> None:
    """Another byte in its place, and the old time of writing again."""
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(b"!")
    while True:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        if os.stat(path).st_ctime_ns != stat.st_ctime_ns:  # a clock ticks in milliseconds
            break


def exchange(path: Path) -> None:
    """Another file of its size and times."""
    other = path.with_suffix(".new")
    other.write_bytes(b"!" * path.stat().st_size)
    shutil.copystat(path, other)
    other.replace(path)


def test_files_that_nothing_touched_are_read_once(
    tmp_path: Path, clock: Clock, read: list[str]
) -> None:
    paths, note = made(tmp_path), tmp_path / "note"
    clock.ahead = SETTLED + 1
    for _ in range(3):
        assert digests(paths, note) == expected(paths)
    assert sorted(read) == ["a", "b"]
    clock.ahead += KEPT
    assert digests(paths, note) == expected(paths) and len(read) == 4
    clock.ahead = 0  # a clock that was put back
    assert digests(paths, note) == expected(paths) and len(read) == 6


@pytest.mark.parametrize("change", [flip, exchange])
def test_a_file_that_something_touched_is_read_again(
    change: Callable[[Path], None], tmp_path: Path, clock: Clock, read: list[str]
) -> None:
    paths, note = made(tmp_path), tmp_path / "note"
    clock.ahead = SETTLED + 1
    before = digests(paths, note)
    change(paths[0])
    after = digests(paths, note)
    assert after == expected(paths) and after[0] != before[0] and sorted(read) == ["a", "a", "b"]


def test_a_file_that_may_still_change_within_its_times_grain_is_not_believed(
    tmp_path: Path, clock: Clock, read: list[str]
) -> None:
    paths, note = made(tmp_path), tmp_path / "note"
    clock.time = lambda: paths[0].stat().st_ctime + SETTLED / 2  # however long it takes
    for _ in range(2):
        assert digests(paths, note) == expected(paths)
    assert sorted(read) == ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 1}', '{"a": {"state": null}}', "[" * 100_000]
)
def test_a_note_that_is_none_costs_a_reading(
    text: str, tmp_path: Path, clock: Clock, read: list[str]
) -> None:
    paths, note = made(tmp_path), tmp_path / "note"
    note.write_text(text)
    clock.ahead = SETTLED + 1
    assert digests(paths, note) == expected(paths) and len(read) == 2


def test_where_no_note_can_be_written_all_is_read_each_time(
    tmp_path: Path, clock: Clock, read: list[str]
) -> None:
    paths = made(tmp_path)
    clock.ahead = SETTLED + 1
    for note in (None, tmp_path / "nowhere" / "note"):
        assert digests(paths, note) == expected(paths)
    assert len(read) == 4
