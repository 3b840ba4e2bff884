"""Results of runs, read from their folders alone, and what is to be known beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..records import Record
from ..tasks.registry import judged_before, load, of_kept, titled_by
from ..tasks.task import Task, origin
from .folder import RunFolder
from .items import Kept
from .manifest import HALF, MANIFEST, MODELS, read_manifest
from .results import Results

NEEDED = (
    *("task", "limit", "seed", "items", "items_sha256", "max_new_tokens"),
    *("base", "guide", "dtype"),
)
"""What a page takes from a run's configuration."""

UNTOLD = (
    "Made by a version of blendin that noted the models' names alone: which weights, tokenizers "
    "and chat template these results are of is not known."
)


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
