"""What looking ahead gains over one request a token, on two completions servers.

Arms take turns, prompt by prompt, in one process against the same servers: the base's server alone
(one request for all tokens, with and without log-probabilities), BlendIn with one request a token
("off", the paper's way) and with windows ("auto"); then the same with many sequences in flight.
Targets: windows 2 times as fast alone and 2.5 times with 16 in flight; base requests a token at
most 2 r + 0.05; the same tokens.

    bash scripts/vllm up && python benchmarks/remote.py --data DIR [--prompts 8] [--json FILE]
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import typer
from measure import surroundings
from rich.console import Console
from rich.progress import track
from rich.table import Table
from speculation import differing

from blendin import BlendInGenerator, Generation
from blendin.evaluation.tasks import registry as tasks
from blendin.models.remote import completions
from blendin.models.remote.dialect import Request
from blendin.models.remote.model import RemoteModel

WAYS = ("off", "auto")
ALONE = {"base server": None, "base server, log-probabilities": 100}


def main(
    base: str = "http://127.0.0.1:8100/v1",
    guide: str = "http://127.0.0.1:8200/v1",
    data: Annotated[Path | None, typer.Option(help="Folder of GSM8K and XSTest.")] = None,
    prompts: Annotated[int, typer.Option(help="Of each of the two, alone and in flight.")] = 8,
    max_new_tokens: int = 64,
    rounds: Annotated[int, typer.Option(help="Of the sequences in flight.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure both ways, alone and in flight, and print the ratios."""
    gen = BlendInGenerator(base, guide)
    base_model = gen.base
    assert isinstance(base_model, RemoteModel)
    asked = [
        (item.prompt, task.system)
        for task in (tasks.load(name, data, prompts) for name in ("gsm8k", "xstest"))
        for item in task.items
    ]
    waits = {"base": Waiting(gen.base), "guide": Waiting(gen.guide)}
    gen.generate(asked[0][0], max_new_tokens=8)  # warm
    singles: dict[str, list[Generation]] = {way: [] for way in WAYS}
    seconds: dict[str, list[float]] = {name: [] for name in (*ALONE, *WAYS)}
    waited = {way: dict.fromkeys(waits, 0.0) for way in WAYS}
    for place, (prompt, system) in enumerate(track(asked, "one at a time")):
        names = [*ALONE, *WAYS]
        for name in names[place % len(names) :] + names[: place % len(names)]:
            if name in ALONE:
                text = f"{system}\n" if system else ""
                ids = base_model.encode_prompt(f"{text}Question: {prompt}\nAnswer:")
                took = server_alone(base_model, ids, max_new_tokens, ALONE[name])
                seconds[name].append(took / max_new_tokens)
                continue
            for wait in waits.values():
                wait.seconds = 0.0
            out = gen.generate(
                prompt, system=system, max_new_tokens=max_new_tokens, stop=(), speculate=name
            )
            singles[name].append(out)
            seconds[name].append(out.seconds / len(out.steps))
            for role, wait in waits.items():
                waited[name][role] += wait.seconds
    for wait in waits.values():
        wait.stop()
    together: dict[str, list[Generation]] = {way: [] for way in WAYS}
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for each in track(range(rounds), f"{len(asked)} in flight"):
        for name in WAYS if each % 2 == 0 else WAYS[::-1]:
            began = time.perf_counter()
            outs = gen.generate(
                [prompt for prompt, _ in asked],
                system=[system for _, system in asked],
                max_new_tokens=max_new_tokens,
                stop=(),
                speculate=name,
                max_batch_size=len(asked),
                progress=False,
            )
            tokens = sum(len(out.steps) for out in outs)
            speeds[name].append(tokens / (time.perf_counter() - began))
            together[name] = outs
    report(gen, seconds, singles, waited, speeds, together, json_file)


