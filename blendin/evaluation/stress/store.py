"""Scores that are kept as they come, a chain a line, so that an interrupted run goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...files import naming
from ...models.identity import digest
from .scorers import Scored, StepScorer, TokenTrace

logger = logging.getLogger("blendin")

FILE = "scores.jsonl"


def key_of(scorer: StepScorer, question: str, steps: Sequence[str]) -> str:
    """What a chain's scores are of: the scorer with all it depends on, and the texts."""
    return digest([dict(scorer.identity), list(scorer.names), question, list(steps)])


class ScoreStore:
    """A folder's scores by key.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._known: dict[str, Scored] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            with naming(self.path):
                lines = self.path.read_bytes().split(b"\n")
            read = [_read(line) for line in lines if line.strip()]
            self._known = dict(each for each in read if each is not None)
            if damaged := read.count(None):
                logger.warning("%s: %d damaged lines; their chains are scored again",
                               self.path, damaged)  # fmt: skip

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Scored:
        return self._known[key]

    @contextmanager
    def writing(self) -> Iterator[StoreWriter]:
        """Lets one process add scores.

        Raises:
            ValueError: another process does.
        """
        lock = FileLock(f"{self.path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"another process writes {self.path}: wait for it, or choose another --out"
            ) from None
        with lock, naming(self.path), self.path.open("ab+") as file:
            if file.seek(0, 2) and (file.seek(-1, 2), file.read())[1] != b"\n":
                file.write(b"\n")  # behind the half of a line
            yield StoreWriter(self._known, file)


class StoreWriter:
    """What `ScoreStore.writing` yields."""

    def __init__(self, known: dict[str, Scored], file: Any) -> None:
        self._known, self._file = known, file

    def add(self, key: str, scored: Scored) -> None:
        """Keeps one chain's scores, in the file before it returns."""
        self._known[key] = scored
        values = {"key": key, "scores": scored.scores, "trace": list(map(list, scored.trace))}
        if scored.error is not None:
            values["error"] = scored.error
        self._file.write(json.dumps(values).encode() + b"\n")
        self._file.flush()


def _read(line: bytes) -> tuple[str, Scored] | None:
    try:
        values: Mapping[str, Any] = json.loads(line)
        trace = [TokenTrace(*token) for token in values["trace"]]
        scores = {str(name): [float(v) for v in own] for name, own in values["scores"].items()}
        return str(values["key"]), Scored(scores, trace, values.get("error"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
