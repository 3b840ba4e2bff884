"""The server around its answers: who may ask, how much, and what becomes of who leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from conftest import fail_third_step, generator
from serving import PATIENCE, events, held_steps, served, until

from blendin import BlendInGenerator
from blendin.engine import scheduler as scheduler_module
from blendin.serve import ServeSettings
from blendin.serve.requests import read_chat
from blendin.serve.run import listen, run

QUESTION = [{"role": "user", "content": "How many?"}]


@pytest.fixture(scope="module")
def gen() -> BlendInGenerator:
    return generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that take their time."""
    advance = scheduler_module.advance

    def slowly(*args: Any) -> None:
        time.sleep(0.02)
        advance(*args)

    monkeypatch.setattr(scheduler_module, "advance", slowly)


def endless(**fields: Any) -> dict[str, Any]:
    """A request of many steps, which no END stops early."""
    return {
        "messages": QUESTION, "max_tokens": 1500, "stop": [], "temperature": 1.5, "seed": 3,
        **fields,
    }  # fmt: skip


def test_the_key_is_asked_for(gen: BlendInGenerator) -> None:
    with served(gen, api_key="s3cret") as server:
        assert server.chat(max_tokens=2).status_code == 200
        for header in (
            None,
            "Bearer wrong",
            "Bearer s3cret2",
            "Basic s3cret",
            "s3cret",
            "Bearer é",
        ):
            headers = {} if header is None else {"Authorization": header.encode()}
            with httpx.Client(base_url=server.url, headers=headers, timeout=PATIENCE) as stranger:
                for path in ("/v1/models", "/metrics", "/docs", "/nothing"):
                    answer = stranger.get(path)
                    assert answer.status_code == 401, (header, path)
                    assert answer.json()["error"]["code"] == "invalid_api_key"
                assert stranger.post("/v1/completions", json={}).status_code == 401
                assert stranger.get("/health").status_code == stranger.get("/").status_code == 200
                assert "<title>blendin" in stranger.get("/").text
        assert "s3cret" not in repr(server.service.settings)


def test_other_pages_may_ask_only_where_that_is_wanted(gen: BlendInGenerator) -> None:
    asked = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    for cors, allowed in (((), None), (["http://a.example"], "http://a.example"), (["*"], "*")):
        with served(gen, cors=cors, api_key="key") as server:
            path = f"{server.url}/v1/chat/completions"
            answer = httpx.options(path, headers=asked, timeout=PATIENCE)
            assert answer.headers.get("Access-Control-Allow-Origin") == allowed
            plain = server.client.post("/v1/completions", content=b'{"prompt": "a"}')
            assert plain.status_code == 415  # a form of another page's needs no leave


