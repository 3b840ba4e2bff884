"""Drafts by the guide against how often it agrees with the base, on random models of real shapes.

The guide is a random model whose forwards run in full; then the logits that it gives are made to
prefer, at a given rate, the token that the base is going to write, and another one elsewhere. At
steps where the base is unsure it always agrees, so that the text is the base's own and every arm
writes the same. What is measured stands beside what the costs measured in the same run allow at
best: with acceptance a, n draft tokens a round, base steps of T(1 + n) and guide steps of G,

    (1 - a^(n + 1)) / (1 - a) / (T(1 + n) + n·G)   tokens a second.

Target, on a GPU: at a rate of 0.8, >= 1.5 × the base alone, step by step.

    python benchmarks/agreement.py --shapes llama --dtype bfloat16 [--json FILE]
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from decode import PROMPTS, random_pair, threshold_for_rate
from measure import step_seconds, surroundings, timed
from rich.console import Console
from rich.table import Table
from shapes import PAIRS

from blendin import BaseOnly, Blend, BlendInGenerator
from blendin.models.context import Context
from blendin.speculation import drafters

LENGTHS = (1, 2, 3, 4, 6, 8, 12)


def main(
    shapes: Annotated[str, typer.Option(help=f"One of {', '.join(PAIRS)}.")] = "llama",
    dtype: str = "bfloat16",
    rate: Annotated[list[float] | None, typer.Option(help="Repeated; 0.6, 0.8, 0.9.")] = None,
    max_new_tokens: int = 128,
    repeats: int = 3,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every length at every rate, interleaved, and print the curves."""
    gen = random_pair(shapes, dtype)
    drafters.NgramLookup.draft = lambda self, ids, count: None  # random models write loops
    policy = Blend(threshold_for_rate(gen, 0.15, max_new_tokens))
    asked: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": ()}
    plan = gen.generate(PROMPTS[0], policy=BaseOnly(), speculate="off", **asked)
    summary = surroundings() | {"pair": PAIRS[shapes], "dtype": dtype, "rates": {}}
    console = Console()
    for each in rate or (0.6, 0.8, 0.9):
        oracle = Agreeing(gen, plan, policy.threshold, each)
        arms: dict[str, dict[str, Any]] = {"base alone": {"policy": BaseOnly(), "speculate": "off"}}
        arms |= {"blend": {"policy": policy, "speculate": "off"}}
        arms |= {str(n): {"policy": policy, "speculate": n} for n in LENGTHS}
        arms |= {"guide": {"policy": policy, "speculate": "guide"}}
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        with oracle:
            for name in [*arms] * (1 + repeats):
                out, seconds = timed(partial(gen.generate, PROMPTS[0], **arms[name], **asked))
                speeds[name].append(len(out.steps) / seconds)
                assert out.token_ids == plan.token_ids, f"{name} wrote another text"
        made = {name: median(values[1:]) for name, values in speeds.items()}
        best = optimum(gen, each)
        summary["rates"][each] = {"tokens_per_second": made, "optimum": best}
        console.print(curve(each, made, best))
    console.print(f"{summary['machine']}, {summary['versions']}", markup=False)
    if json_file is not None:
        json_file.write_text(json.dumps(summary, indent=2) + "\n")


class Agreeing:
    """Makes the guide agree with the base at a rate, while it is entered."""

    def __init__(self, gen: BlendInGenerator, plan: Any, threshold: float, rate: float) -> None:
        self.model, self.original = gen.guide, gen.guide.forward_batch
        unsure = [step.base_top_prob < threshold for step in plan.steps]
        # The share of the confident steps that makes up the rate together with the others.
        sure = len(unsure) - sum(unsure)
        share = (rate * len(unsure) - sum(unsure)) / sure if sure else 1.0
        draws = random.Random(0)
        self.tokens = [
            token if doubtful or draws.random() < share else (token + 1) % 1000
            for token, doubtful in zip(plan.token_ids, unsure, strict=True)
        ]
        settings = gen.generate(PROMPTS[0], max_new_tokens=1).settings
        self.start = len(gen.guide.encode_prompt(settings["guide_prompt"]))

    def __enter__(self) -> None:
        self.model.forward_batch = self.forward_batch  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        self.model.forward_batch = self.original  # type: ignore[method-assign]

    def forward_batch(self, contexts: Sequence[Context]) -> torch.Tensor:
        logits = self.original(contexts).clone()
        for row, context in zip(logits, contexts, strict=True):
            place = len(context.ids) - self.start
            if 0 <= place < len(self.tokens):
                row[self.tokens[place]] = row.max() + 10
        return logits


def optimum(gen: BlendInGenerator, rate: float) -> dict[str, float]:
    """Tokens a second that the costs measured here allow, by the number of draft tokens."""
    prompt = PROMPTS[:1]
    base = {
        n: step_seconds(gen.base, prompt, width=1 + n, keep=False, room=512) for n in (0, *LENGTHS)
    }
    guide = step_seconds(gen.guide, prompt, keep=False, room=512)
    found = {str(n): (1 - rate ** (n + 1)) / (1 - rate) / (base[n] + n * guide) for n in LENGTHS}
    return {"0": 1 / base[0]} | found


def curve(rate: float, made: dict[str, float], best: dict[str, float]) -> Table:
    """Measured and best possible, beside each other."""
    table = Table(
        "draft tokens", "tok/s", "of the base alone", "optimum", title=f"agreement {rate}"
    )
    for name, speed in made.items():
        possible = best.get({"base alone": "0"}.get(name, name))
        table.add_row(
            name,
            f"{speed:.1f}",
            f"{speed / made['base alone']:.2f}",
            "" if possible is None else f"{possible:.1f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
