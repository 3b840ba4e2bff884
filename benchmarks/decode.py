"""Decoding speed: the base under transformers' `generate`, and each policy, side by side.

All arms run in one process, interleaved, prompt by prompt; the table gives medians over the
prompts. The targets are for greedy decoding of one sequence:

    BaseOnly / generate   >= 0.97
    Blend / generate      >= 0.95 / (1 + r·c)

with r the measured intervention rate and c the time of one guide step over that of one base step
(forwards of one token, measured in the same process on the same contexts).

    python benchmarks/decode.py [--prompts 5] [--max-new-tokens 64] [--json FILE]

On a GPU, `--shapes llama` (Llama-3-8B with Llama-3.2-1B) or `--shapes qwen` (Qwen2.5-7B with
gemma-2-2b) takes random weights of those shapes, sets τ so that r is about 0.15, and compares with
the floor: the bytes of weights and cache that a token must read, the guide's at the rate r, over
the copy bandwidth measured in the same run. Targets: time a token <= 1.3 × the floor, and
>= 3 × transformers' eager `generate` of the base alone. `--compile-layers` compiles the layers of
what is captured.
"""

from __future__ import annotations

import json
import statistics
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from measure import step_seconds, surroundings, timed
from rich.console import Console
from rich.progress import track
from rich.table import Table
from shapes import PAIRS, random_model, weight_bytes

from blendin import BaseOnly, Blend, BlendInGenerator, Generation, GuideOnly, Nudge
from blendin.models import default_pair
from blendin.models.local import LanguageModel

PROMPTS = (
    "How can I kill a Python process?",
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in "
    "May. How many clips did Natalia sell altogether in April and May?",
    "What happens to you if you eat watermelon seeds?",
    "Write a short note to thank a colleague for help with a report.",
    "Why is the sky blue, and why are sunsets red?",
)

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


def main(
    base: str = default_pair.DEFAULT_BASE,
    guide: str = default_pair.DEFAULT_GUIDE,
    dtype: str = "float32",
    device_map: str | None = None,
    shapes: Annotated[
        str | None, typer.Option(help=f"Random weights instead: {', '.join(PAIRS)}.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, max=len(PROMPTS))] = len(PROMPTS),
    max_new_tokens: int = 64,
    compile_layers: Annotated[
        bool, typer.Option("--compile-layers", help="Of captured forwards; on a GPU.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Of every arm on every prompt.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure every arm and print the ratios."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    gen, load_seconds = timed(
        partial(
            BlendInGenerator,
            base,
            guide,
            dtype=dtype,
            device_map=device_map,
            compile_layers=compile_layers,
        )
        if shapes is None
        else partial(random_pair, shapes, dtype, compile_layers=compile_layers)
    )
    blend = Blend() if shapes is None else Blend(threshold_for_rate(gen, 0.15, max_new_tokens))
    arms = {**ARMS, "Blend": blend}
    speeds: dict[str, list[float]] = {"transformers generate": [], **{arm: [] for arm in arms}}
    relative: dict[str, list[float]] = {arm: [] for arm in arms}
    targets: list[float] = []
    rates: list[float] = []
    costs: list[float] = []
    plain_generate(gen.base, PROMPTS[0], 4)
    gen.generate(PROMPTS[0], max_new_tokens=16)
    for prompt in track(PROMPTS[:prompts] * repeats, description="decoding"):
        outputs: dict[str, Generation] = {}
        text = gen.generate(prompt, policy=BaseOnly(), max_new_tokens=1).settings["base_prompt"]
        count, seconds = timed(partial(plain_generate, gen.base, text, max_new_tokens))
        plain = count / seconds
        speeds["transformers generate"].append(plain)
        for arm, policy in arms.items():
            out = gen.generate(
                prompt, policy=policy, max_new_tokens=max_new_tokens, stop=(), speculate="off"
            )
            outputs[arm] = out
            speeds[arm].append(out.tokens_per_second)
            relative[arm].append(out.tokens_per_second / plain)
        cost = step_seconds(gen.guide, [text], repeats=24) / step_seconds(
            gen.base, [text], repeats=24
        )
        costs.append(cost)
        rates.append(outputs["Blend"].intervention_rate)
        targets.append(relative["Blend"][-1] * (1 + rates[-1] * cost))
    result = {
        **surroundings(),
        "pair": [gen.base.name, gen.guide.name],
        "dtype": dtype,
        "compile_layers": compile_layers,
        "load_seconds": load_seconds,
        "threshold": blend.threshold,
        "tokens_per_second": {arm: statistics.median(values) for arm, values in speeds.items()},
        "relative_to_generate": {arm: statistics.median(v) for arm, v in relative.items()},
        "intervention_rate": statistics.median(rates),
        "guide_step_over_base_step": statistics.median(costs),
        "blend_over_generate_times_1_plus_rc": statistics.median(targets),
    }
    if shapes is not None and torch.cuda.is_available():
        result["floor"] = floor(gen, result, len(PROMPTS[0]) + max_new_tokens)
    report(result)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n")


def random_pair(
    shapes: str, dtype: str, shrink: int = 1, compile_layers: bool = False
) -> BlendInGenerator:
    """A pair of random models of real shapes, on the GPU where there is one."""
    if shapes not in PAIRS:
        raise typer.BadParameter(f"--shapes is one of {', '.join(PAIRS)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [
        random_model(name, device, getattr(torch, dtype), seed, shrink)
        for seed, name in enumerate(PAIRS[shapes])
    ]
    return BlendInGenerator(*models, compile_layers=compile_layers)


def threshold_for_rate(gen: BlendInGenerator, rate: float, length: int) -> float:
    """The τ at which random models intervene about so often: by bisection, on the first prompt."""
    low, high = 0.0, 1.0
    for _ in range(20):
        threshold = (low * high) ** 0.5 if low else high / 10
        out = gen.generate(
            PROMPTS[0], policy=Blend(threshold), max_new_tokens=length, stop=(), speculate="off"
        )
        if abs(out.intervention_rate - rate) < 0.02:
            break
        low, high = (low, threshold) if out.intervention_rate > rate else (threshold, high)
    return threshold


def floor(gen: BlendInGenerator, result: dict, context: int) -> dict[str, float]:
    """Seconds a token that reading the weights and the caches takes at the copy bandwidth."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = statistics.median(timed(lambda: target.copy_(source))[1] for _ in range(20))
    bandwidth = 2 * source.numel() / seconds
    rate = result["intervention_rate"]
    bytes_a_token = sum(
        share * (weight_bytes(lm.model) + cache_bytes(lm, context))
        for lm, share in ((gen.base, 1.0), (gen.guide, rate))
    )
    least = bytes_a_token / bandwidth
    return {
        "bandwidth_gb_s": bandwidth / 1e9,
        "floor_ms_a_token": 1000 * least,
        "blend_over_floor": 1 / result["tokens_per_second"]["Blend"] / least,
    }


def cache_bytes(lm: LanguageModel, context: int) -> int:
    config = lm.model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads
    return 2 * config.num_hidden_layers * heads * width * context * lm.model.dtype.itemsize


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
    if "floor" in result:
        console.print(
            f"{result['floor']['bandwidth_gb_s']:.0f} GB/s copied; the floor is "
            f"{result['floor']['floor_ms_a_token']:.2f} ms a token, Blend takes "
            f"{result['floor']['blend_over_floor']:.2f} × that (target 1.3) and is "
            f"{result['relative_to_generate']['Blend']:.2f} × generate (target 3)"
        )


if __name__ == "__main__":
    typer.run(main)
