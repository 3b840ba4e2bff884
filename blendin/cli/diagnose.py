"""`blendin diagnose`: will this base work with this guide, and which of several guides best?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..evaluation.tasks.data import SUBSET_SEED
from ..models import default_pair
from .errors import check_folder, interruptible
from .options import (
    Base,
    BlendOptions,
    ChatTemplateKwargs,
    DelimiterOption,
    DeviceMap,
    Dtype,
    ModelOptions,
    ServerOptions,
    TrustRemoteCode,
    check_settings,
    takes_options,
)
from .streams import console, messages

if TYPE_CHECKING:
    from ..evaluation.diagnosis.diagnosis import Diagnosis
    from ..evaluation.diagnosis.ranking import Ranking
    from ..evaluation.runs.folder import RunFolder
    from ..evaluation.tasks.task import Task
    from ..generator import BlendInGenerator
    from ..models.protocol import Model
    from ..policy import Policy

ARM = "blend"
LONGEST_NAME = 150
"""Bytes of a folder's name, below what file systems allow."""
NO_TEMPLATE = "it has no chat template, in which a guide reads its prompts"


@takes_options
def diagnose(
    blend: BlendOptions,
    servers: ServerOptions,
    base: Base = default_pair.DEFAULT_BASE,
    guide: Annotated[
        list[str] | None,
        typer.Option(help="Guide model, likewise; repeated, the guides are ranked."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="What to answer: gsm8k, truthfulqa, xstest, or a file of prompts (.txt, a line "
            'each; .jsonl, .json, .csv or .tsv with a column "prompt" or "question").'
        ),
    ] = "gsm8k",
    delimiter: DelimiterOption = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the tasks' files; else $BLENDIN_DATA, else the hub."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="How many items, a fixed subset; 0: all.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the subset.")] = SUBSET_SEED,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of an answer.")] = 128,
    batch_size: Annotated[int, typer.Option(help="The most answers in flight.")] = 32,
    chat_template_kwargs: ChatTemplateKwargs = None,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    trust_remote_code: TrustRemoteCode = False,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the report, its numbers and the runs; created if missing."),
    ] = Path("diagnosis"),
) -> None:
    """Measure how often, where and why the guide is asked; report.html and report.json.

    A run that was stopped continues where it was.
    """
    from ..evaluation.csv_rows import as_delimiter
    from ..evaluation.diagnosis.ranking import rank
    from ..evaluation.diagnosis.report import write
    from ..evaluation.runs.benchmark import check, of_models, plan
    from ..evaluation.runs.folder import RunFolder
    from ..evaluation.tasks.task import origin
    from ..prompts import read_template_kwargs

    policy, template = blend.build(), read_template_kwargs(chat_template_kwargs)
    check_settings(max_new_tokens, batch_size)
    check_folder("out", out)
    guides = list(dict.fromkeys(guide or [default_pair.DEFAULT_GUIDE]))
    task = wanted(data, data_dir, limit or None, seed, max_new_tokens, as_delimiter(delimiter))
    models = ModelOptions(
        base=base,
        guide=guides[0],
        dtype=dtype,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        **vars(servers),
    )
    found: list[Diagnosis] = []
    left_out: dict[str, str] = {}
    loaded_base: Model | None = None
    folders = {name: out / "runs" / each for name, each in run_folders(guides).items()}
    planned = plan(
        task,
        max_new_tokens=max_new_tokens,
        chat_template_kwargs=template,
        **origin(task, limit or None, seed),
    )
    for folder in folders.values():
        check_folder("out", folder)
        check(task, {ARM: policy}, folder, planned)
    for name in guides:
        gen = replace(models, guide=name).load(loaded_base, guides)
        loaded_base = gen.base
        if not gen.pair.prompts.chat_template.exists:
            left_out[gen.guide.name] = NO_TEMPLATE
            messages.print(f"{gen.guide.name} is left out: {NO_TEMPLATE}", soft_wrap=True)
            continue
        gen.pair.check_temperatures(policy)
        results = RunFolder(folders[name], planned | of_models(gen))
        found.append(of_pair(gen, task, policy, results, batch_size, template))
    if not found:
        raise ValueError(
            f"no guide is left to diagnose: of {', '.join(left_out)} none has a chat template, in "
            "which a guide reads its prompts; choose an instruction-tuned one"
        )
    ranking = rank(found) if len(found) > 1 else None
    show_verdicts(found, ranking)
    for name, reason in left_out.items():
        console.print(f"{name} was left out: {reason}", soft_wrap=True)
    page, values = out / "report.html", out / "report.json"
    write(found, ranking, left_out, html_path=page, json_path=values)
    messages.print(f"report: {page}", soft_wrap=True)


