"""A disk that fails at the n-th thing that is done to it, for whatever writes through `Path`."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FAULTS = ("killed", "full", "read-only")
"""SIGKILL in the middle, a disk that is full, one that has become read-only."""


class Disk:
    """Counts what is done to the files below a folder, and fails once.

    Attributes:
        done: the operations so far.
    """

    def __init__(self, folder: Path, at: int, fault: str) -> None:
        self.folder, self.at, self.fault = folder, at, fault
        self.done: list[str] = []

    def does(self, what: str, path: Any, begin: Callable[[], object] = lambda: None) -> None:
        """One more operation; `begin` does the half of it that is done when the fault comes."""
        if not Path(str(path)).is_relative_to(self.folder) or path == self.folder:
            return
        self.done.append(f"{what} {Path(str(path)).name}")
        if len(self.done) - 1 != self.at:
            return
        if self.fault == "killed":
            begin()
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.ENOSPC if self.fault == "full" else errno.EROFS
        if self.fault == "full":
            begin()
        raise OSError(number, os.strerror(number), str(path))


class _File:
    """A file that writes through a disk."""

    def __init__(self, file: Any, path: Path, disk: Disk) -> None:
        self._file, self._path, self._disk = file, path, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._disk.does("write", self._path, half)
        return int(self._file.write(data))


@contextmanager
def faulty(disk: Disk) -> Iterator[None]:
    """Has everything written through the disk: opening, writing, renaming, truncating, syncing."""
    open_, replace, rename, mkdir = Path.open, Path.replace, Path.rename, Path.mkdir
    truncate, copyfile = os.truncate, shutil.copyfile
    with pytest.MonkeyPatch.context() as patch:

        def opening(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode.strip("bt") == "r":
                return open_(self, mode, *args, **kwargs)
            disk.does("open", self)
            return _File(open_(self, mode, *args, **kwargs), self, disk)

        def writing(self: Path, text: str, *args: Any, **kwargs: Any) -> int:
            with opening(self, "w", encoding="utf-8") as file:
                return int(file.write(text))

        def checked(what: str, function: Any) -> Any:
            def operation(path: Any, *args: Any, **kwargs: Any) -> Any:
                disk.does(what, path)
                return function(path, *args, **kwargs)

            return operation

        patch.setattr(Path, "open", opening)
        patch.setattr(Path, "write_text", writing)
        patch.setattr(Path, "replace", checked("replace", replace))
        patch.setattr(Path, "rename", checked("rename", rename))
        patch.setattr(Path, "mkdir", checked("mkdir", mkdir))
        patch.setattr(os, "truncate", checked("truncate", truncate))
        patch.setattr(shutil, "copyfile", lambda a, b: (disk.does("copy", b), copyfile(a, b))[1])
        yield


def in_a_child(work: Callable[[], object]) -> int:
    """Does some work in a process of its own, and gives its exit status, -9 where it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
