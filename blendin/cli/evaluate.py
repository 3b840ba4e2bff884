"""`blendin evaluate`, benchmarks from the data to the table, and `blendin report`, the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..evaluation.runs.arms import NAMES
from ..evaluation.tasks.data import SUBSET_SEED
from ..files import write_whole
from ..visible import to_json
from .errors import check_file, check_folder, interruptible
from .options import (
    ArmOptions,
    ChatTemplateKwargs,
    ModelOptions,
    RefusalModelOption,
    check_settings,
    takes_options,
    warn_of_languages,
)
from .streams import console, messages

if TYPE_CHECKING:
    from ..evaluation.runs.folder import RunFolder
    from ..evaluation.runs.results import Results
    from ..evaluation.tasks.task import Task


@takes_options
def evaluate(
    models: ModelOptions,
    arm_settings: ArmOptions,
    tasks: Annotated[
        list[str],
        typer.Argument(help="One or more of gsm8k, truthfulqa, truthfulqa-letter and xstest."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data files; else $BLENDIN_DATA, else the hub."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="How many items, a fixed subset; all by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the subset and of the options' order.")] = (
        SUBSET_SEED
    ),
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help=f"By default {', '.join(NAMES)}; others: nudge-token, defer. May be repeated."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            help="The most tokens of an answer; 512 for gsm8k, 256 for others, by default."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="The most answers in flight.")] = 32,
    chat_template_kwargs: ChatTemplateKwargs = None,
    refusal_model: RefusalModelOption = None,
    primer: Annotated[
        bool,
        typer.Option(
            "--primer",
            help="Put the authors' six examples before truthfulqa's questions, as leaderboards do.",
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of the results, with one in it for each task.")
    ] = Path("runs"),
) -> None:
    """Compare policies on the same items: scores with intervals, rates, tokens a second.

    A run that was stopped continues where it was; `accelerate launch` splits the items.
    """
    from ..evaluation.runs.arms import arms, without_calibration
    from ..evaluation.runs.benchmark import check, of_models, plan, run
    from ..evaluation.runs.folder import RunFolder, Shard
    from ..evaluation.tasks.registry import PRIMED, load
    from ..evaluation.tasks.task import origin
    from ..prompts import read_template_kwargs

    template = read_template_kwargs(chat_template_kwargs)
    policies = arms(tuple(arm or NAMES), **arm_settings.given())
    if apart := without_calibration(policies):
        messages.print(f"the calibration has no part in {', '.join(apart)}", soft_wrap=True)
    check_settings(max_new_tokens, batch_size)
    if primer and PRIMED not in tasks:
        raise ValueError(
            f"--primer is for {PRIMED}, which is not among the tasks {', '.join(tasks)}: add it, "
            "or leave the option out"
        )
    for name in tasks:
        check_folder("out", out / name)
    loaded = [
        load(name, data, limit, seed, primer=primer and name == PRIMED)
        for name in dict.fromkeys(tasks)
    ]
    identity: dict[str, str] = {}
    if refusal_model is not None:
        loaded, identity = _refusals_by(refusal_model, loaded)
    plans = [
        plan(
            task,
            max_new_tokens=max_new_tokens,
            chat_template_kwargs=template,
            **origin(task, limit, seed),
            **(identity if task.name == "xstest" else {}),
            **({"primer": "qa"} if task.continues else {}),
        )
        for task in loaded
    ]
    for task, planned in zip(loaded, plans, strict=True):
        check(task, policies, out / task.name, planned)
    shard = Shard.from_environment()
    if models.device_map is None and shard.device is not None:
        models = replace(models, device_map=shard.device)
    gen = models.load()
    for policy in policies.values():
        gen.pair.check_temperatures(policy)
    with messages.status("telling the models apart"):
        found = of_models(gen)
    folders = [
        RunFolder(out / task.name, planned | found, shard)
        for task, planned in zip(loaded, plans, strict=True)
    ]
    for task, results in zip(loaded, folders, strict=True):
        drawn = f", drawn with seed {seed}" if limit else ""
        messages.print(f"{task.title}: {len(task.items)} items{drawn} → {results.folder}")
        with interruptible():
            run(gen, task, policies, results, max_batch_size=batch_size)
        finish(task, results, tuple(policies))


def _refusals_by(name: str, tasks: list[Task]) -> tuple[list[Task], dict[str, str]]:
    """The tasks, XSTest's scored by that model, and what the manifest keeps of it."""
    if all(task.name != "xstest" for task in tasks):
        raise ValueError(
            f"--refusal-model={name!r} scores xstest alone, which is not among the tasks "
            f"{', '.join(task.name for task in tasks)}: add it, or leave the option out"
        )
    from ..evaluation.tasks.refusal_model import RefusalModel
    from ..evaluation.tasks.registry import refusals_by

    model = RefusalModel(name)
    judged = [refusals_by(task, model) if task.name == "xstest" else task for task in tasks]
    return judged, model.identity


@takes_options
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `blendin evaluate` made.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data files, to compare the runs with and, with --rescore, to score "
            "by. By default the runs' own folders are enough."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page, in Markdown.")] = Path("RESULTS.md"),
    rescore: Annotated[
        bool,
        typer.Option("--rescore", help="Score the stored answers anew, and keep those scores."),
    ] = False,
) -> None:
    """One page of several runs' results, in the order given."""
    from ..evaluation.runs.page import notes, page, read_results

    check_file("out", out)
    results = [read_results(run, data, rescore) for run in runs]
    for run, sentences in zip(runs, map(notes, results), strict=True):
        for sentence in sentences:
            messages.print(f"{run}: {sentence}", soft_wrap=True)
    if rescore:
        for run, each in zip(runs, results, strict=True):
            write(each, run)
    write_whole(out, page(results))
    messages.print(f"written to {out}", soft_wrap=True)


def finish(task: Task, run: RunFolder, names: tuple[str, ...]) -> None:
    """Prints and keeps the results, once all processes have finished all items."""
    done = {name: run.records(name) for name in names}
    missing = sum(item.id not in records for records in done.values() for item in task.items)
    if missing:
        messages.print(f"{missing} items are left to other processes; the last of them reports")
        return
    from ..evaluation.runs.results import Results

    if run.items is not None and run.items > len(task.items):
        messages.print(
            f"{run.folder} has {run.items} items, and these results are of the {len(task.items)} "
            "that were asked for: `blendin report` shows all",
            soft_wrap=True,
        )
    results = Results(task, run)
    if task.name == "xstest" and "refusal_model" not in run.manifest["config"]:
        for name, records in done.items():
            warn_of_languages(f"arm {name}", [records[item.id].text for item in task.items])
    show(results)
    write(results, run.folder)


def show(results: Results) -> None:
    """The table and what follows from it."""
    from ..evaluation.runs.results import markdown

    title = f"{results.task.title}: n = {len(results.task.items)}"
    if console.is_terminal:
        header, rows = results.table()
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table, soft_wrap=False)
    else:
        console.print(f"{title}\n")
        console.print(markdown(results.table()))
    for sentence in results.conclusions:
        console.print(f"· {sentence}")
    console.print(results.caution(), style="dim")


def write(results: Results, folder: Path) -> None:
    """`results.json`, and XSTest's completions for `blendin score xstest` and its judge."""
    write_whole(folder / "results.json", to_json(results.to_dict(), indent=2) + "\n")
    if results.task.name == "xstest":
        results.write_completions(folder)
