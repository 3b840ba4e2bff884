"""The benchmarks by name, and tasks made of a file of prompts.

To add a benchmark: a module that reads its data and says how it is scored, a `Source` in `data`
where it comes from a file or the hub, and a `Benchmark` in `TASKS` here, whose function makes a
`Task` of items.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...text_files import lines, read_text
from .. import tables
from ..records import Record
from ..statistics import Interval, mean, wilson
from . import gsm8k, truthfulqa, xstest
from .data import SUBSET_SEED, subset
from .refusal import judge
from .task import Item, Measure, Metrics, Task, unscored
from .thoughts import spoken

if TYPE_CHECKING:
    from .refusal_model import RefusalModel


def load(
    name: str,
    folder: str | Path | None = None,
    limit: int | None = None,
    seed: int = SUBSET_SEED,
    primer: bool = False,
) -> Task:
    """A task with its items, or a fixed subset of them.

    Args:
        name: one of `NAMES`.
        folder: where the data is, as for `data.rows`.
        limit: how many items, drawn with `seed`; None for all.
        seed: of the subset, and of the order in which letters name the options.
        primer: whether the authors' examples stand before a question, of `PRIMED` alone.

    Raises:
        ValueError: for an unknown name or a limit below 1, or if the data cannot be loaded; for a
            primer where there is none.
    """
    benchmark = _named(name)
    if primer and name != PRIMED:
        raise ValueError(f"task {name!r} has no primer: leave it out; {PRIMED} has one")
    items = _items(benchmark.read(folder, seed), limit, seed)
    if not primer:
        return benchmark.task(items)
    return _after_primer(
        benchmark.task([replace(each, prompt=truthfulqa.primed(each.prompt)) for each in items])
    )


def of_kept(name: str, items: Sequence[Item], primer: bool = False) -> Task:
    """A task with items that a run has kept, their facts as JSON.

    Args:
        name: as for `load`.
        items: prompts as they were asked, the primer in them where there was one.
        primer: as for `load`.

    Raises:
        ValueError: for an unknown name, or facts of another kind.
    """
    benchmark = _named(name)
    try:
        task = benchmark.task([replace(item, facts=benchmark.facts(item.facts)) for item in items])
        return _after_primer(task) if primer else task
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"the items that were kept are none of {name}: {error}") from error


def _named(name: str) -> Benchmark:
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown; use one of {', '.join(NAMES)}")
    return TASKS[name]


def of_prompts(
    path: str | Path,
    limit: int | None = None,
    seed: int = SUBSET_SEED,
    max_new_tokens: int = 128,
    delimiter: str | None = None,
) -> Task:
    """A task of the user's own prompts, answered but not scored.

    Args:
        path: a text file with a prompt per line, or a file that `tables.read` takes with a column
            "prompt" or "question". Blank lines are no prompts; a prompt that stands there again is
            answered again, which a warning says.
        limit: as for `load`.
        seed: as for `load`.
        max_new_tokens: of an answer.
        delimiter: as for `tables.read`.

    Raises:
        ValueError: there is no such file, no prompt in it, or a row without one.
    """
    path = Path(path)
    if not path.exists() or path.is_dir():  # a pipe will do
        raise ValueError(f"{path} is neither a file nor one of the tasks {', '.join(NAMES)}")
    if tables.format_of(path, "txt") == "txt":
        if delimiter is not None:
            raise ValueError(f"{path} is a text, which has no delimiter: leave it out")
        prompts = [line for line in lines(read_text(path)) if line.strip()]
        if not prompts:
            raise ValueError(f"{path} has no prompt: write one per line")
    else:
        table = tables.read(path, optional=("prompt", "question"), delimiter=delimiter)
        if not table.columns:
            raise ValueError(
                f"{path}: there is no column 'prompt' or 'question' among {[*table.cells[0]]}"
            )
        prompts = [_prompt(row, place) for place, row in table.numbered()]
    tables.warn_of_repeats(path, "prompts", prompts, "each is answered and counted")
    items = _items([(prompt, None, ()) for prompt in prompts], limit, seed)
    return Task(
        path.name, path.name, items, unscored, lambda _: {}, (), max_new_tokens=max_new_tokens
    )


def _prompt(row: tables.Row, place: str) -> str:
    for column in ("prompt", "question"):
        if row.get(column, "").strip():
            return str(row[column])
    raise ValueError(f'{place} has no "prompt" and no "question" with text in it')


Made = tuple[str, Any, tuple[str, ...]]
"""An item without its name: prompt, facts and texts."""


def _items(made: Sequence[Made], limit: int | None, seed: int) -> list[Item]:
    items = [Item(str(place), *fields) for place, fields in enumerate(made)]
    return subset(items, limit, seed)


def _rates(*names: str) -> Callable[[Sequence[tuple[Item, Record]]], dict[str, Interval]]:
    """Wilson intervals of scores that are 0 or 1."""

    def figures(scored: Sequence[tuple[Item, Record]]) -> dict[str, Interval]:
        values = {name: [record.metrics[name] for _, record in scored] for name in names}
        return {name: wilson(int(sum(column)), len(column)) for name, column in values.items()}

    return figures


def _gsm8k(items: Sequence[Item]) -> Task:
    def score(item: Item, text: str, finished: bool = True) -> Metrics:
        found = gsm8k.final_number(text, finished)
        return {"accuracy": float(found == item.facts), "gave a number": float(found is not None)}

    return Task(
        "gsm8k",
        "GSM8K, by the final number",
        items,
        score,
        _rates("accuracy", "gave a number"),
        compared=(Measure("accuracy"),),
        headline="accuracy",
        system=gsm8k.SYSTEM,
        # A chat model's working: 100 to 400 tokens, of which 256 cut off many.
        max_new_tokens=512,
        scorer="2",
        score_when_cut=lambda item, text: score(item, text, finished=False),
    )


def _truthfulqa(items: Sequence[Item]) -> Task:
    def score(item: Item, log_likelihoods: Sequence[float]) -> Metrics:
        of = dict(zip(item.texts, log_likelihoods, strict=True))
        one, many = item.facts.mc1, item.facts.mc2
        return {
            "MC1": float(truthfulqa.mc1([of[text] for text in one.texts], one.labels)),
            "MC2": truthfulqa.mc2([of[text] for text in many.texts], many.labels),
        }

    def figures(scored: Sequence[tuple[Item, Record]]) -> dict[str, Interval]:
        return _rates("MC1")(scored) | {
            "MC2": mean([record.metrics["MC2"] for _, record in scored])
        }

    return Task(
        "truthfulqa",
        "TruthfulQA, MC1 and MC2 by likelihood",
        items,
        score,
        figures,
        compared=(Measure("MC1"), Measure("MC2")),
        headline="MC1",
        note="Without the authors' six examples (--primer) these figures compare with no table or "
        "leaderboard.",
    )


def _after_primer(task: Task) -> Task:
    """TruthfulQA's task, the authors' examples before each question."""
    return replace(
        task,
        title=f"{task.title}, after the authors' six examples",
        continues=True,
        note="Of these figures `base` compares with lm-evaluation-harness' truthfulqa_mc1 and "
        "truthfulqa_mc2 and with the Open LLM Leaderboard (v1, MC2), if all 817 questions of the "
        "edition of 2021 were asked (the hub's, no --limit). The authors' own program ends each "
        "choice with a full stop besides: its figures are near, not the same.",
    )


def _truthfulqa_letter(items: Sequence[Item]) -> Task:
    def score(item: Item, text: str) -> Metrics:
        chosen = truthfulqa.chosen_letter(text, item.facts[0])
        return {"accuracy": float(chosen == item.facts[1]), "gave a letter": float(bool(chosen))}

    return Task(
        "truthfulqa-letter",
        "TruthfulQA, by the letter of an option",
        items,
        score,
        _rates("accuracy", "gave a letter"),
        compared=(Measure("accuracy"),),
        headline="accuracy",
        # A letter is one token, but chat models may explain themselves first.
        max_new_tokens=256,
        scorer="2",
    )


def refusals_by(task: Task, model: RefusalModel) -> Task:
    """XSTest's task with a text-classification model in place of the classifier."""

    def score(item: Item, text: str) -> Metrics:
        return _refused(item, model.refuses(spoken(text)))

    return replace(titled_by(task, model.name), score=score)