class Waiting:
    """Counts the seconds that the loop waits for a model."""

    def __init__(self, model: Any) -> None:
        self.model, self.seconds, self._plain = model, 0.0, model.forward_batch
        model.forward_batch = self

    def __call__(self, contexts: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._plain(contexts)
        finally:
            self.seconds += time.perf_counter() - began

    def stop(self) -> None:
        self.model.forward_batch = self._plain


def server_alone(model: RemoteModel, ids: list[int], count: int, top: int | None) -> float:
    """Seconds for a number of tokens of the base, streamed in one request."""
    url = model.replicas.all[0].url
    body = completions.body(Request(model.name, ids, count, 0)) | {
        "logprobs": top,
        "ignore_eos": True,
    }
    began = time.perf_counter()
    with httpx.stream(
        "POST", f"{url}/completions", json=body | {"stream": True}, timeout=600
    ) as response:
        response.raise_for_status()
        for _ in response.iter_lines():
            pass
    return time.perf_counter() - began


def report(
    gen: BlendInGenerator,
    seconds: dict[str, list[float]],
    singles: dict[str, list[Generation]],
    waited: dict[str, dict[str, float]],
    speeds: dict[str, list[float]],
    together: dict[str, list[Generation]],
    json_file: Path | None,
) -> None:
    console = Console(soft_wrap=True)
    table = Table(
        "one sequence", "tok/s", "of one request a token", "base requests a token", "r",
        title=f"{len(singles['off'])} prompts; speeds are totals, ratios medians over the prompts",
    )  # fmt: skip
    results: dict[str, Any] = {"one": {}, "in flight": {}}
    for name, each in seconds.items():
        ratio = median(off / own for off, own in zip(seconds["off"], each, strict=True))
        speed = len(each) / sum(each)
        cells = [f"{speed:.2f}", f"{ratio:.2f}", "", ""]
        results["one"][name] = {"tokens_per_second": speed, "of_off": ratio}
        if name in singles:
            results["one"][name] |= counted(singles[name]) | {"waited_seconds": waited[name]}
            cells[2:] = _cells(results["one"][name])
        table.add_row(name, *cells)
    console.print(table)
    for name in WAYS:
        total = sum(out.seconds for out in singles[name])
        parts = ", ".join(f"{role} {each / total:.0%}" for role, each in waited[name].items())
        own = 1 - sum(waited[name].values()) / total
        console.print(f"{name}: of the time waits for the {parts}; our own {own:.1%}")
    table = Table(
        f"{len(together['off'])} in flight", "tok/s", "of one request a token",
        "base requests a token", "r",
    )  # fmt: skip
    for name in WAYS:
        speed, ratio = median(speeds[name]), median(speeds[name]) / median(speeds["off"])
        results["in flight"][name] = {"tokens_per_second": speed, "of_off": ratio}
        results["in flight"][name] |= counted(together[name]) | {"rounds": speeds[name]}
        cells = [f"{speed:.2f}", f"{ratio:.2f}", *_cells(results["in flight"][name])]
        table.add_row(name, *cells)
    console.print(table)
    results["differences"] = {
        "one": differing(singles["auto"], singles["off"]),
        "in flight": differing(together["auto"], singles["off"]),
    }
    for name, found in results["differences"].items():
        count = len(singles["off"])
        console.print(f"{name}: {len(found)} of {count} texts are not those of one request a token")
        for each in found:
            console.print(f"  {each}", markup=False)
    results |= surroundings() | {"base": gen.base.name, "guide": gen.guide.name}
    console.print(f"{results['machine']}, {results['versions']}", markup=False)
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n")


def counted(outs: list[Generation]) -> dict[str, float]:
    """Requests and interventions a token."""
    tokens = sum(len(out.steps) for out in outs)
    return {
        "base_requests_a_token": sum(out.base_forwards for out in outs) / tokens,
        "guide_requests_a_token": sum(out.guide_forwards for out in outs) / tokens,
        "intervention_rate": sum(out.interventions for out in outs) / tokens,
    }


def _cells(results: dict[str, Any]) -> list[str]:
    rate = results["intervention_rate"]
    bound = 2 * rate + 0.05
    return [f"{results['base_requests_a_token']:.2f} (bound {bound:.2f})", f"{rate:.2f}"]


if __name__ == "__main__":
    typer.run(main)
