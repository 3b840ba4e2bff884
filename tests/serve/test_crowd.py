"""A crowd of clients: many at once, some that leave, one that reads slowly."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import generator
from serving import PATIENCE, Served, served, until

from blendin import BlendInGenerator
from blendin.engine.sequence import SequenceState

PROMPTS = [f"{word} {number}" for word in ("How many", "def f(", "Où", "a") for number in range(4)]
LENGTH = 12
CLIENTS = 48
BATCH = 8
CACHED_TOKENS = 1200
"""Of each model: about half of what a full batch would take, so that texts have to make room."""

STATUS = Path("/proc/self/status")
ALLOWED = 24 * 2**20
"""Bytes that may come and go: the allocator's, of 48 connections."""
CROWDS = 4
"""As many may come until one leaves no more than that: what is lost by each is lost by all."""


@pytest.fixture(scope="module")
def gen() -> BlendInGenerator:
    return generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))


def memory() -> int:
    """Bytes that this process holds."""
    held = re.search(r"VmRSS:\s+(\d+)", STATUS.read_text())
    assert held is not None
    return int(held.group(1)) * 1024


def alive() -> set[SequenceState]:
    """The sequences that anything still holds on to, those of other tests among them."""
    gc.collect()
    return {each for each in gc.get_objects() if type(each) is SequenceState}


def body(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": LENGTH, **fields}


def said(line: str) -> str:
    """What a line of a stream adds to the text."""
    if not line.startswith("data: {"):
        return ""
    (choice,) = json.loads(line[6:])["choices"]
    return choice["delta"].get("content", "")


async def whole(client: httpx.AsyncClient, prompt: str) -> str:
    answer = await client.post("/v1/chat/completions", json=body(prompt))
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


async def stream(client: httpx.AsyncClient, prompt: str) -> str:
    request = body(prompt, stream=True)
    async with client.stream("POST", "/v1/chat/completions", json=request) as answer:
        return "".join([said(line) async for line in answer.aiter_lines()])


async def leave_at_once(client: httpx.AsyncClient, prompt: str) -> None:
    """Sends a request and hangs up before a byte of the answer: it runs, waits or is not read."""
    address = httpx.URL(client.base_url)
    _, writer = await asyncio.open_connection(address.host, address.port)
    data = json.dumps(body(prompt, stream=len(prompt) % 2 == 0, max_tokens=400)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.host}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    await asyncio.sleep(0.03 * (len(prompt) % 3))
    writer.close()


async def leave_within(client: httpx.AsyncClient, prompt: str) -> None:
    """Reads the beginning of a stream, and hangs up."""
    request = body(prompt, stream=True, max_tokens=400, stop=[])
    async with client.stream("POST", "/v1/chat/completions", json=request) as answer:
        async for line in answer.aiter_lines():
            if said(line):
                return


async def read_slowly(address: httpx.URL, prompt: str, length: int, others: asyncio.Task) -> str:
    """Takes a long stream by small pieces as long as the others ask, and then the rest of it."""
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, (address.host, address.port))
    reader, writer = await asyncio.open_connection(sock=line, limit=1024)
    request = body(prompt, stream=True, max_tokens=length, stop=[], logprobs=True, top_logprobs=20)
    data = json.dumps(request).encode()
    head = f"POST /v1/chat/completions HTTP/1.0\r\nHost: {address.host}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    taken = bytearray()
    while piece := await reader.read(256):
        taken += piece
        if not others.done():
            await asyncio.sleep(0.02)
    writer.close()
    return "".join(map(said, taken.decode().splitlines()))


KINDS = {"whole": whole, "stream": stream, "at once": leave_at_once, "within": leave_within}


async def ask_all(address: str, jobs: list[tuple[str, str]]) -> list[str | None]:
    """Each job's text, in the jobs' order, asked by some clients at once."""
    waiting, found = list(enumerate(jobs)), [None] * len(jobs)
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=address, timeout=PATIENCE, limits=limits) as client:

        async def one() -> None:
            while waiting:
                place, (prompt, kind) = waiting.pop()
                found[place] = await KINDS[kind](client, prompt)

        await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return found


def jobs_of(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """Requests, a fifth of them given up on the way."""
    kinds = ["at once", "within"] * (count // 10) + ["whole", "stream"] * (count * 4 // 10)
    rng.shuffle(kinds)
    return [(rng.choice(PROMPTS), kind) for kind in kinds]


def is_counted(server: Served) -> bool:
    """Whether every text that has begun has ended, in the server's own series."""
    sums = Counter[str]()
    for line in server.client.get("/metrics").text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            sums[name.partition("{")[0]] += float(value)  # type: ignore[assignment]
    assert sums["blendin_requests_total"] > 0
    return sums["blendin_requests_total"] == sums["blendin_finished_requests_total"]


@pytest.mark.skipif(not STATUS.exists(), reason="reads Linux' /proc")
@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_crowd_loses_nothing_mixes_nothing_up_and_leaves_nothing(
    gen: BlendInGenerator, count: int
) -> None:
    """A fifth gives up before the first byte or within the stream; most of all wait for a place."""
    expected = {prompt: gen.generate(prompt, max_new_tokens=LENGTH).text for prompt in PROMPTS}
    long = {"max_new_tokens": 300, "stop": ()}
    slow_text = gen.generate(PROMPTS[0], **long).text
    rng, others = random.Random(count), alive()

    async def crowd(address: str, jobs: list[tuple[str, str]]) -> tuple[list[str | None], str]:
        others = asyncio.create_task(ask_all(address, jobs))
        slow = read_slowly(httpx.URL(address), PROMPTS[0], long["max_new_tokens"], others)
        return await asyncio.gather(others, slow)

    def come(count: int) -> None:
        """A crowd comes and goes, and has what it asked for."""
        jobs = jobs_of(rng, count)
        found, slowly = asyncio.run(crowd(server.url, jobs))
        until(lambda: server.in_flight == 0)
        assert slowly == slow_text
        texts = [(prompt, text) for (prompt, kind), text in zip(jobs, found, strict=True)
                 if kind in ("whole", "stream")]  # fmt: skip
        assert len(texts) == count * 4 // 5
        assert [text for _, text in texts] == [expected[prompt] for prompt, _ in texts]

    with served(gen, max_batch_size=BATCH, max_cached_tokens=CACHED_TOKENS) as server:
        come(100)  # caches and connections find their size
        grown: list[int] = []
        while not grown or grown[-1] >= ALLOWED:
            assert len(grown) < CROWDS, grown
            gc.collect()
            held = memory()
            come(count)
            gc.collect()
            grown.append(memory() - held)
        # Had a segment been left behind, there would be no room for this one, ever.
        all_of_it = body("a", max_tokens=CACHED_TOKENS - 40, stop=[], stream=True)
        with server.client.stream("POST", "/v1/chat/completions", json=all_of_it) as answer:
            assert any(map(said, answer.iter_lines()))
        until(lambda: is_counted(server))
    until(lambda: alive() <= others)
