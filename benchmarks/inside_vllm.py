"""BlendIn inside vLLM against the local engine (same texts, same traces) and vLLM's base alone.

Runs in vLLM's own environment, vLLM in this process. First the local engine decodes all prompts
under every policy; then vLLM does, with 1, 8 and 32 sequences in flight, and each step of each
trace is compared. Then the speed: the base alone (requests that do not ask for us) and the blend
take turns on one engine. The bound is the base alone over 1 + g, where g is the time of the
guide's forwards over that of all else.

    bash scripts/vllm bench --data ../shared/data [--prompts 100] [--json FILE]

(Not called vllm.py: a script's folder comes first where Python looks for modules.)
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from blendin import BlendInGenerator, Generation
from blendin.evaluation.tasks.data import rows, subset
from blendin.models import default_pair
from blendin.models.hosted import HostedModel
from blendin.models.vllm_engine import VllmEngine
from blendin.policy import Policy, named_policy
from blendin.trace import Step

POLICIES: dict[str, Policy] = {
    "blend": named_policy("blend"),
    "nudge": named_policy("nudge"),
    "nudge-token": named_policy("nudge-token"),
    "defer-token": named_policy("defer"),
    "defer-budget": named_policy("defer", rule="budget"),
    "defer-bet": named_policy("defer", rule="bet"),
    "cap": named_policy("cap"),
    "base": named_policy("base"),
}


def main(
    data: Annotated[Path, typer.Option(help="Folder of GSM8K and XSTest.")],
    base: str = default_pair.DEFAULT_BASE,
    guide: str = default_pair.DEFAULT_GUIDE,
    dtype: str = "float32",
    prompts: Annotated[
        int, typer.Option(help="Under every policy, with the most in flight.")
    ] = 100,
    max_new_tokens: int = 64,
    fewer: Annotated[int, typer.Option(help="Prompts with fewer in flight.")] = 24,
    in_flight: Annotated[list[int] | None, typer.Option(help="Sequences at once.")] = None,
    rounds: Annotated[int, typer.Option(help="Of the timed arms; 0 times nothing.")] = 5,
    policies: Annotated[list[str] | None, typer.Option(help="Of " + ", ".join(POLICIES))] = None,
    windows: Annotated[
        str | None,
        typer.Option(help="URL of a server of the same base, timed beside, one at once."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Compare every trace, then time the blend against the base alone."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    console, widths = Console(), in_flight or [1, 8, 32]
    asked = [
        row[column]
        for name, column in (("gsm8k", "question"), ("xstest", "prompt"))
        for row in subset(rows(name, data), (prompts + 1) // 2)
    ][:prompts]
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": (), "speculate": "off"}
    chosen = {name: POLICIES[name] for name in policies or POLICIES}

    local = BlendInGenerator(base, guide, dtype=dtype)
    expected = {
        name: local.generate(asked, policy=policy, max_batch_size=16, progress=True, **settings)
        for name, policy in chosen.items()
    }
    folders = [
        str(default_pair.folder(name)) if name in default_pair.EMBEDDED else name
        for name in (base, guide)
    ]
    del local
    gen = BlendInGenerator(
        f"vllm:{folders[0]}",
        folders[1],
        dtype=dtype,
        base_kwargs={"max_model_len": 2048, "gpu_memory_utilization": 0.3, "enforce_eager": True},
    )
    figures: dict[str, Any] = {"dtype": dtype, "prompts": len(asked), "equal": {}, "apart": []}
    table = Table("policy", "in flight", "prompts", "equal traces", "interventions")
    for width in reversed(widths):
        for name, policy in chosen.items():
            few = asked if width == max(widths) else asked[:: max(1, len(asked) // fewer)]
            outs = gen.generate(few, policy=policy, max_batch_size=width, progress=True, **settings)
            pairs = [
                (out, expected[name][asked.index(p)]) for p, out in zip(few, outs, strict=True)
            ]
            apart = [told for out, own in pairs if (told := first_difference(out, own))]
            fired = sum(out.interventions for out in outs)
            table.add_row(name, str(width), str(len(few)), str(len(few) - len(apart)), str(fired))
            figures["equal"][f"{name}, {width} in flight"] = [
                len(few) - len(apart),
                len(few),
                fired,
            ]
            figures["apart"] += [{"policy": name, "in flight": width, **each} for each in apart]
    console.print(table)
    if rounds:
        served = windows and BlendInGenerator(windows, folders[1], dtype=dtype)
        figures["speed"] = [
            speed(gen, asked, width, max_new_tokens, rounds, served if width == 1 else None)
            for width in widths
        ]
        console.print(speed_table(figures["speed"]))
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1))


ROUNDING = 1e-4
"""How far apart a number of two traces may be: vLLM's kernels add in another order."""


