"""Throughput against batch size: the base alone, NUDGING and BlendIn, many prompts at once.

Every arm decodes the same GSM8K questions in the same process, one arm after the other and the
whole round `--repeats` times; the figures are medians. Besides, the same work one prompt at a time,
and transformers' own batched `generate` of the base (left-padded, greedy, at the largest batch
size). Targets, on the default pair and a 2-core CPU with 64 questions x 64 tokens:

    BlendIn batched / BlendIn one by one            >= 4
    BlendIn / generate x (1 + r·c)                  >= 1.0

in tokens a second, with r the intervention rate and c the time of a guide step over that of a base
step, both of one token for every sequence of the largest batch. Small batch sizes decode fewer of
the questions (at least four times the batch), for they take longest.

    python benchmarks/throughput.py [--questions FILE] [--json FILE] [--plot FILE]
    python benchmarks/throughput.py --shapes llama --dtype bfloat16 --largest 256    # on a GPU
"""

from __future__ import annotations

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from decode import random_pair, threshold_for_rate
from measure import step_seconds, surroundings, timed
from rich.console import Console
from rich.table import Table
from shapes import PAIRS

from blendin import BaseOnly, Blend, BlendInGenerator, Generation, Nudge
from blendin.evaluation import tables
from blendin.evaluation.tasks import data
from blendin.models import default_pair
from blendin.models.local import LanguageModel

console = Console()