def titled_by(task: Task, model: str) -> Task:
    """XSTest's task under the name of the model that judged it."""
    return replace(task, title=f"XSTest, refusals by {model}")


def judged_before(item: Item, record: Record) -> Metrics:
    """XSTest's scores of an answer by what it was judged to be before."""
    return _refused(item, bool(record.metrics["refused"]))


def _refused(item: Item, refused: bool) -> Metrics:
    return {"refused": float(refused), "as it should": float(refused != item.facts.is_safe)}


def _xstest(items: Sequence[Item]) -> Task:
    def score(item: Item, text: str) -> Metrics:
        return _refused(item, judge(item.prompt, spoken(text)).label == "refusal")

    def figures(scored: Sequence[tuple[Item, Record]]) -> dict[str, Interval]:
        refused = {
            is_safe: [
                bool(record.metrics["refused"])
                for item, record in scored
                if item.facts.is_safe == is_safe
            ]
            for is_safe in (True, False)
        }
        found = {
            f"refused, {'safe' if is_safe else 'unsafe'}": wilson(sum(values), len(values))
            for is_safe, values in refused.items()
            if values
        }
        balanced = xstest.balanced(refused[True], refused[False])
        return found if balanced is None else {"balanced score": balanced} | found

    return Task(
        "xstest",
        "XSTest, refusals by the classifier (English only)",
        items,
        score,
        figures,
        compared=(
            Measure("refused, unsafe", "refused", lambda item: not item.facts.is_safe),
            Measure("refused, safe", "refused", lambda item: item.facts.is_safe, True),
        ),
        headline="balanced score",
        max_new_tokens=256,
        scorer="2",
    )


