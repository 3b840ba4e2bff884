"""What the server costs: tokens a second through HTTP against `generate`, and times to first token.

The same prompts go through `generate` (a list, as many at once as there are clients) and through
`blendin serve`'s server in a process of its own, streamed to that many clients; the texts have to
be equal. Rounds alternate, and the figures are medians over them. Target: served over generated at
least 0.95 at 1, 8 and 32 clients.

    python benchmarks/serve.py [--clients 1,8,32] [--max-new-tokens 48] [--json FILE]
    python benchmarks/serve.py --tiny       # a random pair of the tests' size: all is overhead
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import torch
import typer
from measure import surroundings, timed
from rich.console import Console
from rich.table import Table

from blendin import BlendInGenerator
from blendin.models import default_pair

console = Console()

SUBJECTS = ("apples", "rivers", "clocks", "stars", "bridges", "letters", "engines", "gardens")
QUESTIONS = ("How many {} are there?", "Why do people like {}?", "Who made the first {}?",
             "Write a line about {}.")  # fmt: skip
PERCENTILES = (50, 90, 99)


def prompts(count: int) -> list[str]:
    """Different questions, as many as wanted."""
    made = [question.format(subject) for question in QUESTIONS for subject in SUBJECTS]
    return [made[place % len(made)] + " " * (place // len(made)) for place in range(count)]


def tiny_pair(folder: Path) -> tuple[str, str]:
    """Folders of a pair as small as the tests'."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from tiny import byte_level_tokenizer, sentencepiece_tokenizer, tiny_model

    pair = {}
    for role, tokenizer in (("base", byte_level_tokenizer()), ("guide", sentencepiece_tokenizer())):
        tiny_model("llama", tokenizer, 0).save_pretrained(folder / role)
        tokenizer.save_pretrained(folder / role)
        pair[role] = str(folder / role)
    return pair["base"], pair["guide"]


class Served:
    """The server in a process of its own.

    Attributes:
        url: its address.
    """

    def __init__(self, base: str, guide: str, dtype: str) -> None:
        arguments = ["--base", base, "--guide", guide, "--dtype", dtype, "--port", "0"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "blendin", "serve", *arguments],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        words = ""
        while "http://" not in words:
            if not (line := self._process.stderr.readline()):
                raise SystemExit(f"the server has ended: {words}")
            words += line
        self.url = next(word for word in words.split() if word.startswith("http://"))
        self.url = self.url.partition("/v1")[0]
        while httpx.get(f"{self.url}/health").status_code != 200:
            time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


async def ask(client: httpx.AsyncClient, prompt: str, length: int) -> tuple[str, float, int]:
    """One question, streamed: the text, the seconds to its first piece, and the steps."""
    body = {
        "messages": [{"role": "user", "content": prompt}], "max_tokens": length, "stream": True,
        "stop": [],
    }  # fmt: skip
    text, first, steps, started = "", 0.0, 0, time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            piece = chunk["choices"][0]["delta"].get("content", "")
            if piece and not first:
                first = time.perf_counter() - started
            text += piece
            steps = chunk.get("blendin", {}).get("steps", steps)
    return text, first, steps


async def serve(url: str, texts: list[str], clients: int, length: int) -> list[Any]:
    """All questions by some clients, each asking one after the other."""
    waiting, answers = list(enumerate(texts)), [None] * len(texts)
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def one() -> None:
            while waiting:
                place, text = waiting.pop(0)
                answers[place] = await ask(client, text, length)  # type: ignore[call-overload]

        await asyncio.gather(*(one() for _ in range(clients)))
    return answers


def main(
    clients: Annotated[str, typer.Option(help="Clients at once.")] = "1,8,32",
    max_new_tokens: Annotated[int, typer.Option(help="Steps of each text.")] = 48,
    per_client: Annotated[int, typer.Option(help="Questions of each client.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds; figures are medians.")] = 3,
    tiny: Annotated[bool, typer.Option("--tiny", help="A random pair: all is overhead.")] = False,
    dtype: Annotated[str, typer.Option(help="Of the weights.")] = "float32",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write it all here.")] = None,
) -> None:
    """Measures, and shows a table."""
    base, guide = default_pair.DEFAULT_BASE, default_pair.DEFAULT_GUIDE
    with tempfile.TemporaryDirectory() as folder:
        if tiny:
            base, guide = tiny_pair(Path(folder))
        gen = BlendInGenerator(base, guide, dtype=dtype)
        server = Served(base, guide, dtype)
        try:
            rows = [
                measure(gen, server, int(count), max_new_tokens, per_client, rounds)
                for count in clients.split(",")
            ]
        finally:
            server.stop()
    told = {"pair": [gen.base.name, gen.guide.name], "max_new_tokens": max_new_tokens, "rows": rows}
    told |= {"torch_threads": torch.get_num_threads(), **surroundings()}
    table = Table("clients", "generate tok/s", "served tok/s", "ratio", "TTFT p50 / p90 / p99 ms")
    for row in rows:
        first = " / ".join(f"{1000 * row['ttft'][f'p{p}']:.0f}" for p in PERCENTILES)
        table.add_row(
            str(row["clients"]), f"{row['generated']:.1f}", f"{row['served']:.1f}",
            f"{row['ratio']:.3f}", first,
        )  # fmt: skip
    console.print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(told, indent=1) + "\n")


def measure(
    gen: BlendInGenerator, server: Served, clients: int, length: int, per_client: int, rounds: int
) -> dict[str, Any]:
    """Both ways, round after round."""
    texts = prompts(max(4, clients * per_client))
    asked: dict[str, Any] = {"max_new_tokens": length, "stop": (), "progress": False}
    generated, served, first = [], [], []
    gen.generate(texts[:clients], max_batch_size=clients, **asked)
    asyncio.run(serve(server.url, texts[:clients], clients, length))
    different = 0
    for _ in range(rounds):
        if clients == 1:
            outs, seconds = timed(lambda: [gen.generate(text, **asked) for text in texts])
        else:
            outs, seconds = timed(lambda: gen.generate(texts, max_batch_size=clients, **asked))
        generated.append(sum(len(out.steps) for out in outs) / seconds)
        answers, seconds = timed(lambda: asyncio.run(serve(server.url, texts, clients, length)))
        served.append(sum(steps for _, _, steps in answers) / seconds)
        first += [ttft for _, ttft, _ in answers]
        different += sum(out.text != text for out, (text, _, _) in zip(outs, answers, strict=True))
        console.print(f"{clients} clients: {generated[-1]:.1f} and {served[-1]:.1f} tok/s")
    if different:
        console.print(f"[red]{different} texts of {rounds * len(texts)} differ[/]")
    cuts = statistics.quantiles(first, n=100, method="inclusive")
    return {
        "clients": clients,
        "generated": statistics.median(generated),
        "served": statistics.median(served),
        "ratio": statistics.median(s / g for s, g in zip(served, generated, strict=True)),
        "ttft": {f"p{p}": cuts[p - 1] for p in PERCENTILES},
        "different_texts": different,
    }


if __name__ == "__main__":
    typer.run(main)