def read_questions(file: Path | None, count: int) -> list[str]:
    """The first questions of GSM8K's test set; from a file, $BLENDIN_DATA or the hub."""
    try:
        rows = data.rows("gsm8k") if file is None else tables.read(file, ("question",)).rows
    except ValueError as error:
        raise typer.BadParameter(f"{error}; --questions names a file") from error
    questions = [row["question"] for row in rows]
    return (questions * (count // len(questions) + 1))[:count]


def padded_generate(lm: LanguageModel, texts: list[str], batch: int, length: int) -> int:
    """transformers' own batched greedy decoding; how many tokens it made, END's included."""
    made = 0
    for begin in range(0, len(texts), batch):
        ids = [lm.encode_prompt(text) for text in texts[begin : begin + batch]]
        widest = max(map(len, ids))
        pad = lm.tokenizer.pad_token_id or 0
        padded = torch.tensor([[pad] * (widest - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (widest - len(row)) + [1] * len(row) for row in ids])
        out = lm.model.generate(
            padded.to(lm.device),
            attention_mask=mask.to(lm.device),
            do_sample=False,
            max_new_tokens=length,
        )
        for row in out[:, widest:].tolist():
            end = next((place for place, id in enumerate(row) if id in lm.end_ids), len(row) - 1)
            made += end + 1
    return made


def speed(outs: list[Generation], seconds: float) -> float:
    assert all(out.error is None for out in outs), [out.error for out in outs]
    return sum(len(out.steps) for out in outs) / seconds


class Speeds:
    """Tokens a second of every arm, round after round.

    Attributes:
        curves: of each arm by batch size.
        plain: of transformers' `generate` at the largest batch size.
        alone: of BlendIn, one prompt after the other.
        rates: BlendIn's intervention rates at the largest batch size.
    """

    def __init__(
        self,
        gen: BlendInGenerator,
        threshold: float,
        texts: list[str],
        sizes: list[int],
        max_new_tokens: int,
        max_cached_tokens: int | None,
    ) -> None:
        self.gen, self.texts, self.largest = gen, texts, sizes[-1]
        self.max_new_tokens, self.max_cached_tokens = max_new_tokens, max_cached_tokens
        self.arms: dict[str, Any] = {
            "base alone": BaseOnly(),
            "NUDGING": Nudge(threshold),
            "BlendIn": Blend(threshold),
        }
        prompts = [gen.generate([t], policy=BaseOnly(), max_new_tokens=1)[0] for t in texts]
        self.base_texts = [out.settings["base_prompt"] for out in prompts]
        self.curves: dict[str, dict[int, list[float]]] = {
            arm: {size: [] for size in sizes} for arm in self.arms
        }
        self.plain: list[float] = []
        self.alone: list[float] = []
        self.rates: list[float] = []

    def measure_arms(self, size: int) -> None:
        """Every arm at one batch size."""
        count = len(self.texts) if size == self.largest else max(8, 4 * size)
        for arm, policy in self.arms.items():
            outs, seconds = timed(
                partial(
                    self.gen.generate,
                    self.texts[:count],
                    policy=policy,
                    max_batch_size=size,
                    max_cached_tokens=self.max_cached_tokens,
                    max_new_tokens=self.max_new_tokens,
                    stop=(),
                    progress=False,
                )
            )
            self.curves[arm][size].append(speed(outs, seconds))
            console.print(f"{arm}, batch size {size}: {self.curves[arm][size][-1]:.1f} tok/s")
            if arm == "BlendIn" and size == self.largest:
                steps = sum(len(out.steps) for out in outs)
                self.rates.append(sum(out.interventions for out in outs) / steps)

    def measure_generate(self, size: int) -> None:
        """transformers' own batches of the base."""
        made, seconds = timed(
            partial(padded_generate, self.gen.base, self.base_texts, size, self.max_new_tokens)
        )
        self.plain.append(made / seconds)
        console.print(f"generate, batch size {size}: {self.plain[-1]:.1f} tok/s")

    def measure_one_by_one(self) -> None:
        """BlendIn on one prompt after the other."""
        asked: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "stop": ()}
        asked["speculate"] = "off"
        asked["policy"] = self.arms["BlendIn"]
        outs, seconds = timed(lambda: [self.gen.generate(text, **asked) for text in self.texts])
        self.alone.append(speed(outs, seconds))
        console.print(f"BlendIn, one by one: {self.alone[-1]:.1f} tok/s")

    def summary(self) -> dict[str, Any]:
        """Medians over the rounds, and the two ratios that have targets."""
        gen, texts = self.gen, self.base_texts[: self.largest]
        cost = step_seconds(gen.guide, texts) / step_seconds(gen.base, texts)
        rate, blend = statistics.median(self.rates), self.curves["BlendIn"][self.largest]
        alone = statistics.median(self.alone) if self.alone else None
        return {
            "pair": [gen.base.name, gen.guide.name],
            "questions": len(self.texts),
            "max_new_tokens": self.max_new_tokens,
            "tokens_per_second": {
                arm: {size: statistics.median(values) for size, values in curve.items()}
                for arm, curve in self.curves.items()
            },
            "generate": statistics.median(self.plain),
            "one_by_one": alone,
            "intervention_rate": rate,
            "guide_step_over_base_step": cost,
            "over_one_by_one": None if alone is None else statistics.median(blend) / alone,
            "over_generate_times_1_plus_rc": statistics.median(
                mine / theirs * (1 + rate * cost)
                for mine, theirs in zip(blend, self.plain, strict=True)
            ),
        }


def main(
    base: str = default_pair.DEFAULT_BASE,
    guide: str = default_pair.DEFAULT_GUIDE,
    dtype: str = "float32",
    device_map: str | None = None,
    shapes: Annotated[
        str | None, typer.Option(help=f"Random weights instead: {', '.join(PAIRS)}.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="GSM8K's test file.")] = None,
    count: Annotated[int, typer.Option(help="Questions at the largest batch size.")] = 64,
    max_new_tokens: int = 64,
    largest: Annotated[int, typer.Option(help="The largest batch size; a power of 2.")] = 32,
    max_cached_tokens: int | None = None,
    repeats: int = 1,
    sweep: Annotated[bool, typer.Option(help="The smaller batch sizes too.")] = True,
    one_by_one: Annotated[bool, typer.Option(help="The same work one by one too.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the curve to this file.")] = None,
) -> None:
    """Measure every arm at every batch size."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    count = max(count, largest)
    texts = read_questions(questions, count)
    if shapes is None:
        gen = BlendInGenerator(base, guide, dtype=dtype, device_map=device_map)
        threshold = Blend.threshold
    else:
        gen = random_pair(shapes, dtype)
        threshold = threshold_for_rate(gen, 0.15, max_new_tokens)
    gen.generate(texts[:2], max_new_tokens=2)  # warm
    sizes = [1 << power for power in range(largest.bit_length())]
    sizes = sizes if sweep else sizes[-1:]
    speeds = Speeds(gen, threshold, texts, sizes, max_new_tokens, max_cached_tokens)
    for _ in range(repeats):
        for size in reversed(sizes):
            speeds.measure_arms(size)
            if size == sizes[-1]:
                speeds.measure_generate(size)
                if one_by_one:
                    speeds.measure_one_by_one()
    result = {**surroundings(), "dtype": dtype, **speeds.summary()}
    report(result)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
    if plot is not None:
        draw(result, plot)


def report(result: dict[str, Any]) -> None:
    curves = result["tokens_per_second"]
    title = f"{', '.join(result['pair'])}: tokens a second"
    table = Table("batch size", *curves, title=title)
    for size in next(iter(curves.values())):
        table.add_row(str(size), *(f"{curve[size]:.1f}" for curve in curves.values()))
    console.print(table)
    console.print(f"{result['machine']}, {result['versions']}, {result['dtype']}")
    console.print(
        f"transformers' batched generate of the base: {result['generate']:.1f} tok/s; "
        f"r = {result['intervention_rate']:.3f}, c = {result['guide_step_over_base_step']:.3f}"
    )
    if result["one_by_one"] is not None:
        console.print(
            f"BlendIn one by one: {result['one_by_one']:.1f} tok/s; batched it is "
            f"{result['over_one_by_one']:.2f} x that (target 4)"
        )
    console.print(
        "BlendIn / generate x (1 + r·c) = "
        f"{result['over_generate_times_1_plus_rc']:.3f} (target 1.0)"
    )


def draw(result: dict[str, Any], file: Path) -> None:
    """Throughput against batch size, both on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    styles = {"base alone": "o-", "NUDGING": "s-", "BlendIn": "D-"}
    colours = {"base alone": "#555555", "NUDGING": "#e8862e", "BlendIn": "#2f7fd6"}
    for arm, curve in result["tokens_per_second"].items():
        sizes = [int(size) for size in curve]
        axes.plot(sizes, list(curve.values()), styles[arm], color=colours[arm], label=arm)
    largest = max(sizes)
    axes.plot(
        [largest], [result["generate"]], "k*", markersize=11, label="transformers generate (base)"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    ticks = [2**power for power in range(2, 20)]
    low, high = axes.get_ylim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [str(tick) for tick in shown])
    axes.set_xlabel("sequences in flight (max_batch_size)")
    axes.set_ylabel("tokens a second")
    axes.set_title(
        f"{' + '.join(result['pair'])}, {result['dtype']}, {result['machine']}", fontsize=9
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    typer.run(main)
