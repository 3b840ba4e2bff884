"""Many sequences through two replicas of the base, one of which is killed and started again.

Every sequence must end, with the tokens of its undisturbed run. The servers are `scripts/vllm`'s,
which this kills and starts; float32, where company changes next to nothing in a server's numbers.

    VLLM_DTYPE=float32 bash scripts/vllm up 2 && python benchmarks/replicas.py --data DIR
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from measure import surroundings
from rich.console import Console
from speculation import differing

from blendin import BlendInGenerator, Generation
from blendin.evaluation.tasks import registry as tasks
from blendin.models.remote.model import RemoteModel

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "vllm"


def main(
    base: str = "http://127.0.0.1:8100/v1,http://127.0.0.1:8101/v1",
    guide: str = "http://127.0.0.1:8200/v1",
    data: Annotated[Path | None, typer.Option(help="Folder of XSTest.")] = None,
    sequences: int = 200,
    max_new_tokens: int = 12,
    kill_at: Annotated[float, typer.Option(help="Of the tokens, this share is made.")] = 0.25,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Run undisturbed, then with a replica killed and started again, and compare."""
    console = Console(soft_wrap=True)
    gen = BlendInGenerator(base, guide)
    task = tasks.load("xstest", data, sequences)
    prompts = [item.prompt for item in task.items]
    results: dict[str, Any] = surroundings() | {"sequences": len(prompts)}
    runs: dict[str, list[Generation]] = {}
    for name in ("undisturbed", "disturbed"):
        disturbance = Disturbance(gen.base, kill_at * len(prompts) * max_new_tokens)
        if name == "disturbed":
            disturbance.start()
        before, began = gen.base.forwards, time.perf_counter()
        runs[name] = gen.generate(
            prompts, max_new_tokens=max_new_tokens, stop=(), max_batch_size=len(prompts)
        )
        seconds = time.perf_counter() - began
        if name == "disturbed":
            disturbance.join()
        tokens = sum(len(out.steps) for out in runs[name])
        results[name] = {
            "seconds": seconds,
            "tokens": tokens,
            "base_requests": gen.base.forwards - before,
            "stop_reasons": Counter(out.stop_reason for out in runs[name]),
            "errors": [out.error for out in runs[name] if out.error],
            "events": disturbance.events,
        }
        console.print(f"{name}: {tokens} tokens in {seconds:.0f} s, {results[name]}", markup=False)
    found = differing(runs["disturbed"], runs["undisturbed"])
    results["differences"] = found
    console.print(f"{len(found)} of {len(prompts)} sequences differ from their undisturbed run")
    for each in found:
        console.print(f"  {each}", markup=False)
    if json_file is not None:
        json_file.write_text(json.dumps(results, indent=2) + "\n")
    raise typer.Exit(0 if not found and not results["disturbed"]["errors"] else 1)


class Disturbance(threading.Thread):
    """Kills the base's first server after a number of requests, and starts it again."""

    def __init__(self, model: Any, tokens: float) -> None:
        super().__init__()
        assert isinstance(model, RemoteModel)
        # Windows bring a few tokens each.
        self.model, self.after = model, model.requests + tokens / 4
        self.events: list[str] = []

    def run(self) -> None:
        while self.model.requests < self.after:
            time.sleep(0.2)
        self._do("kill", "base", "0")
        self._do("start", "base", "0")

    def _do(self, *arguments: str) -> None:
        began = time.perf_counter()
        done = subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True)
        took = time.perf_counter() - began
        self.events.append(f"{' '.join(arguments)}: {done.returncode}, {took:.0f} s")


if __name__ == "__main__":
    typer.run(main)
