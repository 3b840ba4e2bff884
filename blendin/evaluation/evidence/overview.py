"""What a person reads first of several runs: a table with letters, and what does not compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...models.identity import difference
from ..runs.manifest import MODELS, OF_MODELS
from ..runs.results import Arm, Results
from ..statistics import Interval
from ..tasks.task import Measure, Task

OF_A_PAIR = (MODELS, "dtype", "chat_template_kwargs")
"""Of a run's configuration: what makes it another pair's; names do not, for folders are moved."""

BUDGET = (
    *("items_sha256", "items", "seed", "system", "max_new_tokens", "stop", "do_sample"),
    "scorer",
)
"""Of a run's configuration: what has to be the same wherever pairs are compared on a task."""


class Pair(NamedTuple):
    """The runs of one pair.

    Attributes:
        name: "base → guide", told apart where two would be called the same.
        runs: of its tasks.
        sweeps: those whose arms make a grid of τ and α.
    """

    name: str
    runs: tuple[Results, ...]
    sweeps: tuple[Results, ...]


class Column(NamedTuple):
    """A measure of a task: its title for a table, and which way is better."""

    title: str
    lower_is_better: bool


class Cell(NamedTuple):
    """A figure with its interval, and the letters of its arm; "" where there is nothing to tell."""

    figure: Interval
    letters: str


class Line(NamedTuple):
    """One arm of one pair.

    Attributes:
        pair, arm: their names.
        cells: one a column; None where it was not measured.
        rates: its intervention rates on the tasks, but for arms that have one by definition.
        seconds: that all its items took, on all tasks.
    """

    pair: str
    arm: str
    cells: tuple[Cell | None, ...]
    rates: tuple[float, ...]
    seconds: float


class Overview(NamedTuple):
    """The first table."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


def pairs_of(results: Sequence[Results]) -> list[Pair]:
    """Runs by the pair that they are of, in the order given."""
    groups: list[tuple[dict[str, Any], list[Results]]] = []
    for each in results:
        config = each.manifest["config"]
        keys = OF_A_PAIR if MODELS in config else (*OF_MODELS, *OF_A_PAIR)
        own = {key: config.get(key) for key in keys}
        for noted, runs in groups:
            if difference("", noted, own) is None:
                runs.append(each)
                break
        else:
            groups.append((own, [each]))
    configs = [runs[0].manifest["config"] for _, runs in groups]
    names = _told_apart([f"{short(own['base'])} → {short(own['guide'])}" for own in configs])
    return [
        Pair(
            name,
            tuple(each for each in runs if each.grid is None),
            tuple(each for each in runs if each.grid is not None),
        )
        for name, (_, runs) in zip(names, groups, strict=True)
    ]


def short(model: object) -> str:
    """A model's name, without the folders that it lies in on this machine."""
    name = str(model)
    is_path = name.startswith(("/", "~", "."))
    return (name.rstrip("/").rsplit("/", 1)[-1] if is_path else name) or name


def _told_apart(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def overview(pairs: Sequence[Pair]) -> Overview:
    """The table of all pairs, their arms and measures; sweeps stand elsewhere."""
    measured: dict[tuple[str, str], tuple[Task, Measure]] = {}
    for pair in pairs:
        for run in pair.runs:
            for measure in run.task.compared:
                measured.setdefault((run.task.title, measure.name), (run.task, measure))
    titles = _columns(list(measured.values()))
    lines = [
        _line(pair, arm, list(measured))
        for pair in pairs
        for arm in dict.fromkeys(arm.name for run in pair.runs for arm in run.arms)
    ]
    columns = [
        Column(title, measure.lower_is_better)
        for title, (_, measure) in zip(titles, measured.values(), strict=True)
    ]
    return Overview(tuple(columns), tuple(lines))


def _columns(measured: Sequence[tuple[Task, Measure]]) -> list[str]:
    """Each measure's title: a task's first words, or all where two would be called the same."""
    short = [f"{task_name(task)}: {measure.name}" for task, measure in measured]
    return [
        f"{task.title}: {measure.name}" if short.count(title) > 1 else title
        for title, (task, measure) in zip(short, measured, strict=True)
    ]


def task_name(task: Task) -> str:
    """A task's title, up to its first comma."""
    return task.title.partition(",")[0]


def _line(pair: Pair, arm: str, wanted: Sequence[tuple[str, str]]) -> Line:
    cells: dict[tuple[str, str], Cell] = {}
    rates, seconds = [], 0.0
    for run in pair.runs:
        found = next((each for each in run.arms if each.name == arm), None)
        if found is None:
            continue
        seconds += found.seconds
        if found.rate is not None and asks_now_and_then(run, found):
            rates.append(found.rate.estimate)
        for measure in run.task.compared:
            figure = found.figures.get(measure.name)
            if figure is not None:
                letters = run.letters(measure).get(arm, "")
                cells.setdefault((run.task.title, measure.name), Cell(figure, letters))
    return Line(pair.name, arm, tuple(map(cells.get, wanted)), tuple(rates), seconds)


def asks_now_and_then(run: Results, arm: Arm) -> bool:
    """Whether an arm's intervention rate is a finding: alone, it is 0 or 1 by definition."""
    return run.manifest["arms"][arm.name]["name"] not in ("BaseOnly", "GuideOnly")


def unequal_budgets(pairs: Sequence[Pair]) -> list[str]:
    """A sentence for each task on which two pairs had other items, lengths or scorers."""
    found: dict[str, str] = {}
    first: dict[str, tuple[str, dict[str, object]]] = {}
    for pair in pairs:
        for run in pair.runs:
            config = run.manifest["config"]
            own = {key: config.get(key) for key in BUDGET}
            other, noted = first.setdefault(run.task.title, (pair.name, own))
            if other != pair.name and (what := difference("", noted, own)):
                found.setdefault(
                    run.task.title,
                    f"{run.task.title}: {other} and {pair.name} had no equal budget "
                    f"({what.lstrip('.')}), so their figures do not compare.",
                )
    return list(found.values())
