"""The SHA-256 of files, which are not read again while nothing has touched them.

Gigabytes of weights take seconds to hash. A file whose size, inode, device and times are those of
the last reading has what it had then: the time of its last change (ctime) cannot be set by anybody.
Files are read again all the same once a week, for what decays on a disk touches no times.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import write_whole

SETTLED = 5.0
"""Seconds after which a further change shows in a file's times, however coarse they are."""

KEPT = 7 * 24 * 3600.0
"""Seconds that a digest is believed."""


def sha256(path: Path) -> str:
    """Of a file, read as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(paths: Sequence[Path], note: Path | None = None) -> list[str]:
    """The SHA-256 of each of some files of one folder.

    Args:
        paths: the files.
        note: where to look for those that are known, and to write them down; it is no loss where
            that cannot be written. None: all files are read.

    Raises:
        OSError: a file cannot be read.
    """
    known = {} if note is None else _read(note)
    now = time.time()
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashlib releases the GIL
        found = list(pool.map(lambda path: _entry(path, known.get(path.name), now), paths))
    noted = {
        path.name: entry
        for path, (entry, is_settled) in zip(paths, found, strict=True)
        if is_settled
    }
    if note is not None and noted != known:
        with suppress(OSError):  # a cache that is shared read-only
            write_whole(note, json.dumps(noted))
    return [entry["sha256"] for entry, _ in found]


def _entry(path: Path, known: Any, now: float) -> tuple[dict[str, Any], bool]:
    """What is noted of a file, and whether it may be believed later."""
    before = _state(path)
    if isinstance(known, dict) and known.get("state") == before:
        age, digest = now - known.get("read", 0), known.get("sha256")
        if 0 <= age < KEPT and isinstance(digest, str):
            return known, True
    digest = sha256(path)
    newest = max(before[2:4]) / 1e9
    is_settled = newest + SETTLED < now and _state(path) == before
    return {"state": before, "sha256": digest, "read": now}, is_settled


def _state(path: Path) -> list[int]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev]


def _read(note: Path) -> dict[str, Any]:
    try:
        known = json.loads(note.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
