"""What a run shows: scores with intervals, and what may be concluded about any two arms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from .. import tables
from ..comparison import SIGNIFICANCE, Comparison, Finding, conclusion, findings
from ..letters import compact_letters
from ..records import Record
from ..statistics import Interval, pooled_rate
from ..tasks.task import Item, Measure, Task
from ..tasks.thoughts import is_unfinished
from .folder import RunFolder
from .grid import Grid, grid_of

AGAINST = {
    "blend": ("base", "guide", "nudge"),
    "blend-fixed": ("blend",),
    "nudge": ("base",),
    "cap": ("blend",),
}
"""The comparisons of interest: each arm with those that it has to beat."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One policy's results.

    Attributes:
        name: of the arm.
        n: items scored.
        failed: items that could not be scored.
        figures: the task's rates and means.
        rate: interventions over tokens, all items together; None where no item has a token.
        without: items that have none, and count in no rate.
        finished: the share of answers that ended by themselves, neither cut off at the limit nor
            failed; None where given texts were scored.
        unfinished: how many answers were cut off at the limit or end within a thought; None
            where given texts were scored.
        length: tokens per answer, or per item, on average.
        tokens_per_second: written or scored.
        seconds: that all its items took together, on the clock.
    """

    name: str
    n: int
    failed: int
    figures: dict[str, Interval]
    rate: Interval | None
    without: int
    finished: float | None
    unfinished: int | None
    length: float
    tokens_per_second: float
    seconds: float


class Results:
    """The arms of one task's run.

    Attributes:
        task: the task.
        arms: those that have a scored item, in the manifest's order.
        manifest: the run's.
        missing: how many items are not done yet, by arm.
        notes: what else is to be known of the run.
    """

    def __init__(self, task: Task, run: RunFolder, notes: Sequence[str] = ()) -> None:
        """Reads the results so far; arms may be unfinished."""
        self.task, self.manifest, self.notes = task, run.manifest, tuple(notes)
        self.missing: dict[str, int] = {}
        self._items = {item.id: item for item in task.items}
        self._records: dict[str, dict[str, Record]] = {}
        self.arms: list[Arm] = []
        for name in run.manifest["arms"]:
            records = {id: record for id, record in run.records(name).items() if id in self._items}
            if len(records) < len(self._items):
                self.missing[name] = len(self._items) - len(records)
            if any(record.error is None for record in records.values()):
                self._records[name] = records
                self.arms.append(
                    self._arm(name, records, run.tokens_per_second(name), run.seconds(name))
                )

    def _arm(
        self, name: str, records: dict[str, Record], tokens_per_second: float, seconds: float
    ) -> Arm:
        scored = self._scored(name)
        made = [record for _, record in scored]
        tokens = [record.tokens for record in made]
        return Arm(
            name,
            n=len(scored),
            failed=len(records) - len(scored),
            figures=self.task.figures(scored),
            rate=pooled_rate([r.interventions for r in made], tokens) if any(tokens) else None,
            without=tokens.count(0),
            finished=sum(r.stop_reason in ("end", "stop") for r in made) / len(made)
            if self.task.writes
            else None,
            unfinished=sum(r.stop_reason == "length" or is_unfinished(r.text) for r in made)
            if self.task.writes
            else None,
            length=sum(tokens) / len(made),
            tokens_per_second=tokens_per_second,
            seconds=seconds,
        )

    def _scored(self, name: str) -> list[tuple[Item, Record]]:
        """The items of an arm that have a score, in the data set's order."""
        records = self._records[name]
        return [
            (item, records[item.id])
            for item in self.task.items
            if item.id in records and records[item.id].error is None
        ]

    def scores(self, measure: Measure, *names: str) -> list[list[float]]:
        """A measure under each of some arms, on the items that all of them have."""
        columns = [
            {item.id: r.metrics[measure.key] for item, r in self._scored(n) if measure.of(item)}
            for n in names
        ]
        common = [id for id in self._items if all(id in column for column in columns)]
        return [[column[id] for id in common] for column in columns]

    @cached_property
    def conclusions(self) -> tuple[str, ...]:
        """A sentence for each comparison of `AGAINST` that the arms at hand allow."""
        wanted = self._pairs()
        return tuple(
            f"{measure.title}: {conclusion(found)}"
            for measure, found in self._findings
            if (found.comparison.name_a, found.comparison.name_b) in wanted
        )

    def letters(self, measure: Measure) -> dict[str, str]:
        """Letters by arm: two arms that share one are not told apart; the best has an "a".

        None of a sweep, whose arms are compared with one of them alone.
        """
        if self.grid is not None:
            return {}
        means = {arm.name: self.scores(measure, arm.name)[0] for arm in self.arms}
        best = sorted(
            (name for name, column in means.items() if column),
            key=lambda name: sum(means[name]) / len(means[name]),
            reverse=not measure.lower_is_better,
        )
        return dict(zip(best, compact_letters(best, self.told(measure)), strict=True))

    def told(self, measure: Measure) -> set[frozenset[str]]:
        """The arms that are told apart by a measure, two and two."""
        return {
            frozenset((found.comparison.name_a, found.comparison.name_b))
            for of, found in self._findings
            if of is measure and found.is_told
        }

    @cached_property
    def grid(self) -> Grid | None:
        """The sweep that its arms make; None where they are other arms."""
        return grid_of({arm.name: self.manifest["arms"][arm.name] for arm in self.arms})

    @cached_property
    def _findings(self) -> list[tuple[Measure, Finding]]:
        """By measure; all read together, so that letters and sentences agree. Those with fewer than
        two items in common are left to `caution`.
        """
        made = [
            (measure, Comparison(name, ours, other, theirs))
            for name, other in self._all_pairs()
            for measure in self.task.compared
            for ours, theirs in [self.scores(measure, name, other)]
            if len(ours) > 1
        ]
        found = findings([comparison for _, comparison in made])
        return [(measure, each) for (measure, _), each in zip(made, found, strict=True)]

    def _all_pairs(self) -> list[tuple[str, str]]:
        """All arms two and two, those of `AGAINST` first; of a sweep, each with its reference."""
        if self.grid is not None:
            return self.grid.pairs
        wanted = self._pairs()
        others = [
            pair
            for pair in combinations([arm.name for arm in self.arms], 2)
            if pair not in wanted and pair[::-1] not in wanted
        ]
        return wanted + others

    def _pairs(self) -> list[tuple[str, str]]:
        have = [arm.name for arm in self.arms]
        return [(name, other) for name in have for other in AGAINST.get(name, ()) if other in have]

    @property
    def unfinished(self) -> str | None:
        """A sentence on the items that are not done yet; None where all are."""
        if not self.missing:
            return None
        told = ", ".join(
            f"{count} of {len(self._items)} under {arm}" for arm, count in self.missing.items()
        )
        return f"Not done yet: {told}; the command that began the run goes on with them."

    def caution(self) -> str:
        """How far the comparisons together can be trusted, and what the run leaves open."""
        text = ""
        if count := len(self._findings):
            told = f"told apart by chance in at most {SIGNIFICANCE:g} of such runs"
            text = (
                f"1 comparison: arms that score alike would be {told}. "
                if count == 1
                else f"{count} comparisons, their p corrected together (Holm): any arms that score "
                f"alike would be {told}; each interval is for its comparison alone. "
            )
        compared = {(f.comparison.name_a, f.comparison.name_b) for _, f in self._findings}
        few = [f"{a} and {b}" for a, b in self._pairs() if (a, b) not in compared]
        if self.task.compared and few:
            text += f"Not compared, with fewer than 2 items in common: {', '.join(few)}. "
        text += (
            "Figures of a subset are of that subset; the interval says what they may be on more "
            "such items."
        )
        if none := [f"{arm.without} of {arm.n} under {arm.name}" for arm in self.arms
                    if arm.without]:  # fmt: skip
            text += f" Items without a token, which count in no rate: {', '.join(none)}."
        limit = self.manifest["config"]["max_new_tokens"]
        if cut := [f"{arm.unfinished} of {arm.n} under {arm.name}" for arm in self.arms
                   if arm.unfinished]:  # fmt: skip
            text += (
                f" Answers that are unfinished, cut off at {limit} tokens or within a thought: "
                f"{', '.join(cut)}. Scores are of what they hold; --max-new-tokens gives more room."
            )
        return f"{text} {self.task.note}".rstrip()

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, the same for every rendering."""
        names = list(dict.fromkeys(name for arm in self.arms for name in arm.figures))
        writes = self.task.writes
        header = [
            "arm",
            *names,
            *["unfinished"] * writes,
            "intervention rate",
            "tok/s",
            "time",
            "tokens",
        ]
        header += ["ended"] if writes else []
        failed = any(arm.failed for arm in self.arms)
        header += ["failed"] if failed else []
        rows = []
        for arm in self.arms:
            alone = self.manifest["arms"][arm.name]["name"] in ("BaseOnly", "GuideOnly")
            rate = "–"
            if arm.rate is not None:  # alone, it is 0 or 1 by definition
                rate = f"{arm.rate.estimate:.3f}" if alone else f"{arm.rate:.3f}"
            row = [arm.name, *(f"{arm.figures[name]:z.3f}" for name in names)]
            row += [f"{arm.unfinished} of {arm.n}"] * writes
            row += [rate, f"{arm.tokens_per_second:.1f}", duration(arm.seconds)]
            row += [f"{arm.length:.0f}"]
            row += [f"{arm.finished:.0%}"] if writes else []
            row += [str(arm.failed)] if failed else []
            rows.append(row)
        return header, rows

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        letters = {measure.name: self.letters(measure) for measure in self.task.compared}
        return {
            "task": self.task.name,
            "title": self.task.title,
            "arms": [
                {
                    "arm": arm.name,
                    "n": arm.n,
                    "failed": arm.failed,
                    "figures": {name: figure._asdict() for name, figure in arm.figures.items()},
                    "intervention_rate": None if arm.rate is None else arm.rate._asdict(),
                    "finished": arm.finished,
                    "unfinished": arm.unfinished,
                    "tokens_per_item": arm.length,
                    "tokens_per_second": _number(arm.tokens_per_second),
                    "seconds": arm.seconds,
                    "letters": {
                        name: told[arm.name] for name, told in letters.items() if arm.name in told
                    },
                }
                for arm in self.arms
            ],
            "conclusions": list(self.conclusions),
            "caution": self.caution(),
            "manifest": self.manifest,
        }

    def answers(self, count: int) -> Iterator[tuple[Item, dict[str, str]]]:
        """The first items that every arm has answered, with the answers by arm."""
        texts = {
            name: {item.id: record.text for item, record in self._scored(name)}
            for name in self._records
        }
        common = [item for item in self.task.items if all(item.id in of for of in texts.values())]
        for item in common[:count]:
            yield item, {name: of[item.id] for name, of in texts.items()}

    def write_completions(self, folder: Path) -> None:
        """Each arm's answers as a CSV file that `blendin score xstest` reads."""
        for name in self._records:
            rows = [
                {
                    "id": item.id,
                    "type": getattr(item.facts, "type", ""),
                    "prompt": item.prompt,
                    "completion": record.text,
                }
                for item, record in self._scored(name)
            ]
            tables.write(folder / f"completions-{name}.csv", rows)


def markdown(table: tuple[Sequence[str], Sequence[Sequence[str]]]) -> str:
    """A table in Markdown."""
    header, rows = table
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def duration(seconds: float) -> str:
    """A time in words, as closely as one needs it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
