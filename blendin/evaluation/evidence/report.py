"""The report of several runs: what opens it, its figures, and what folds away below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

from ..diagnosis.paradox import PairResult
from ..runs.manifest import OF_MODELS
from ..runs.reading import notes
from ..runs.results import Results, duration
from . import grid_figure, rate_figure, score_figure
from .overview import Line, Overview, Pair, overview, pairs_of, short, task_name, unequal_budgets
from .panels import Picture

FLOOR = 0.1


@dataclass(frozen=True)
class Report:
    """Of some runs.

    Attributes:
        results: of each run, in any order; those of one pair are put together.
        paper: other pairs' intervention rates and scores, drawn beside ours.
        left_out: pairs that could not be run, and why.
    """

    results: Sequence[Results]
    paper: Sequence[PairResult] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def pairs(self) -> list[Pair]:
        return pairs_of(self.results)

    @cached_property
    def overview(self) -> Overview:
        return overview(self.pairs)

    @cached_property
    def opening(self) -> Picture | None:
        """The figure that opens the page; None where nothing is scored."""
        found = self.overview
        return score_figure.scores(found) if found.columns and found.lines else None

    @cached_property
    def rates(self) -> Picture | None:
        return rate_figure.rates(self.pairs, self.paper)

    @cached_property
    def grids(self) -> list[Picture]:
        return grid_figure.grids(self.pairs)

    @property
    def pictures(self) -> list[Picture]:
        """All of them."""
        return [each for each in (self.opening, self.rates, *self.grids) if each is not None]

    def table(self) -> tuple[list[str], list[tuple[Line, list[tuple[str, bool]]]]]:
        """The table that opens the page: its header, and each arm's cells.

        A cell is its text and whether it stands out: its arm is the best or not told apart from it,
        where any arm of its pair is.
        """
        found = self.overview
        header = [
            f"{column.title} {'↓' if column.lower_is_better else '↑'}" for column in found.columns
        ]
        rows = []
        for _, group in groupby(found.lines, key=lambda line: line.pair):
            lines = list(group)
            for line in lines:
                cells = []
                for place, cell in enumerate(line.cells):
                    beside = [each.cells[place] for each in lines]
                    is_told = any(each and "a" not in each.letters for each in beside)
                    text = "–" if cell is None else f"{cell.figure.estimate:z.2f} {cell.letters}"
                    best = cell is not None and "a" in cell.letters
                    cells.append((text.rstrip(), is_told and best))
                cells += [(_asked(line), False), (duration(line.seconds), False)]
                rows.append((line, cells))
        return [*header, "guide asked", "time"], rows

    @property
    def warnings(self) -> list[str]:
        """What limits the comparisons on the page's first screen."""
        found = unequal_budgets(self.pairs)
        found += [f"{name} was left out: {reason}" for name, reason in self.left_out.items()]
        unfinished = dict.fromkeys(task_name(each.task) for each in self.results if each.missing)
        if unfinished:
            found.append(f"Not all items are done yet ({', '.join(unfinished)}): see Runs below.")
        return found

    def facts(self) -> list[str]:
        """How the runs were made: models, machines, and each task's equal budget."""
        lines = []
        for pair in self.pairs:
            config = (*pair.runs, *pair.sweeps)[0].manifest["config"]
            base, guide, dtype = (config[name] for name in OF_MODELS)
            lines.append(
                f"Base {short(base)} ({dtype[0]}), guide {short(guide)} ({dtype[1]}), greedy "
                "decoding."
            )
        return [*lines, *dict.fromkeys(map(ran_on, self.results))]

    def budgets(self) -> list[str]:
        """What every arm of a run had alike."""
        return list(dict.fromkeys(budget(each) for each in self.results))


def budget(results: Results) -> str:
    """One run's items and lengths, in words."""
    config = results.manifest["config"]
    drawn = f", drawn with seed {config['seed']}" if config["limit"] else " (all)"
    limit = f", at most {config['max_new_tokens']} new tokens" if results.task.writes else ""
    scorer = f", scorer {config.get('scorer', '1')}"
    return (
        f"{results.task.title}{_of_a_sweep(results)}: {config['items']} items{drawn}{limit}{scorer}"
    )


def ran_on(results: Results) -> str:
    """When, on what and with which versions a run was last gone on with."""
    session = results.manifest["sessions"][-1]
    versions = ", ".join(f"{name} {number}" for name, number in session["versions"].items())
    machine = session["machine"]
    gpus = f", {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    return f"{session['started'][:10]}, {machine['cpus']} CPUs{gpus}, {versions}."


def sentences(results: Results) -> list[str]:
    """Everything that may be said of a run: what is told apart, what is not, and what limits it."""
    return [*results.conclusions, results.caution(), *notes(results), *_floor(results)]


def settings(results: Results) -> list[str]:
    """Each arm's settings: its name, and they in words."""

    def listed(own: Mapping[str, object]) -> str:
        parts = []
        for key, value in own.items():
            if isinstance(value, Mapping):
                parts.append(listed(value))
            elif key != "name" and value is not None:
                parts.append(f"{key} {value}")
        return ", ".join(parts)

    return [
        f"{name}: {listed(own)}" for name, own in results.manifest["arms"].items() if listed(own)
    ]


def title(pair: Pair, results: Results) -> str:
    """Of a run, for its fold."""
    return f"{pair.name}, {results.task.title}{_of_a_sweep(results)}"


def _of_a_sweep(results: Results) -> str:
    return ", the sweep" if results.grid is not None else ""


def _asked(line: Line) -> str:
    """The intervention rates on the tasks, from the lowest to the highest, in per cent."""
    if not line.rates:
        return "–"
    low, high = (f"{100 * rate:.0f}" for rate in (min(line.rates), max(line.rates)))
    return f"{low} %" if low == high else f"{low}–{high} %"


def _floor(results: Results) -> list[str]:
    """A plain statement where no arm can do the task."""
    scores = [arm.figures["accuracy"] for arm in results.arms if "accuracy" in arm.figures]
    if results.task.name != "gsm8k" or not scores or max(s.high for s in scores) > 2 * FLOOR:
        return []
    best = max(score.estimate for score in scores)
    return [
        f"No arm gets more than {best:.0%} right: models of this size cannot do these problems, "
        "and this table says nothing about the method's effect on reasoning. What it does show is "
        "the form of the answers, below."
    ]
