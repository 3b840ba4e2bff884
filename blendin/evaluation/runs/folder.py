"""A run's folder: a manifest that reproduces it, and one file of records for each arm.

A record is written as soon as its item is finished, so a run that was killed continues where
it stopped; a line that was damaged since then is an item that is done again. Several processes may
share a folder (`accelerate launch`, on one host or over a shared file system): each takes its own
items and writes its own files, and nobody waits for anybody. Two that would write the same files
are kept from it.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from filelock import FileLock, Timeout

from ...files import write_whole
from ...models.identity import difference
from ..records import Record
from ..tasks.task import Item
from .items import ITEMS, Kept, remedy
from .manifest import (
    HALF,
    MANIFEST,
    MODELS,
    OF_ITEMS,
    OF_MODELS,
    machine,
    read_manifest,
    versions,
)

logger = logging.getLogger("blendin")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """Which of several processes this is.

    Attributes:
        rank: from 0.
        of: how many there are.
        local: its place on its own host, from 0.
    """

    rank: int = 0
    of: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> Self:
        """From the variables that `accelerate launch` and `torchrun` set."""

        def variable(name: str, least: int) -> int:
            return max(least, int(os.environ.get(name, least)))

        return cls(variable("RANK", 0), variable("WORLD_SIZE", 1), variable("LOCAL_RANK", 0))

    def of_items(self, items: Sequence[T]) -> list[T]:
        """This process's items: every `of`-th, finished or not."""
        return list(items[self.rank :: self.of])

    @property
    def device(self) -> str | None:
        """This process's accelerator where several processes share a host, else None."""
        accelerator = torch.accelerator.current_accelerator() if self.of > 1 else None
        return None if accelerator is None else f"{accelerator.type}:{self.local}"