def first_difference(out: Generation, own: Generation) -> dict[str, Any] | None:
    """Where two traces part, and what both say there; None where they are equal."""
    steps = list(zip(out.steps, own.steps, strict=False))
    place = next((i for i, (a, b) in enumerate(steps) if not alike(a, b)), len(steps))
    if place == len(steps) and len(out.steps) == len(own.steps) and out.error is None:
        return None
    told: dict[str, Any] = {"step": place, "error": out.error}
    if place < len(steps):
        names = ("token_ids", "intervened", "base_top_prob", "guide_top_prob", "alpha")
        told |= {name: [getattr(each, name) for each in steps[place]] for name in names}
        told["differs"] = differing(*steps[place])
    return told


def alike(one: Step, other: Step) -> bool:
    """Whether two steps are the same, but for rounding."""
    return not differing(one, other)


def differing(one: Step, other: Step) -> list[str]:
    """The fields in which two steps differ by more than rounding.

    A token far down in the base's list, at p of 1e-5, changes places with its neighbours by
    rounding: a hundredth of its rank is none.
    """
    fields = one.to_dict()

    def is_rounding(name: str, a: Any, b: Any) -> bool:
        if name == "agreement_rank" and None not in (a, b):
            return bool(abs(a - b) <= a // 100)
        numbers = isinstance(a, float) and isinstance(b, float)
        return abs(a - b) <= ROUNDING if numbers else bool(a == b)

    return [name for name in fields if not is_rounding(name, fields[name], other.to_dict()[name])]


def speed(
    gen: BlendInGenerator,
    asked: list[str],
    width: int,
    length: int,
    rounds: int,
    served: BlendInGenerator | None,
) -> dict[str, Any]:
    """Tokens a second of the blend and of the base alone, taking turns; the guide's share.

    With `served`, a base behind HTTP, its windows are a third arm.
    """
    assert isinstance(gen.base, HostedModel) and isinstance(gen.base.engine, VllmEngine)
    driver: Any = gen.pair.driver
    arms = ["base", "blend", *(["windows"] if served else [])]
    blended = {"blend": gen, "windows": served}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    guide, decisions, rates = [], [], []
    for turn in track(range(rounds), f"{width} in flight"):
        some = [asked[(turn * width + i) % len(asked)] for i in range(width)]
        prompts = [gen.base.encode_prompt(f"Question: {prompt}\nAnswer:") for prompt in some]
        settings = {"max_new_tokens": length, "stop": (), "max_batch_size": width}
        # The base alone writes as many tokens of each text: a batch that thins out is slower.
        lengths = [written(out) for out in gen.generate(some, progress=False, **settings)]
        for arm in arms if turn % 2 else arms[::-1]:
            before = driver.rows.seconds, driver.rows.guide_seconds
            began = time.perf_counter()
            if arm == "base":
                count = gen.base.engine.generate(prompts, lengths)
            else:
                outs = blended[arm].generate(some, progress=False, **settings)
                count = sum(map(written, outs))
            took = time.perf_counter() - began
            seconds[arm].append(took / count)
            if arm == "blend":
                rates.append(sum(o.interventions for o in outs) / sum(len(o.steps) for o in outs))
                guide.append((driver.rows.guide_seconds - before[1]) / took)
                decisions.append((driver.rows.seconds - before[0]) / took - guide[-1])
    ratio = median(b / a for a, b in zip(seconds["blend"], seconds["base"], strict=True))
    g = median(share / (1 - share) for share in guide)
    return {
        "in flight": width,
        "base tok/s": 1 / median(seconds["base"]),
        "blend tok/s": 1 / median(seconds["blend"]),
        "ratio": ratio,
        "g": g,
        "of the bound": ratio * (1 + g),
        "guide's share": median(guide),
        "decisions' share": median(decisions),
        "intervention rate": median(rates),
        "over windows": served
        and median(b / a for a, b in zip(seconds["blend"], seconds["windows"], strict=True)),
    }


def written(out: Generation) -> int:
    """Tokens of the base that a text took, its end included."""
    return len(out.token_ids) + (out.stop_reason == "end")


def speed_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*("" if value is None else f"{value:.3g}" for value in row.values()))
    return table


if __name__ == "__main__":
    typer.run(main)