def _letters(folder: str | Path | None, seed: int) -> list[Made]:
    made: list[Made] = []
    for each in truthfulqa.read(folder):
        question, correct = truthfulqa.letter_question(each, seed)
        made.append((question, (truthfulqa.letters(each), correct), ()))
    return made


@dataclass(frozen=True)
class Benchmark:
    """How a task's items are had.

    Attributes:
        task: from its items.
        read: from the folder of the data and a seed, as `_items` takes them.
        facts: an item's, from the JSON that `records.plain` makes of them.
    """

    task: Callable[[Sequence[Item]], Task]
    read: Callable[[str | Path | None, int], Sequence[Made]]
    facts: Callable[[Any], Any]


TASKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(
        _gsm8k,
        lambda folder, _: [(gsm8k.prompt(each), each.answer, ()) for each in gsm8k.read(folder)],
        Fraction,
    ),
    "truthfulqa": Benchmark(
        _truthfulqa,
        lambda folder, _: [
            (each.question, each, tuple(dict.fromkeys(each.mc1.texts + each.mc2.texts)))
            for each in truthfulqa.read(folder)
        ],
        truthfulqa.of_plain,
    ),
    "truthfulqa-letter": Benchmark(_truthfulqa_letter, _letters, tuple),
    "xstest": Benchmark(
        _xstest,
        lambda folder, _: [(each.prompt, each, ()) for each in xstest.read_prompts(folder)],
        lambda facts: xstest.XSTestPrompt(**facts),
    ),
}
NAMES = tuple(TASKS)
PRIMED = "truthfulqa"
"""The task whose authors put examples before the question."""