def test_requests_have_a_size_and_are_json(gen: BlendInGenerator) -> None:
    with served(gen, max_body_bytes=2000) as server:
        assert server.chat("x" * 3000).status_code == 413
        for content in (b"{", b"\xff", b"[" * 1900, b'"a"'):
            answer = server.client.post(
                "/v1/completions", content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 400 and "JSON" in answer.json()["error"]["message"]
        assert server.chat(max_tokens=2).status_code == 200


def test_an_address_that_cannot_be_had_is_named_before_anything_is_loaded() -> None:
    with listen(ServeSettings(port=0)) as taken:
        port = taken.getsockname()[1]
        for host, place in (("127.0.0.1", port), ("256.1.1.1", 0)):
            with pytest.raises(ValueError, match=f"{host}:{place} cannot be listened on"):
                run(ServeSettings(host=host, port=place), lambda: pytest.fail("it was loaded"))


def test_503_while_it_loads_and_an_end_where_it_cannot(gen: BlendInGenerator) -> None:
    ready = threading.Event()

    def load() -> BlendInGenerator:
        assert ready.wait(PATIENCE)
        return gen

    with served(load, wait=False) as server:
        for answer in (
            server.client.get("/health"),
            server.chat(),
            server.client.get("/v1/models"),
        ):
            assert answer.status_code == 503 and answer.headers["Retry-After"]
            assert answer.json()["error"]["code"] == "loading"
        assert server.client.get("/metrics").status_code == 200
        ready.set()
        until(lambda: server.client.get("/health").status_code == 200)

    def fail() -> BlendInGenerator:
        raise ValueError("no such model")

    with served(fail, wait=False) as server:
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive() and str(server.service.failure) == "no such model"


def test_a_pair_that_is_loaded_too_late_is_not_left_running(gen: BlendInGenerator) -> None:
    begun, ready = threading.Event(), threading.Event()

    def load() -> BlendInGenerator:
        begun.set()
        assert ready.wait(PATIENCE)
        return gen

    with served(load, wait=False) as server:
        assert begun.wait(PATIENCE)
    ready.set()
    until(lambda: (queue := server.service._queue) is not None and not queue._thread.is_alive())


def test_too_many_wait_no_longer(gen: BlendInGenerator) -> None:
    with served(gen, max_batch_size=1, max_waiting=2) as server, ThreadPoolExecutor(3) as pool:
        with held_steps():
            asked = [
                pool.submit(server.client.post, "/v1/chat/completions", json=endless(max_tokens=40))
                for _ in range(3)
            ]
            until(lambda: server.in_flight == 3)
            for path, body in (("chat/completions", endless()), ("completions", {"prompt": "a"})):
                answer = server.client.post(f"/v1/{path}", json=body)
                assert answer.status_code == 429 and 1 <= int(answer.headers["Retry-After"]) <= 60
                assert answer.json()["error"]["code"] == "rate_limit_exceeded"
            assert server.chat(n=4).status_code == 400  # it never could
        assert [each.result().status_code for each in asked] == [200] * 3
        assert server.chat(max_tokens=2).status_code == 200


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_the_place(
    gen: BlendInGenerator, slow: None, stream: bool, n: int
) -> None:
    with served(gen, max_batch_size=4) as server:
        with socket.create_connection(server.url.removeprefix("http://").split(":")) as line:
            body = json.dumps(endless(stream=stream, n=n)).encode()
            line.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            until(lambda: server.service.queue.running == n)
            if stream:
                line.recv(100)
        until(lambda: server.in_flight == 0)
        assert server.chat(max_tokens=2).status_code == 200
        until(lambda: f'reason="gone"}} {n}.0' in server.client.get("/metrics").text)


@pytest.mark.parametrize("n", [1, 2])
def test_who_hangs_up_before_a_step_is_read_is_counted(gen: BlendInGenerator, n: int) -> None:
    with served(gen) as server:

        async def leave() -> None:
            answer = await server.service.begin(endless(stream=True, n=n), read_chat)
            answers = server.service.events(answer)
            await anext(answers)  # that the assistant speaks
            await answers.aclose()

        asyncio.run(leave())
        until(lambda: server.in_flight == 0)
        assert f'reason="gone"}} {n}.0' in server.client.get("/metrics").text


def test_a_text_has_a_time(
    gen: BlendInGenerator, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(gen, request_timeout=0.3) as server:
        begin = server.service.begin

        async def begun(*asked: Any) -> Any:
            """An answer whose texts have begun, so that each has something when it is cut."""
            answer = await begin(*asked)
            texts = [text.output for text in answer.texts]
            await asyncio.to_thread(
                until, lambda: all(any(step.text for step in out.steps) for out in texts)
            )
            return answer

        monkeypatch.setattr(server.service, "begin", begun)
        whole = server.client.post("/v1/chat/completions", json=endless(n=2)).json()
        for choice, report in zip(whole["choices"], whole["blendin"]["choices"], strict=True):
            assert choice["finish_reason"] == "length" and choice["message"]["content"]
            assert report["cut"] == "the server gives a text 0.3 s" and report["steps"] < 1500
        chunks = events(
            server.client.post(
                "/v1/chat/completions", json=endless(stream=True, logprobs=True)
            ).text
        )
        assert (
            chunks[-1]["choices"][0]["finish_reason"] == "length" and chunks[-1]["blendin"]["cut"]
        )


@pytest.mark.parametrize("patience", [0.0, PATIENCE])
def test_stopping_lets_texts_end_or_hands_back_what_there_is(
    gen: BlendInGenerator, patience: float
) -> None:
    length = 30
    with (
        served(gen, stop_timeout=patience, max_batch_size=2) as server,
        ThreadPoolExecutor(3) as pool,
        held_steps() as held,
    ):
        asked = []
        for place, stream in enumerate((True, False, False)):  # the last one has to wait
            body = endless(max_tokens=length, stream=stream)
            asked.append(pool.submit(server.client.post, "/v1/chat/completions", json=body))
            until(lambda count=place + 1: server.in_flight == count)
        held.make(4)
        queue = server.service.queue
        server.stop()
        until(lambda: queue._is_stopping if patience else queue._is_cut)
        held.allow()
        stream, *others = (each.result() for each in asked)
        last = events(stream.text)[-1]
        if patience:
            reports = [last["blendin"], *(each.json()["blendin"] for each in others)]
            assert len({each["steps"] for each in reports}) == 1 < reports[0]["steps"]
            assert not any("cut" in each for each in reports)
        else:
            assert 0 < last["blendin"]["steps"] < length and "stopped" in last["blendin"]["cut"]
            statuses = sorted(each.status_code for each in others)
            assert statuses == [200, 503]  # one had begun
            partial = next(each.json() for each in others if each.status_code == 200)
            assert partial["choices"][0]["message"]["content"] and partial["blendin"]["cut"]
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive()


def test_an_error_is_told_and_stays_with_its_own(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_third_step(monkeypatch, 33, "gave logits that are not numbers")
    with served(gen) as server:
        expected = server.chat(max_tokens=8).json()["choices"]
        with ThreadPoolExecutor(2) as pool:
            other = pool.submit(server.chat, max_tokens=8)
            bad = server.chat(max_tokens=33)
            assert other.result().json()["choices"] == expected
        assert bad.status_code == 500 and "not numbers" in bad.json()["error"]["message"]
        assert bad.json()["partial"]["usage"]["completion_tokens"] == 2
        *_, error = events(server.chat(max_tokens=33, stream=True).text)
        assert "not numbers" in error["error"]["message"]

        def broken(*args: Any) -> None:
            raise MemoryError("no memory left")

        monkeypatch.setattr(scheduler_module, "advance", broken)
        for stream in (False, True):
            answer = server.chat(stream=stream)
            assert answer.status_code == 503 or "no memory left" in answer.text
        health = server.client.get("/health")
        assert health.status_code == 503 and "no memory left" in health.json()["error"]["message"]


def test_openais_own_client(gen: BlendInGenerator) -> None:
    openai = pytest.importorskip("openai", reason="the client is not installed")
    with served(gen, api_key="key") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0)
        asked: dict[str, Any] = {"model": "pair:nudge", "messages": QUESTION, "max_tokens": 10}
        expected = gen.generate("How many?", policy="nudge", max_new_tokens=10)
        answer = client.chat.completions.create(
            **asked, logprobs=True, top_logprobs=2, extra_body={"blendin": {"threshold": 0.4}}
        )
        assert answer.choices[0].message.content == expected.text
        assert len(answer.choices[0].logprobs.content) == len(expected.steps)
        assert answer.blendin["intervention_rate"] == expected.intervention_rate
        chunks = list(
            client.chat.completions.create(
                **asked, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
        assert text == expected.text and chunks[-1].usage.completion_tokens == len(expected.steps)
        told = client.completions.create(model="pair", prompt="a", max_tokens=3, logprobs=1)
        assert len(told.choices[0].logprobs.tokens) == told.usage.completion_tokens
        assert next(iter(client.models.list())).id == "pair"
        with pytest.raises(openai.BadRequestError, match="tools") as caught:
            client.chat.completions.create(**asked, tools=[{"type": "function"}])
        assert caught.value.param == "tools"
        with pytest.raises(openai.NotFoundError, match="pair:nudge"):
            client.chat.completions.create(**{**asked, "model": "gpt-4"})
        wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="other", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            wrong.models.list()


@contextlib.contextmanager
def command(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-m", "blendin", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"} | variables,
    )  # fmt: skip
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def test_the_command_serves_until_it_is_told_to_stop(pair_folders: list[str]) -> None:
    options = (*pair_folders, "--policy", "nudge", "--served-model-name", "tiny")
    with command(*options, BLENDIN_SERVE_API_KEY="key") as started:
        assert started.stderr is not None
        line = next(line for line in started.stderr if "http://" in line)
        url = re.search(r"http://127\.0\.0\.1:\d+", line).group()  # type: ignore[union-attr]
        headers = {"Authorization": "Bearer key"}
        until(lambda: httpx.get(f"{url}/health", timeout=PATIENCE).status_code == 200)
        answer = httpx.post(
            f"{url}/v1/chat/completions", headers=headers, timeout=PATIENCE,
            json={"model": "tiny", "messages": QUESTION, "max_tokens": 4},
        )  # fmt: skip
        assert answer.json()["blendin"]["policy"]["name"] == "Nudge"
        started.send_signal(signal.SIGINT)
        assert started.wait(PATIENCE) == 0
        assert "Traceback" not in started.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "variables", "sentence"),
    [
        (("--base", "/no/such/model"), {}, "/no/such/model"),
        (("--port", "70000"), {}, "--port is 70000"),
        (("--served-model-name", "a:b"), {}, "--served-model-name is 'a:b'"),
        (("--cors", "localhost"), {}, "--cors is 'localhost'"),
        (("--api-key", "NO_SUCH_KEY"), {}, "NO_SUCH_KEY holds no key"),
        ((), {"BLENDIN_SERVE_API_KEY": " "}, "BLENDIN_SERVE_API_KEY holds no key"),
        (("--engine", "other"), {}, "--engine is 'other'"),
        (("--batch-size", "0"), {}, "--batch-size is 0"),
    ],
    ids=str,
)
def test_what_the_command_cannot_do_it_says(
    arguments: tuple[str, ...], variables: dict[str, str], sentence: str
) -> None:
    with command(*arguments, **variables) as started:
        _, errors = started.communicate(timeout=PATIENCE)
    assert started.returncode == 2 and sentence in errors and "Traceback" not in errors
