"""Results of several runs as one page of Markdown, made from their folders alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...models.identity import difference
from ...visible import visible
from ..records import Record
from ..tasks.registry import judged_before, load, of_kept, titled_by
from ..tasks.task import Task, origin
from .folder import RunFolder
from .items import Kept
from .manifest import HALF, MANIFEST, MODELS, OF_MODELS, read_manifest
from .results import Results, markdown

NEEDED = (
    *("task", "limit", "seed", "items", "items_sha256", "max_new_tokens"),
    *("base", "guide", "dtype"),
)
"""What a page takes from a run's configuration."""

UNTOLD = (
    "Made by a version of blendin that noted the models' names alone: which weights, tokenizers "
    "and chat template these results are of is not known."
)

FLOOR = 0.1
EXAMPLES = 2
SHOWN = 240
"""Characters of an example's answer."""


def read_results(
    folder: str | Path, data: str | Path | None = None, rescore: bool = False
) -> Results:
    """A run's results, made of what its folder keeps.

    Args:
        folder: the run's.
        data: a folder of data, as for `data.rows`, with which its items are compared. A run of an
            earlier version, which has not kept its items, has them read again from there.
        rescore: whether what is stored is scored anew, by this version's scorer, and kept so; by
            the facts of `data` where it is given.

    Raises:
        ValueError: there is no run, its items differ from those of the data, or its scores cannot
            be made from what it keeps.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} has no {MANIFEST}: name a folder that `blendin evaluate` made")
    manifest = read_manifest(folder)
    config = manifest["config"]
    missing = [name for name in NEEDED if name not in config]
    missing += ["sessions"] if not manifest["sessions"] else []
    if missing:
        raise ValueError(
            f"{folder / MANIFEST} lacks {', '.join(missing)}: name a folder that `blendin "
            "evaluate` made"
        )
    notes = [] if MODELS in config else [UNTOLD]
    kept = Kept.read(folder)
    primer = "primer" in config
    task = None if kept is None else of_kept(config["task"], kept.items, primer)
    if kept is None or data is not None:
        read = load(config["task"], data, config["limit"], config["seed"], primer=primer)
        if origin(read, config["limit"], config["seed"])["items_sha256"] != config["items_sha256"]:
            raise ValueError(
                f"{folder} was run on another edition of the data: pass --data with that edition"
                + (", or leave it out: the folder keeps its items" if kept else "")
            )
        corrected = [] if kept is None else Kept.of(read.items).corrected(kept)
        if task is None or (corrected and rescore):
            task = read
        elif corrected:
            notes.append(
                f"The data has other facts (references, choices or labels) of {len(corrected)} "
                f"items than these scores, the first of them item {corrected[0]}: "
                f"`blendin report --rescore` with --data scores the stored answers by them."
            )
    assert task is not None
    if "refusal_model" in config:
        task = titled_by(task, config["refusal_model"])
    run = RunFolder(folder, config)
    if rescore:
        _rescore(task, run)
    return Results(task, run, notes)


def _rescore(task: Task, run: RunFolder) -> None:
    config = run.manifest["config"]
    other = config.get("scorer", "1") not in (task.scorer, HALF)
    if other and "refusal_model" in config:
        raise ValueError(
            f"--rescore: {run.folder} was judged by {config['refusal_model']}: "
            "leave it out, or run it again in another folder"
        )
    items = {item.id: item for item in task.items}

    def score(record: Record) -> Record:
        if record.error is not None or record.id not in items:
            return record
        item = items[record.id]
        if "refusal_model" in config:
            metrics = judged_before(item, record)
        elif task.writes:
            metrics = task.score_answer(item, record.text, record.stop_reason)
        else:
            metrics = task.score(item, record.log_likelihoods)
        return replace(record, metrics=metrics)

    kept_all = all(
        record.error is not None or record.id not in items or record.log_likelihoods
        for arm in run.manifest["arms"]
        for record in run.records(arm).values()
    )
    if not task.writes and not kept_all:
        same_facts = config.get("facts_sha256") in (None, Kept.of(task.items).facts)
        if config.get("scorer", "1") == task.scorer and same_facts:
            return
        raise ValueError(
            f"--rescore: {run.folder} is a run of {task.name}, whose likelihoods are not kept, as "
            "in earlier versions: leave it out, or run it again in another folder"
        )
    with run.claimed():
        run.rescore(task.scorer, task.items, score)


def outdated(results: Results) -> str | None:
    """A sentence where a run was scored by another version of its task's scorer."""
    scorer = results.manifest["config"].get("scorer", "1")
    if scorer == results.task.scorer:
        return None
    if scorer == HALF:
        return "Scored in part by a rescoring that did not end: `blendin report --rescore` ends it."
    return (
        f"Scored by version {scorer} of the scorer of {results.task.name}; this is version "
        f"{results.task.scorer}: `blendin report --rescore` scores the stored answers anew."
    )


