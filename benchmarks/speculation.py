"""What drafts gain: BlendIn with and without speculation, beside the base alone.

All arms run in one process, interleaved, prompt by prompt, in an order that changes; the table
gives medians over the prompts. Targets, greedy, on the default pair:

    Blend "auto" / transformers' `generate` of the base   >= 1.0
    Blend "auto" / Blend "off"                            >= 1.2

and "auto" is never slower than "off" by more than 3 %. Every arm's text must be the plain loop's; a
difference (near-ties in bfloat16) is reported with the numbers of both sides at that step.

    python benchmarks/speculation.py --data DIR [--prompts 20] [--dtype bfloat16] [--json FILE]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import transformers
import typer
from decode import plain_generate
from measure import surroundings, timed
from rich.console import Console
from rich.progress import track
from rich.table import Table

from blendin import BaseOnly, Blend, BlendInGenerator, Generation
from blendin.evaluation.tasks import registry as tasks
from blendin.models import default_pair
from blendin.policy import Policy
from blendin.prompts import BASE_STOP

GENERATE = "base, generate"
PLAIN = {"Blend": "Blend off", "BaseOnly": "BaseOnly off"}
ARMS: dict[str, tuple[Policy, Any]] = {
    "BaseOnly off": (BaseOnly(), "off"),
    "BaseOnly auto": (BaseOnly(), "auto"),
    "Blend off": (Blend(), "off"),
    "Blend auto": (Blend(), "auto"),
    "Blend lookup, 3": (Blend(), 3),
    "Blend lookup, 7": (Blend(), 7),
}


def main(
    base: str = default_pair.DEFAULT_BASE,
    guide: str = default_pair.DEFAULT_GUIDE,
    dtype: str = "float32",
    device_map: str | None = None,
    data: Annotated[Path | None, typer.Option(help="Folder of GSM8K and XSTest.")] = None,
    prompts: Annotated[int, typer.Option(help="Of each of the two.")] = 20,
    max_new_tokens: int = 96,
    stop: Annotated[
        bool, typer.Option(help="End answers where the base runs on, as users do.")
    ] = False,
    arm: Annotated[list[str] | None, typer.Option(help="Some arms only, beside the plain.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every arm and print the ratios."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    gen = BlendInGenerator(base, guide, dtype=dtype, device_map=device_map)
    asked = [
        (item.prompt, task.system)
        for task in (tasks.load(name, data, prompts) for name in ("gsm8k", "xstest"))
        for item in task.items
    ]
    chosen = {name: ARMS[name] for name in ARMS if not arm or name in [*arm, *PLAIN.values()]}
    runs: dict[str, list[Generation]] = {name: [] for name in chosen}
    speeds: dict[str, list[float]] = {name: [] for name in [GENERATE, *chosen]}
    for warm_up in (True, False):
        for place, (prompt, system) in enumerate(track(asked[:1] if warm_up else asked)):
            length = 8 if warm_up else max_new_tokens
            made = works(gen, chosen, prompt, system, length, [BASE_STOP] if stop else [])
            names = list(made)
            for name in names[place % len(names) :] + names[: place % len(names)]:
                result, seconds = timed(made[name])
                tokens = result if isinstance(result, int) else len(result.steps)
                if warm_up:
                    continue
                speeds[name].append(tokens / seconds)
                if isinstance(result, Generation):
                    runs[name].append(result)
    report(gen, dtype, speeds, runs, len(asked), max_new_tokens, json_file)


def works(
    gen: BlendInGenerator,
    arms: dict[str, tuple[Policy, Any]],
    prompt: str,
    system: str | None,
    length: int,
    stop: list[str],
) -> dict[str, Callable[[], Any]]:
    """What each arm has to do for a prompt."""
    text = f"{system}\n" if system else ""
    made: dict[str, Callable[[], Any]] = {
        GENERATE: partial(plain_generate, gen.base, f"{text}Question: {prompt}\nAnswer:", length)
    }
    for name, (policy, speculate) in arms.items():
        made[name] = partial(
            gen.generate,
            prompt,
            system=system,
            policy=policy,
            speculate=speculate,
            max_new_tokens=length,
            stop=stop,
        )
    return made


def report(
    gen: BlendInGenerator,
    dtype: str,
    speeds: dict[str, list[float]],
    runs: dict[str, list[Generation]],
    count: int,
    length: int,
    json_file: Path | None,
) -> None:
    rows = {name: row(name, speeds, runs) for name in speeds}
    differences = {
        name: differing(outputs, runs[PLAIN[name.split()[0]]]) for name, outputs in runs.items()
    }
    console = Console(soft_wrap=True)
    columns = ["tok/s", "of generate", "of plain", "drafts accepted", "base forwards a token"]
    table = Table(
        "arm", *columns, title=f"{count} prompts, up to {length} tokens, {dtype}, medians"
    )
    for name, cells in rows.items():
        table.add_row(name, *("" if cell is None else f"{cell:.3f}" for cell in cells))
    console.print(table)
    for name, found in differences.items():
        console.print(f"{name}: {len(found)} of {count} texts differ from the plain loop's")
        for each in found:
            console.print(f"  {each}", markup=False)
    summary = surroundings() | {
        "base": gen.base.name,
        "guide": gen.guide.name,
        "dtype": dtype,
        "prompts": count,
        "max_new_tokens": length,
        "columns": columns,
        "rows": rows,
        "speeds": speeds,
        "differences": differences,
    }
    console.print(f"{summary['machine']}, {summary['versions']}", markup=False)
    if json_file is not None:
        json_file.write_text(json.dumps(summary, indent=2) + "\n")


def row(
    name: str, speeds: dict[str, list[float]], runs: dict[str, list[Generation]]
) -> list[float | None]:
    """The table's numbers of one arm: ratios are medians of the prompts' own."""

    def ratio(other: str) -> float | None:
        if other not in speeds or other == name:
            return None
        return median(
            ours / theirs for ours, theirs in zip(speeds[name], speeds[other], strict=True)
        )

    cells = [median(speeds[name]), ratio(GENERATE), ratio(PLAIN.get(name.split()[0], ""))]
    if name not in runs:
        return [*cells, None, None]
    stats = [out.stats for out in runs[name]]
    drafted = sum(each["drafted"] for each in stats)
    forwards = sum(each["base_forwards"] for each in stats) / sum(each["tokens"] for each in stats)
    right = sum(each["accepted"] for each in stats) / drafted if drafted else None
    return [*cells, right, forwards]


def differing(outputs: list[Generation], plains: list[Generation]) -> list[str]:
    """Where some texts are not the plain ones, and how near a tie it was."""
    found = []
    for place, (ours, plain) in enumerate(zip(outputs, plains, strict=True)):
        if ours.token_ids == plain.token_ids:
            continue
        steps = list(zip(ours.steps, plain.steps, strict=False))
        at = next(i for i, (a, b) in enumerate(steps) if a.token_ids != b.token_ids)
        one, other = steps[at]
        found.append(
            f"prompt {place}, step {at}: {one.text!r} (p_b {one.base_top_prob:.4f}, p_g "
            f"{one.guide_top_prob}) for {other.text!r} (p_b {other.base_top_prob:.4f}, p_g "
            f"{other.guide_top_prob})"
        )
    return found


if __name__ == "__main__":
    typer.run(main)
