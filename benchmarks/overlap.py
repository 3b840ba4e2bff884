"""What it brings that the base steps on while the guide reads: by models that sleep, anywhere.

A base step and a guide's read take as long as told, whatever is in them: two tiny models sleep in
their forwards, which lets other threads run as a wait for a GPU does. All else is the real code:
scheduler, steps, decisions, the guide's thread. A policy intervenes at random, at a share of steps
that it is told. What GPUs would do is modelled so, not measured: both models' kernels are launched
by one interpreter there, which lets one thread run at a time.

    python benchmarks/overlap.py [--json FILE] [--plot FILE]

Arms: `waiting`, as on one device; `at once`, which never waits for the guide; `overlapped`, which
waits where that costs less (`OverlappedSteps.patience`). Beside them is what a waiting base would
make by arithmetic, B / (t_b + P t_g), P = 1 - (1 - r)^B being the chance that any of B rows
intervenes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from measure import surroundings
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from blendin import Blend, BlendInGenerator
from blendin.decision.prediction import Prediction
from blendin.engine import scheduler as engine
from blendin.engine.overlapped_steps import OverlappedSteps
from blendin.engine.request import Request
from blendin.engine.scheduler import Scheduler
from blendin.engine.sequence import SequenceState

console = Console()

TOKENS = 64
"""Of each text; another begins where one ends."""


@dataclass(frozen=True)
class Share(Blend):
    """Intervenes at a share of steps, whatever the base says.

    Attributes:
        share: it.
    """

    share: float = 0.2

    def intervenes(self, base: Prediction, greedy: bool = True) -> Tensor:
        return torch.rand(len(base.choice)) < self.share


class Clock:
    """How long forwards take."""

    seconds = 0.0

    def sleep(self, *_: Any) -> None:
        time.sleep(self.seconds)


def sleeping_model(seed: int) -> tuple[tuple[Any, PreTrainedTokenizerFast], Clock]:
    """A model of one layer and a token a byte, whose forwards take as long as its clock says."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={c: i for i, c in enumerate([*alphabet, "<end>"])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, eos_token_id=256,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[256] = 0  # texts seldom end by themselves
    clock = Clock()
    model.register_forward_pre_hook(clock.sleep)
    read = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<end>",
        chat_template="{% for message in messages %}{{ message['content'] }}{% endfor %}",
    )
    return (model, read), clock


def texts(gen: BlendInGenerator, share: float) -> Iterator[SequenceState]:
    """Without end; the first are of different lengths, so that not all end at one step."""
    count = 0
    while True:
        count += 1
        length = TOKENS if count > 64 else 1 + count * 37 % TOKENS
        asked = Request.of(
            "Why?", None, None, default_policy=Share(share=share), max_new_tokens=length, stop=()
        )
        yield asked.read(gen.pair)


def tokens_per_second(gen: BlendInGenerator, share: float, batch: int, seconds: float) -> float:
    """Of the scheduler with a full batch, over some seconds."""
    scheduler = Scheduler(gen.pair, texts(gen, share), max_batch_size=batch)
    with closing(scheduler):
        for duration in (seconds / 4, seconds):  # warmed up first
            began, steps = time.perf_counter(), scheduler.steps
            while (passed := time.perf_counter() - began) < duration:
                for _ in scheduler.turn():
                    pass
        return (scheduler.steps - steps) / passed


class AtOnce(OverlappedSteps):
    """Never waits while any sequence is free."""

    def patience(self, count: int) -> float | None:
        patience = super().patience(count)
        return patience if patience is None else 0.0