def run_folders(names: Sequence[str]) -> dict[str, str]:
    """A folder's name for each of several models: theirs, as far as any file system has it.

    Where nothing is left of a name, where it is too long, or where another's is the same, a hash
    of the name tells it apart.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^\w.-]+", "_", name).strip("_.")
        if not plain or len(plain.encode()) > LONGEST_NAME or plain in found.values():
            digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
            kept = plain.encode()[:LONGEST_NAME].decode("utf-8", "ignore")
            plain = f"{kept}-{digest}".lstrip("-")
        found[name] = plain
    return found


def wanted(
    data: str,
    folder: Path | None,
    limit: int | None,
    seed: int,
    max_new_tokens: int,
    delimiter: str | None = None,
) -> Task:
    """A task by its name, its questions answered, or the prompts of a file.

    Raises:
        ValueError: as `load` and `of_prompts`, or for a delimiter beside a task's name.
    """
    from ..evaluation.tasks.registry import NAMES, load, of_prompts
    from ..evaluation.tasks.task import answered

    if data in NAMES:
        if delimiter is not None:
            raise ValueError(f"--delimiter is for files of prompts, and --data {data} is a task")
        return answered(load(data, folder, limit, seed), max_new_tokens)
    return of_prompts(data, limit, seed, max_new_tokens, delimiter)


def of_pair(
    gen: BlendInGenerator,
    task: Task,
    policy: Policy,
    results: RunFolder,
    batch_size: int,
    template: dict[str, Any],
) -> Diagnosis:
    """One guide's run, or the rest of it, and its analysis."""
    from ..evaluation.diagnosis.diagnosis import diagnose as analyse
    from ..evaluation.diagnosis.overlap import top_overlap
    from ..evaluation.runs.benchmark import run
    from ..policy import Blend

    with interruptible():
        run(gen, task, {ARM: policy}, results, max_batch_size=batch_size)
    by_item = results.records(ARM)
    records = [by_item[item.id] for item in task.items]
    assert isinstance(policy, Blend)
    with messages.status("comparing the models' likeliest tokens"):
        overlap = top_overlap(
            gen,
            records,
            [item.prompt for item in task.items],
            system=task.system,
            chat_template_kwargs=template,
            threshold=policy.threshold,
            temperature=policy.temperatures.base,
        )
    return analyse(
        records,
        base=gen.base.name,
        guide=gen.guide.name,
        task=task.name,
        top_k=policy.top_k,
        settings=facts(results),
        vocabulary_overlap=overlap,
    )


def facts(results: RunFolder) -> dict[str, Any]:
    """What the report says about a run: its configuration, policy, versions and machine."""
    session = results.manifest["sessions"][-1]
    return {
        **results.manifest["config"],
        "policy": results.manifest["arms"][ARM],
        **{key: session[key] for key in ("started", "versions", "machine")},
        "tokens_per_second": results.tokens_per_second(ARM),
    }


def show_verdicts(found: list[Diagnosis], ranking: Ranking | None) -> None:
    """The verdicts, the best pair first."""
    for place in range(len(found)) if ranking is None else ranking.order:
        each = found[place]
        console.print(f"{each.base} + {each.guide} on {each.task}", style="bold")
        console.print(each.verdict.sentence)
        for note in each.verdict.notes:
            console.print(f"· {note}", style="dim")
    for gap in () if ranking is None else ranking.gaps:
        console.print(gap.sentence)