def notes(results: Results) -> list[str]:
    """What is to be known of a run beside its results: by whom, by what, how much of it."""
    return [each for each in (outdated(results), results.unfinished, *results.notes) if each]


def page(results: Sequence[Results]) -> str:
    """The page."""
    parts = ["# Results\n", _made_by(results), *map(_section, results)]
    return "\n".join(parts)


def _made_by(results: Sequence[Results]) -> str:
    first = results[0].manifest["config"]
    pair = {key: first.get(key) for key in (*OF_MODELS, MODELS)}
    configs = [each.manifest["config"] for each in results]
    if any(difference("", pair, {key: each.get(key) for key in pair}) for each in configs):
        raise ValueError("the runs are of different models: make a page for each pair")
    lines = [
        "Made by `blendin report` from runs of `blendin evaluate`; not edited by hand.",
        "",
        f"- Base {_code(first['base'])} ({first['dtype'][0]}), guide {_code(first['guide'])} "
        f"({first['dtype'][1]}), greedy decoding.",
    ]
    lines += [f"- {text}" for text in dict.fromkeys(map(_ran_on, results))]
    lines += [
        "- Square brackets: 95 % intervals (Wilson for rates of items; over the items, with "
        "Student's t, for means and intervention rates). `tok/s` is of all answers in flight "
        "together, prompts included; for given texts, of tokens scored.",
        "- Arms: `base` and `guide` alone, `nudge` (NUDGING, word by word), `blend` (BlendIn, α "
        "adaptive), `blend-fixed` (the same with a fixed α), `cap` (BlendIn held below an "
        "intervention rate, the paper's negative baseline); their settings stand below each "
        "table.",
        "",
    ]
    return "\n".join(lines)


def _ran_on(results: Results) -> str:
    session = results.manifest["sessions"][-1]
    versions = ", ".join(f"{name} {number}" for name, number in session["versions"].items())
    machine = session["machine"]
    gpus = f", {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    return f"{session['started'][:10]}, {machine['cpus']} CPUs{gpus}, {versions}."


def _section(results: Results) -> str:
    config = results.manifest["config"]
    drawn = f", drawn with seed {config['seed']}" if config["limit"] else " (all)"
    limit = f", at most {config['max_new_tokens']} new tokens" if results.task.writes else ""
    scorer = f", scorer {config.get('scorer', '1')}"
    lines = [
        f"## {results.task.title}",
        "",
        f"{config['items']} items{drawn}{limit}{scorer}.",
        "",
        markdown(results.table()),
        *(f"- {sentence}" for sentence in results.conclusions),
        f"- {results.caution()}",
        *(f"- {sentence}" for sentence in notes(results)),
        *(f"- {sentence}" for sentence in _floor(results)),
        "",
        "Settings: " + "; ".join(_settings(results.manifest["arms"])) + ".",
        "",
    ]
    if results.task.writes:
        lines += _examples(results)
    return "\n".join(lines)


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


def _settings(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    def listed(settings: Mapping[str, Any]) -> str:
        parts = []
        for key, value in settings.items():
            if isinstance(value, Mapping):
                parts.append(listed(value))
            elif key != "name" and value is not None:
                parts.append(f"{key} {value}")
        return ", ".join(parts)

    return [f"`{name}`: {listed(own)}" for name, own in arms.items() if listed(own)]


def _examples(results: Results) -> list[str]:
    """The first items' answers under every arm."""
    lines = ["<details><summary>Answers to the first items, shortened</summary>", ""]
    for item, answers in results.answers(EXAMPLES):
        lines += [f"**{_one_line(item.prompt)}**", ""]
        lines += [f"- `{arm}`: {_one_line(text)}" for arm, text in answers.items()]
        lines.append("")
    return [*lines, "</details>", ""]


def _code(name: str) -> str:
    """A name as code, whatever is in it."""
    shown = visible(name, one_line=True)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _one_line(text: str) -> str:
    """One line, escaped for Markdown."""
    line = " ⏎ ".join(part.strip() for part in text.strip().splitlines() if part.strip())
    if len(line) > SHOWN:
        line = line[:SHOWN].rstrip() + " …"
    return re.sub(r"([\\`*_{}\[\]<>()#+!|$~&-])", r"\\\1", visible(line)) or "(nothing)"