class RunFolder:
    """A folder of results under one configuration.

    Attributes:
        folder: where it lies.
        shard: which process this is.
    """

    def __init__(
        self, folder: str | Path, config: Mapping[str, Any], shard: Shard | None = None
    ) -> None:
        """Opens a run or starts a new one.

        Args:
            folder: created if missing, where models are known.
            config: everything that the results depend on, as JSON: data, models, lengths, seeds.
                Where `MODELS` is None in it, before they are loaded, it is compared but for
                them. Arms are added by `add_arm`, items by `take_items`.
            shard: which process this is; None for the only one.

        Raises:
            ValueError: the folder has another configuration's results, which names the first
                difference, or results and no manifest.
        """
        self.folder, self.shard = Path(folder), shard or Shard()
        self._own = json.loads(json.dumps(config))
        self._manifest: dict[str, Any] = {"config": dict(self._own), "arms": {}, "sessions": []}
        self._kept: Kept | None = None
        self._take_noted()
        if self._own.get(MODELS, True):
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Its `config`, its `arms` by name, and its `sessions`: when, with what, on what."""
        return self._manifest

    def add_arm(self, name: str, settings: Mapping[str, Any]) -> None:
        """Records an arm's settings, or checks them against those on record.

        Raises:
            ValueError: the folder holds this arm's results under other settings.
        """
        own = json.loads(json.dumps(settings))
        noted = self._manifest["arms"].setdefault(name, own)
        self._refuse_other(f"arms.{name}", noted, own)

    def take_items(self, items: Sequence[Item]) -> None:
        """Takes the items of this session, checked against those that the folder has.

        One of the two has to be among the other: a larger limit goes on where a smaller one was.

        Raises:
            ValueError: they differ in a prompt, a text or a fact that scores depend on.
        """
        own, noted = Kept.of(items), Kept.read(self.folder)
        if noted is not None:
            own.refuse_other(noted, self.folder)
        self._kept = own if noted is None or len(own.entries) > len(noted.entries) else noted
        if self._kept is own:
            grown = {name: self._own[name] for name in OF_ITEMS if name in self._own}
            self._manifest["config"] |= grown

    @property
    def items(self) -> int | None:
        """How many items it has, of this session and earlier ones; None before `take_items`."""
        return None if self._kept is None else len(self._kept.entries)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other processes of the same rank from writing into it.

        Raises:
            ValueError: one of them is writing.
        """
        lock = FileLock(self.folder / f".rank-{self.shard.rank:03}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ValueError(
                f"another process is writing into {self.folder} as number {self.shard.rank} of "
                f"{self.shard.of}: wait until it has ended, or choose another folder (--out)"
            ) from None
        except (NotImplementedError, OSError) as error:
            if getattr(error, "errno", errno.ENOLCK) not in (errno.ENOLCK, errno.ENOTSUP):
                raise
            logger.warning(
                "%s lies on a file system without locks: see to it that no other process runs "
                "the same command",
                self.folder,
            )
        try:
            yield
        finally:
            lock.release()

    def begin(self, **facts: Any) -> None:
        """Writes the manifest with a new session: these facts, the versions and the machine.

        Raises:
            ValueError: another process has begun a run under other settings meanwhile.
        """
        self._take_noted()
        sessions = [each for each in self._manifest["sessions"] if isinstance(each, dict)]
        before = next((each["prompts"] for each in sessions if "prompts" in each), None)
        if before is not None and before != facts.get("prompts", before):
            logger.warning(
                "the guide's chat template writes other text than when the run in %s began, a date "
                "or a time for example: what is left is asked with it (--chat-template-kwargs may "
                "fix it)",
                self.folder,
            )
        session = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": versions(),
            "machine": machine(),
            "processes": self.shard.of,
            **facts,
        }
        grown = self._kept is not None and self._kept.write(self.folder)
        if self.shard.rank == 0 or not self._manifest["sessions"] or grown:
            self._manifest["sessions"].append(session)
            self._write_manifest()

    def records(self, arm: str) -> dict[str, Record]:
        """An arm's finished records from all processes, by item; the first of duplicates.

        Lines that are no records are left out with a warning.
        """
        found: dict[str, Record] = {}
        for path in self._files(arm):
            damaged: list[int] = []
            for record in _read(path, damaged):
                found.setdefault(record.id, record)
            if damaged:
                logger.warning(
                    "%s is damaged in line %s: what it held counts as not done, and the same "
                    "command does it again",
                    path,
                    ", ".join(map(str, damaged)),
                )
        return found

    def tokens_per_second(self, arm: str) -> float:
        """Tokens that all processes wrote or scored, over the time of the slowest of them."""
        tokens = sum(record.tokens for path in self._files(arm) for record in _read(path, []))
        seconds = self.seconds(arm)
        return tokens / seconds if seconds else math.nan

    def seconds(self, arm: str) -> float:
        """How long an arm took in the slowest of its processes; what was done twice counts too."""
        return max(
            (sum(record.elapsed for record in _read(path, [])) for path in self._files(arm)),
            default=0.0,
        )

    def rescore(
        self, scorer: str, items: Sequence[Item], score: Callable[[Record], Record]
    ) -> None:
        """Replaces all records by those that `score` makes of them.

        The scorer and the items, whose facts may have been corrected, are noted; `HALF` stands for
        the scorer as long as it is at it. Lines that are no records are left out with a warning, as
        `records` does.
        """
        config = self._manifest["config"]
        config["scorer"] = HALF
        self._write_manifest()
        for arm in self._manifest["arms"]:
            self.records(arm)
            for path in self._files(arm):
                lines = [score(record).to_json() + "\n" for record in _read(path, [])]
                write_whole(path, "".join(lines))
        kept = Kept.of(items)
        kept.write(self.folder)
        config |= {"scorer": scorer, "facts_sha256": kept.facts}
        self._write_manifest()

    @contextmanager
    def writer(self, arm: str) -> Iterator[Callable[[Record], None]]:
        """A function that adds a record to this process's file, whole or not at all.

        It raises an OSError, with what to do, where the disk is full or the folder is gone.
        """
        path = self.folder / f"{arm}.{self.shard.rank:03}.jsonl"
        _drop_half_a_line(path)
        with path.open("ab", buffering=0) as file:

            def write(record: Record) -> None:
                line = f"{record.to_json()}\n".encode()
                try:
                    if file.write(line) != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError as error:
                    reason = (
                        f"{error.strerror}; what is finished is kept, so make room and give the "
                        "same command again"
                    )
                    raise OSError(error.errno, reason, str(path)) from error

            yield write

    def _files(self, arm: str) -> list[Path]:
        return sorted(self.folder.glob(f"{arm}.[0-9][0-9][0-9].jsonl"))

    def _write_manifest(self) -> None:
        write_whole(self.folder / MANIFEST, json.dumps(self._manifest, indent=2) + "\n")

    def _take_noted(self) -> None:
        """Takes over what other sessions have noted in the manifest, checked against our own."""
        if not (self.folder / MANIFEST).exists():
            if found := next(self.folder.glob("*.[0-9][0-9][0-9].jsonl"), None):
                raise ValueError(
                    f"{self.folder} has results ({found.name}) and no {MANIFEST}, so that nobody "
                    "knows what they are of: restore it, or choose another folder (--out)"
                )
            return
        own, noted = self._manifest, read_manifest(self.folder)
        self._check_config(noted["config"])
        for name, settings in own["arms"].items():
            self._refuse_other(f"arms.{name}", noted["arms"].setdefault(name, settings), settings)
        self._manifest = noted
        if self._kept is not None:
            self.take_items(self._kept.items)

    def _check_config(self, noted: dict[str, Any]) -> None:
        left_out = {"scorer", *(OF_ITEMS if (self.folder / ITEMS).exists() else ())}
        if MODELS in self._own:
            if MODELS not in noted:
                raise ValueError(
                    f"{self.folder} has results of a version of blendin that did not note what "
                    "tells models of one name apart: `blendin report` still shows them; to go on, "
                    "choose another folder (--out)"
                )
            # Known, they tell more than names do.
            left_out |= {"base", "guide"} if self._own[MODELS] else {*OF_MODELS, MODELS}
        there, here = (
            {name: value for name, value in config.items() if name not in left_out}
            for config in (noted, self._own)
        )
        self._refuse_other("config", there, here)
        scorers = (config.get("scorer", "1") for config in (noted, self._own))
        if found := difference("config.scorer", *scorers):
            raise ValueError(f"{self.folder} was scored otherwise ({found}): {remedy(self.folder)}")

    def _refuse_other(self, name: str, noted: Any, own: Any) -> None:
        found = difference(name, noted, own)
        if found is None:
            return
        if changed := re.match(rf"config\.{MODELS}\.(\w+)\.(\w+)", found):
            found = f"the {changed[1]} is another model, by its {changed[2]}: {found}"
        raise ValueError(
            f"{self.folder} has results of another run ({found}): continue with its "
            "settings or choose another folder (--out)"
        )


def _read(path: Path, damaged: list[int]) -> Iterator[Record]:
    """The records in a file; the numbers, from 1, of lines that are none go into a list."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):  # its writer was killed or is still writing
                return
            try:
                record = Record.from_json(line.decode())
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                damaged.append(number)
            else:
                yield record


def _drop_half_a_line(path: Path) -> None:
    """Cuts off what a killed process left of its last line."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
