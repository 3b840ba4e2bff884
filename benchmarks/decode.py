"""Decoding speed: the base under transformers' `generate`, and each policy, side by side.

All arms run in one process, interleaved, prompt by prompt; the table gives medians over the
prompts. The targets are for greedy decoding of one sequence:

    BaseOnly / generate   >= 0.97
    Blend / generate      >= 0.95 / (1 + r·c)

with r the measured intervention rate and c the time of one guide step over that of one base step
(forwards of one token, measured in the same process on the same contexts).

    python benchmarks/decode.py [--prompts 5] [--max-new-tokens 64] [--json FILE]
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from blendin import BaseOnly, Blend, BlendInGenerator, Generation, GuideOnly, Nudge, pairs
from blendin.model import Context, LanguageModel

PROMPTS = (
    "How can I kill a Python process?",
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in "
    "May. How many clips did Natalia sell altogether in April and May?",
    "What happens to you if you eat watermelon seeds?",
    "Write a short note to thank a colleague for help with a report.",
    "Why is the sky blue, and why are sunsets red?",
)

T = TypeVar("T")

ARMS = {
    "BaseOnly": BaseOnly(),
    "Blend": Blend(),
    "Nudge(token)": Nudge(unit="token"),
    "Nudge(word)": Nudge(),
    "GuideOnly": GuideOnly(),
}


def plain_generate(model: LanguageModel, text: str, length: int) -> int:
    """transformers' own greedy decoding; how many tokens it made."""
    ids = torch.tensor([model.encode_prompt(text)], device=model.device)
    out = model.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=length,
    )
    return out.shape[1] - ids.shape[1]


def step_seconds(model: LanguageModel, text: str, repeats: int) -> float:
    """The median time of one forward of one token after a prompt."""
    context = Context(model.encode_prompt(text))
    model.forward(context)
    times = []
    for _ in range(repeats):
        context.ids.append(context.ids[-1])
        times.append(timed(lambda: model.forward(context))[1])
    return statistics.median(times)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def main(
    base: str = pairs.DEFAULT_BASE,
    guide: str = pairs.DEFAULT_GUIDE,
    dtype: str = "float32",
    device_map: str | None = None,
    prompts: Annotated[int, typer.Option(min=1, max=len(PROMPTS))] = len(PROMPTS),
    max_new_tokens: int = 64,
    repeats: Annotated[int, typer.Option(help="Of every arm on every prompt.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every arm and print the ratios."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    gen, load_seconds = timed(
        lambda: BlendInGenerator(base, guide, dtype=dtype, device_map=device_map)
    )
    speeds: dict[str, list[float]] = {"transformers generate": [], **{arm: [] for arm in ARMS}}
    relative: dict[str, list[float]] = {arm: [] for arm in ARMS}
    targets: list[float] = []
    rates: list[float] = []
    costs: list[float] = []
    plain_generate(gen.base, PROMPTS[0], 4)
    gen.generate(PROMPTS[0], max_new_tokens=4)
    for prompt in track(PROMPTS[:prompts] * repeats, description="decoding"):
        outputs: dict[str, Generation] = {}
        text = gen.generate(prompt, policy=BaseOnly(), max_new_tokens=1).settings["base_prompt"]
        count, seconds = timed(partial(plain_generate, gen.base, text, max_new_tokens))
        plain = count / seconds
        speeds["transformers generate"].append(plain)
        for arm, policy in ARMS.items():
            out = gen.generate(prompt, policy=policy, max_new_tokens=max_new_tokens)
            outputs[arm] = out
            speeds[arm].append(out.tokens_per_second)
            relative[arm].append(out.tokens_per_second / plain)
        cost = step_seconds(gen.guide, text, 24) / step_seconds(gen.base, text, 24)
        costs.append(cost)
        rates.append(outputs["Blend"].intervention_rate)
        targets.append(relative["Blend"][-1] * (1 + rates[-1] * cost))
    result = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "pair": [gen.base.name, gen.guide.name],
        "dtype": dtype,
        "load_seconds": load_seconds,
        "tokens_per_second": {arm: statistics.median(values) for arm, values in speeds.items()},
        "relative_to_generate": {arm: statistics.median(v) for arm, v in relative.items()},
        "intervention_rate": statistics.median(rates),
        "guide_step_over_base_step": statistics.median(costs),
        "blend_over_generate_times_1_plus_rc": statistics.median(targets),
    }
    report(result)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n")


def report(result: dict) -> None:
    console = Console()
    table = Table("arm", "tok/s", "of generate", title=", ".join(result["pair"]))
    for arm, speed in result["tokens_per_second"].items():
        ratio = result["relative_to_generate"].get(arm, 1.0)
        table.add_row(arm, f"{speed:.2f}", f"{ratio:.3f}")
    console.print(table)
    console.print(f"{result['machine']}, {result['versions']}, {result['dtype']}")
    console.print(f"loaded in {result['load_seconds']:.1f} s")
    console.print(
        f"r = {result['intervention_rate']:.3f}, c = {result['guide_step_over_base_step']:.3f}"
    )
    base = result["relative_to_generate"]["BaseOnly"]
    blend = result["blend_over_generate_times_1_plus_rc"]
    console.print(f"BaseOnly / generate = {base:.3f} (target 0.97)")
    console.print(f"Blend / generate × (1 + r·c) = {blend:.3f} (target 0.95)")


if __name__ == "__main__":
    typer.run(main)
