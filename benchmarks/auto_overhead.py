"""What speculate="auto" costs where nothing can be gained: beside "off", on a random pair.

"auto" must never be slower than "off" by more than 3 % in total, also where a forward over w tokens
takes nearly w times as long as one over a single token, and where no draft is right. Both arms run
in one process, prompt by prompt, and take turns in going first; every generator starts anew, so
that what it learns at the beginning is counted. Two cases:

    greedy    random models write loops, which n-grams foresee: drafts are right
    sampled   near-uniform draws: hardly any draft is right

    python benchmarks/auto_overhead.py [--shapes qwen-small] [--shrink 7] [--dtype float32]
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from decode import PROMPTS, random_pair, surroundings, threshold_for_rate
from rich.console import Console
from rich.table import Table
from shapes import PAIRS

from blendin import Blend, BlendInGenerator
from blendin.engine.pair import Pair

CASES: dict[str, dict[str, Any]] = {"greedy": {}, "sampled": {"do_sample": True, "seed": 0}}
Seconds = tuple[float, float]
"""On the clock, and of this process."""


def main(
    shapes: Annotated[str, typer.Option(help=f"One of {', '.join(PAIRS)}.")] = "qwen-small",
    shrink: Annotated[int, typer.Option(help="Divides the number of layers.")] = 1,
    dtype: str = "float32",
    rate: Annotated[float, typer.Option(help="Of interventions.")] = 0.2,
    prompts: int = 4,
    max_new_tokens: int = 96,
    case: Annotated[list[str] | None, typer.Option(help="Repeated.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure both arms and print "auto" over "off"."""
    gen = random_pair(shapes, dtype, shrink)
    policy = Blend(threshold_for_rate(gen, rate, 24))
    report = surroundings() | {"pair": PAIRS[shapes], "shrink": shrink, "dtype": dtype, "cases": {}}
    console = Console()
    columns = ["off, s", "auto, s", "auto / off", "of CPU time", "by prompt", "drafted", "accepted"]
    table = Table("case", *columns, title=f"{PAIRS[shapes]}, layers / {shrink}, {dtype}")
    for name in case or CASES:
        asked = CASES[name] | {"policy": policy, "max_new_tokens": max_new_tokens, "stop": ()}
        found = measure(gen, PROMPTS[:prompts], asked)
        report["cases"][name] = found
        table.add_row(
            name,
            *(f"{sum(found[arm]):.1f}" for arm in ("off", "auto")),
            *(f"{found[ratio]:.3f}" for ratio in ("ratio", "cpu_ratio", "median_ratio")),
            *(str(found[count]) for count in ("drafted", "accepted")),
        )
    console.print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n")


def measure(gen: BlendInGenerator, prompts: list[str], asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds by arm and prompt, and the ratios of the sums."""
    gen.pair = Pair(gen.base, gen.guide)  # one that has learned nothing
    gen.generate(prompts[0], speculate="off", **asked | {"max_new_tokens": 2})
    taken: dict[str, list[Seconds]] = {"off": [], "auto": []}
    drafted = accepted = 0
    for place, prompt in enumerate(prompts):
        texts = {}
        for arm in ("off", "auto") if place % 2 else ("auto", "off"):
            wall, own = time.perf_counter(), time.process_time()
            out = gen.generate(prompt, speculate=arm, **asked)
            taken[arm].append((time.perf_counter() - wall, time.process_time() - own))
            texts[arm] = out.token_ids
            if arm == "auto":
                drafted += out.stats["drafted"]
                accepted += out.stats["accepted"]
        if texts["off"] != texts["auto"]:
            print(f"the texts of prompt {place} differ (near-ties)")
    sums = {arm: [sum(part) for part in zip(*each, strict=True)] for arm, each in taken.items()}
    by_prompt = zip(taken["auto"], taken["off"], strict=True)
    return {
        "off": [wall for wall, _ in taken["off"]],
        "auto": [wall for wall, _ in taken["auto"]],
        "ratio": sums["auto"][0] / sums["off"][0],
        "cpu_ratio": sums["auto"][1] / sums["off"][1],
        "median_ratio": median(auto[0] / off[0] for auto, off in by_prompt),
        "drafted": drafted,
        "accepted": accepted,
    }


if __name__ == "__main__":
    typer.run(main)
