"""The items of a run, kept beside its manifest: what was asked, and what scores compare with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ...files import write_whole
from ..records import plain
from ..tasks.task import Item, digest_of

ITEMS = "items.json"
EVERY = ("prompt", "texts")


def remedy(folder: Path) -> str:
    """What to do where a folder's answers are to be scored otherwise."""
    return (
        f"`blendin report {folder} --rescore` scores the stored answers anew (with --data, by the "
        "facts of that data); or choose another folder (--out)"
    )


@dataclass(frozen=True)
class Kept:
    """Items as JSON.

    Attributes:
        entries: by id: "prompt", "texts" and "facts" of each, in the data set's order.
    """

    entries: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, items: Iterable[Item]) -> Self:
        """Of a task's items."""
        return cls(
            {
                item.id: {
                    "prompt": item.prompt,
                    "texts": list(item.texts),
                    "facts": plain(item.facts),
                }
                for item in items
            }
        )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Those in a run's folder; None where it has none, as of earlier versions.

        Raises:
            ValueError: they are damaged.
            OSError: they cannot be read.
        """
        path = folder / ITEMS
        if not path.is_file():
            return None
        try:
            entries = json.loads(path.read_bytes())
            found = {
                str(id): {name: entry[name] for name in (*EVERY, "facts")}
                for id, entry in entries.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(
                f"{path} is damaged: delete it, and name the data (--data) with which the same "
                "command writes it again"
            ) from None
        return cls(found)

    def write(self, folder: Path) -> bool:
        """Writes them, unless they are there; whether they were not."""
        if self == Kept.read(folder):
            return False
        write_whole(folder / ITEMS, json.dumps(self.entries, indent=0) + "\n")
        return True

    def refuse_other(self, noted: Kept, folder: Path) -> None:
        """Checks that these and others are of one data set, the fewer among the more.

        Raises:
            ValueError: they are not, naming an item.
        """
        common = self.entries.keys() & noted.entries.keys()
        if len(common) < min(len(self.entries), len(noted.entries)):
            odd = next(id for id in self.entries if id not in noted.entries)
            raise ValueError(
                f"{folder} has results of another run: item {odd} is not among its items, nor all "
                "of its items among these; the data has another number of rows, or another order. "
                "Continue with its data or choose another folder (--out)"
            )
        for id in self.entries:
            for name in EVERY:
                if id in common and self.entries[id][name] != noted.entries[id][name]:
                    raise ValueError(
                        f"{folder} has results of another edition of the data: item {id} has "
                        f"another {name.removesuffix('s')} there. Continue with its data or choose "
                        "another folder (--out)"
                    )
        if changed := self.corrected(noted):
            raise ValueError(
                f"{folder} was scored by other facts (references, choices or labels) of "
                f"{len(changed)} items, the first of them item {changed[0]}: {remedy(folder)}"
            )

    def corrected(self, noted: Kept) -> list[str]:
        """The items that others have with other facts."""
        return [
            id
            for id, entry in self.entries.items()
            if id in noted.entries and noted.entries[id]["facts"] != entry["facts"]
        ]

    @cached_property
    def items(self) -> Sequence[Item]:
        """As items whose facts are JSON."""
        return [
            Item(id, entry["prompt"], entry["facts"], tuple(entry["texts"]))
            for id, entry in self.entries.items()
        ]

    @property
    def facts(self) -> str:
        """A digest of what scores compare with."""
        return digest_of([[id, entry["facts"]] for id, entry in self.entries.items()])