def main(
    base_ms: Annotated[float, typer.Option(help="A base step.")] = 60.0,
    ratios: Annotated[str, typer.Option(help="t_g / t_b, with commas.")] = "0.05,0.2,0.5,1,2",
    shares: Annotated[str, typer.Option(help="Rows that intervene.")] = "0.05,0.2,0.4",
    batches: Annotated[str, typer.Option(help="Sequences in flight.")] = "8,32",
    seconds: Annotated[float, typer.Option(help="Of each arm of each cell and round.")] = 1.8,
    repeats: Annotated[int, typer.Option(help="Rounds; medians are told.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the curves to this file.")] = None,
) -> None:
    """Measure every arm of every cell, the arms taking turns."""
    torch.set_num_threads(1)
    (base, base_clock), (guide, guide_clock) = sleeping_model(1), sleeping_model(2)
    arms = {
        name: (BlendInGenerator(base, guide, overlap=name != "waiting"), steps)
        for name, steps in (
            ("waiting", OverlappedSteps), ("at once", AtOnce), ("overlapped", OverlappedSteps)
        )
    }  # fmt: skip
    cells = [
        (int(batch), float(share), float(ratio))
        for batch in batches.split(",")
        for share in shares.split(",")
        for ratio in ratios.split(",")
    ]
    found = []
    for batch, share, ratio in track(cells, console=console):
        base_clock.seconds, guide_clock.seconds = base_ms / 1e3, ratio * base_ms / 1e3
        cell: dict[str, Any] = {"batch": batch, "share": share, "guide_over_base": ratio}
        chance = 1 - (1 - share) ** batch
        cell["waiting by arithmetic"] = batch / (base_ms / 1e3) / (1 + chance * ratio)
        rounds: dict[str, list[float]] = {name: [] for name in arms}
        for seed in range(repeats):
            for name, (gen, steps) in arms.items():
                engine.OverlappedSteps = steps  # type: ignore[misc]
                torch.manual_seed(seed)
                rounds[name].append(tokens_per_second(gen, share, batch, seconds))
        cell |= {name: median(values) for name, values in rounds.items()}
        found.append(cell)
    result = {**surroundings(), "base_ms": base_ms, "cells": found}
    report(result)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
    if plot is not None:
        draw(result, plot)


def report(result: dict[str, Any]) -> None:
    """A table of tokens a second, and of what overlapping makes of them."""
    names = ("waiting by arithmetic", "waiting", "at once", "overlapped")
    title = f"tokens a second, a base step of {result['base_ms']:g} ms"
    table = Table("in flight", "r", "t_g / t_b", *names, "overlapped / waiting", title=title)
    for cell in result["cells"]:
        table.add_row(
            *(f"{cell[name]:g}" for name in ("batch", "share", "guide_over_base")),
            *(f"{cell[name]:.0f}" for name in names),
            f"{cell['overlapped'] / cell['waiting']:.2f}",
        )
    console.print(table)
    console.print(f"{result['machine']}, {result['versions']}")


def draw(result: dict[str, Any], file: Path) -> None:
    """Each arm over waiting, against t_g / t_b: a panel for each number in flight."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cells = result["cells"]
    batches = sorted({cell["batch"] for cell in cells})
    shares = sorted({cell["share"] for cell in cells})
    figure, panels = plt.subplots(
        1, len(batches), figsize=(4.6 * len(batches), 4), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    colours = dict(zip(shares, ("#2f7fd6", "#e8862e", "#2e9e6b", "#8a5cc2"), strict=False))
    for axes, batch in zip(panels[0], batches, strict=True):
        for share in shares:
            own = [c for c in cells if (c["batch"], c["share"]) == (batch, share)]
            across = [cell["guide_over_base"] for cell in own]
            for arm, style in (("overlapped", "o-"), ("at once", "x:")):
                over = [cell[arm] / cell["waiting"] for cell in own]
                label = f"r = {share:g}" if arm == "overlapped" else None
                axes.plot(across, over, style, color=colours[share], label=label)
        axes.axhline(1, color="#555555", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xticks(across, [f"{ratio:g}" for ratio in across], minor=False)
        axes.minorticks_off()
        axes.set_xlabel("a guide's read over a base step, t_g / t_b")
        axes.set_title(f"{batch} in flight", fontsize=10)
        axes.grid(alpha=0.3)
    panels[0][0].plot([], [], "x:", color="#555555", label="at once: never waiting")
    panels[0][0].set_ylabel("tokens a second over those of a base that waits")
    panels[0][0].legend(frameon=False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    typer.run(main)
