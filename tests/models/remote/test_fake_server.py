"""The tests' own server answers as its model does, and fails to order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse, IncompleteRead, RemoteDisconnected
from threading import Barrier, Event
from typing import Any

import pytest
import torch
from conftest import model
from fake_server import FakeServer, Fault
from serving import until

TINY = model("llama", "byte-level", 0)
PROMPTS = [[n, 5 * n % 390, 7] for n in range(1, 13)]
LENGTH = 12
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer(TINY) as server:
        yield server


def connected(server: FakeServer) -> closing[HTTPConnection]:
    return closing(HTTPConnection("127.0.0.1", server.port, timeout=60))


@contextmanager
def opened(
    server: FakeServer, path: str, body: Any = None, **headers: str
) -> Iterator[HTTPResponse]:
    with connected(server) as connection:
        text = body if isinstance(body, str) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, text, headers)
        with connection.getresponse() as response:
            yield response


def fetched(server: FakeServer, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """The status and the body as JSON."""
    with opened(server, path, body, **headers) as response:
        return response.status, json.loads(response.read())


def request(prompt: Any, **fields: Any) -> dict[str, Any]:
    plain = {"model": "tiny", "prompt": prompt, "max_tokens": LENGTH, "temperature": 0}
    return plain | {"logprobs": 3, "return_tokens_as_token_ids": True} | fields


def whole(server: FakeServer, prompt: Any, **fields: Any) -> dict[str, Any]:
    status, answer = fetched(server, COMPLETIONS, request(prompt, **fields))
    assert status == 200, answer
    return answer["choices"][0]


def events(raw: bytes) -> list[str]:
    *parts, rest = raw.decode().split("\n\n")
    assert rest == ""
    assert all(part.startswith("data: ") for part in parts)
    return [part.removeprefix("data: ") for part in parts]


def streamed(server: FakeServer, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    with opened(server, COMPLETIONS, request(prompt, stream=True, **fields)) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        *pieces, end = events(response.read())
    assert end == "[DONE]"
    return [json.loads(piece)["choices"][0] for piece in pieces]


def joined(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream's pieces as one choice, but for the text's offsets."""
    lists = {
        name: [entry for piece in pieces for entry in piece["logprobs"][name]]
        for name in ("tokens", "token_logprobs", "top_logprobs")
    }
    text = "".join(piece["text"] for piece in pieces)
    return {"text": text, "finish_reason": pieces[-1]["finish_reason"]} | lists


def flat(choice: dict[str, Any]) -> dict[str, Any]:
    lists = {name: v for name, v in choice["logprobs"].items() if name != "text_offset"}
    return {name: choice[name] for name in ("text", "finish_reason")} | lists


def ids(names: list[str]) -> list[int]:
    return [int(name.removeprefix("token_id:")) for name in names]


def greedy(prompt: list[int], **settings: Any) -> list[int]:
    """By transformers."""
    output = TINY[0].generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=LENGTH, **settings
    )
    return output[0, len(prompt) :].tolist()


@torch.inference_mode()
def log_probs(sequence: list[int]) -> torch.Tensor:
    return TINY[0](torch.tensor([sequence]), use_cache=False).logits[0].log_softmax(-1).float()


# -- answers ---------------------------------------------------------------------------------------


def test_tokens_are_those_of_generate_and_end_where_it_ends(server: FakeServer) -> None:
    reasons = set()
    for prompt in PROMPTS:
        choice = whole(server, prompt)
        found = ids(choice["logprobs"]["tokens"])
        assert found == greedy(prompt)
        assert choice["finish_reason"] == ("stop" if found[-1] in server.ends else "length")
        reasons.add(choice["finish_reason"])
        beyond = whole(server, prompt, ignore_eos=True)
        assert ids(beyond["logprobs"]["tokens"]) == greedy(prompt, eos_token_id=-1)
        assert beyond["finish_reason"] == "length"
    assert reasons == {"stop", "length"}, "other prompts are needed"


@pytest.mark.parametrize("fields", [{}, {"echo": True}, {"return_tokens_as_token_ids": None}])
def test_a_stream_gives_what_a_whole_answer_gives(server: FakeServer, fields: Any) -> None:
    for prompt in PROMPTS[:4]:
        pieces = streamed(server, prompt, **fields)
        assert joined(pieces) == flat(whole(server, prompt, **fields))
        assert {piece["finish_reason"] for piece in pieces[:-1]} == {None}
        first = 1 + (len(prompt) if fields.get("echo") else 0)
        lengths = [len(piece["logprobs"]["tokens"]) for piece in pieces]
        assert lengths == [first] + [1] * (len(pieces) - 1)


def test_log_probabilities_are_the_models_own_the_prompts_too(server: FakeServer) -> None:
    prompt = PROMPTS[2]
    choice = whole(server, prompt, echo=True)
    logprobs = choice["logprobs"]
    sequence = ids(logprobs["tokens"])
    assert sequence[: len(prompt)] == prompt
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    rows = log_probs(sequence)
    for place, (row, token) in enumerate(zip(rows, sequence[1:], strict=False), start=1):
        top = logprobs["top_logprobs"][place]
        listed = ids(list(top))
        assert listed[0] == token, "the token itself comes first"
        assert set(listed) == {token, *row.topk(3).indices.tolist()}
        true = row[listed].clamp(min=-9999.0).tolist()
        assert list(top.values()) == pytest.approx(true, rel=1e-5)
        assert logprobs["token_logprobs"][place] == top[logprobs["tokens"][place]]
    alone = whole(server, prompt, echo=True, max_tokens=0)
    assert ids(alone["logprobs"]["tokens"]) == prompt
    assert choice["text"] == alone["text"] + whole(server, prompt)["text"]
    assert alone["text"] == TINY[1].decode(prompt)


def test_what_cannot_be_has_a_finite_log_probability(server: FakeServer) -> None:
    lm_head = TINY[0].lm_head
    handle = lm_head.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.tensor([9]), -torch.inf)
    )
    try:
        choice = whole(server, [3, 9, 4], echo=True, max_tokens=0)["logprobs"]
    finally:
        handle.remove()
    assert choice["token_logprobs"][1] == -9999.0


def test_without_log_probabilities_there_is_the_text_alone(server: FakeServer) -> None:
    bare = whole(server, PROMPTS[0], logprobs=None)
    assert bare["logprobs"] is None
    assert bare["text"] == whole(server, PROMPTS[0])["text"]
    zero = whole(server, PROMPTS[0], logprobs=0)["logprobs"]
    assert [list(top) for top in zero["top_logprobs"]] == [[name] for name in zero["tokens"]]


def test_a_server_that_knows_no_token_ids_gives_texts(server: FakeServer) -> None:
    with FakeServer(TINY, token_ids=False) as other:
        texts = whole(other, PROMPTS[0])
    assert texts == whole(server, PROMPTS[0], return_tokens_as_token_ids=False)
    names = [TINY[1].decode([id]) for id in greedy(PROMPTS[0])]
    assert texts["logprobs"]["tokens"] == names


def test_texts_are_tokenized(server: FakeServer) -> None:
    text = "The quick brown fox"
    prompt = TINY[1].encode(text)
    body = {"model": "tiny", "prompt": text, "add_special_tokens": False}
    status, answer = fetched(server, "/tokenize", body)
    assert status == 200 and answer["tokens"] == prompt
    assert answer["count"] == len(prompt) and answer["max_model_len"] == 2048
    assert whole(server, text) == whole(server, prompt)


def test_the_model_is_listed(server: FakeServer) -> None:
    status, answer = fetched(server, "/v1/models")
    assert status == 200 and answer["object"] == "list"
    [card] = answer["data"]
    assert (card["id"], card["root"], card["max_model_len"]) == ("tiny", "tiny", 2048)


def test_a_hundred_streams_at_once_all_end_right() -> None:
    prompts = [PROMPTS[n % len(PROMPTS)] for n in range(100)]
    expected = {tuple(prompt): greedy(prompt)[:6] for prompt in PROMPTS}
    together = Barrier(len(prompts), timeout=60)

    def meet(number: int) -> None:
        together.wait()

    with FakeServer(TINY, faults=meet) as server, ThreadPoolExecutor(len(prompts)) as pool:
        answers = pool.map(lambda p: streamed(server, p, max_tokens=6), prompts)
        for prompt, pieces in zip(prompts, answers, strict=True):
            assert ids(joined(pieces)["tokens"]) == expected[tuple(prompt)]
        assert server.most_in_flight == 100 and server.in_flight == 0 and server.aborted == 0
        assert server.generated == sum(len(expected[tuple(prompt)]) for prompt in prompts)
        assert len(server.requests) == len(server.headers) == 100


def test_one_client_is_never_two_requests_in_flight() -> None:
    with FakeServer(TINY) as server:
        with connected(server) as connection:  # which is kept
            for stream in (False, True) * 10:
                body = json.dumps(request([1, 2], stream=stream, max_tokens=1))
                connection.request("POST", COMPLETIONS, body)
                connection.getresponse().read()
                assert server.in_flight == 0
        assert server.most_in_flight == 1 and len(server.requests) == 20


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"model": "huge"}, 404, "`huge`"),
        ({"logprobs": 200}, 400, "sample logprobs of 200, which is greater than max allowed: 100"),
        ({"temperature": 0.5}, 400, "temperature"),
        ({"temperature": None}, 400, "temperature"),
        ({"prompt": []}, 400, "empty"),
        ({"prompt": ""}, 400, "empty"),
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": [9999]}, 400, "9999"),
        ({"max_tokens": 2046}, 400, "3 input tokens and requested 2046 output tokens"),
        ({"max_tokens": 0}, 400, "got 0"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_out_of_order_is_refused(
    server: FakeServer, fields: Any, status: int, said: str, stream: bool
) -> None:
    body = request([1, 2, 3], stream=stream) | fields
    found, answer = fetched(server, COMPLETIONS, body)
    assert found == answer["error"]["code"] == status
    assert said in answer["error"]["message"]
    assert answer["error"]["type"] == ("NotFoundError" if status == 404 else "BadRequestError")


def test_no_key_no_answer() -> None:
    with FakeServer(TINY, api_key="sesame") as server:
        ways: list[tuple[str, Any]] = [
            ("/v1/models", None),
            ("/tokenize", {"prompt": "Hi"}),
            (COMPLETIONS, request([1])),
        ]
        for path, body in ways:
            assert fetched(server, path, body)[0] == 401
            assert fetched(server, path, body, Authorization="Bearer open")[0] == 401
            assert fetched(server, path, body, Authorization="Bearer sesame")[0] == 200
        assert server.headers[-1]["authorization"] == "Bearer sesame"


def test_what_is_no_request_is_refused(server: FakeServer) -> None:
    assert fetched(server, COMPLETIONS, "{")[0] == 400
    assert fetched(server, COMPLETIONS, "[]")[0] == 400
    assert fetched(server, "/v1/nothing")[0] == 404
    assert fetched(server, "/v1/nothing", {})[0] == 404


# -- faults ----------------------------------------------------------------------------------------


def faulty(**fault: Any) -> FakeServer:
    """The first completion fails, the others do not."""
    return FakeServer(TINY, faults=lambda n: Fault(**fault) if n == 0 else None)


@pytest.mark.parametrize("stream", [False, True])
def test_status(stream: bool) -> None:
    with faulty(kind="status", status=429, retry_after=0.25) as server:
        with opened(server, COMPLETIONS, request([1], stream=stream)) as response:
            assert response.status == 429 and response.headers["Retry-After"] == "0.25"
            assert json.loads(response.read())["error"]["code"] == 429
        assert whole(server, [1]) and server.in_flight == 0 and len(server.requests) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_drop(stream: bool) -> None:
    with faulty(kind="drop") as server:
        with pytest.raises(RemoteDisconnected):
            fetched(server, COMPLETIONS, request([1], stream=stream))
        assert whole(server, [1])
        assert server.generated == len(greedy([1])) and server.aborted == 0


def test_hang() -> None:
    with faulty(kind="hang", seconds=0.2) as server:
        start = time.monotonic()
        first = whole(server, [1])
        assert time.monotonic() - start >= 0.2
        assert first == whole(server, [1])


@pytest.mark.parametrize("after", [0, 2, 99])
def test_cut(after: int) -> None:
    with faulty(kind="cut", after=after) as server:
        with opened(server, COMPLETIONS, request(PROMPTS[0], stream=True)) as response:
            with pytest.raises(IncompleteRead) as cut:
                response.read()
        found = [json.loads(event)["choices"][0] for event in events(cut.value.partial)]
        assert found == streamed(server, PROMPTS[0])[:after]
        assert server.aborted == 0


def test_a_cut_answer_is_half_an_answer() -> None:
    with faulty(kind="cut") as server:
        with opened(server, COMPLETIONS, request(PROMPTS[0])) as response:
            assert response.status == 200
            with pytest.raises(IncompleteRead) as cut:
                response.read()
        assert cut.value.partial.startswith(b'{"id": ')


@pytest.mark.parametrize("after", [0, 2])
def test_garbage(after: int) -> None:
    with faulty(kind="garbage", after=after) as server:
        with opened(server, COMPLETIONS, request([1], stream=True)) as response:
            *pieces, garbage, end = events(response.read())
        assert len([json.loads(piece) for piece in pieces]) == after and end == "[DONE]"
        with pytest.raises(json.JSONDecodeError):
            json.loads(garbage)
    with faulty(kind="garbage") as server:
        with pytest.raises(json.JSONDecodeError):
            fetched(server, COMPLETIONS, request([1]))
        assert whole(server, [1])


# -- departures ------------------------------------------------------------------------------------


class Held(FakeServer):
    """Reads no more after two tokens until it is let go."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.let_go = Event()

    def _read(self, *args: Any, **options: Any) -> Any:
        if self.generated >= 2:
            self.let_go.wait(60)
        return super()._read(*args, **options)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("delay", [0.0, 0.1])
def test_a_client_that_goes_is_noticed_and_generation_stops(stream: bool, delay: float) -> None:
    long = request([1], stream=stream, ignore_eos=True, max_tokens=2000)
    with Held(TINY, delay=delay) as server:
        with connected(server) as connection:
            connection.request("POST", COMPLETIONS, json.dumps(long))
            until(lambda: server.generated >= 2)
        server.let_go.set()
        until(lambda: server.aborted == 1 and server.in_flight == 0)
        assert server.generated == 2


def test_a_client_that_gives_up_on_a_hang_is_noticed() -> None:
    with faulty(kind="hang", seconds=600) as server:
        with connected(server) as connection:
            connection.request("POST", COMPLETIONS, json.dumps(request([1])))
            until(lambda: server.in_flight == 1)
        until(lambda: server.aborted == 1 and server.in_flight == 0)
        assert server.generated == 0


def test_stopping_cuts_streams_and_starting_again_is_on_the_same_port() -> None:
    server = FakeServer(TINY, delay=0.02)
    server.start()
    url, long = server.url, request([1], stream=True, ignore_eos=True, max_tokens=2000)
    with ExitStack() as stack:
        streams = [stack.enter_context(opened(server, COMPLETIONS, long)) for _ in range(5)]
        until(lambda: server.generated >= 10)
        server.stop()
        assert server.in_flight == 0 and server.aborted == 0
        for stream in streams:
            with pytest.raises((IncompleteRead, ConnectionError)) as cut:
                stream.read()
            assert b"[DONE]" not in getattr(cut.value, "partial", b"")
    with pytest.raises(ConnectionRefusedError):
        fetched(server, "/v1/models")
    server.start()
    try:
        assert server.url == url
        assert ids(whole(server, [1])["logprobs"]["tokens"]) == greedy([1])
        assert len(server.requests) == 6, "what came before is not forgotten"
    finally:
        server.stop()
    server.stop()  # once more does no harm


def test_stopping_waits_for_no_client() -> None:
    server = faulty(kind="hang", seconds=600)
    server.start()
    with connected(server) as idle, connected(server) as hung:
        idle.request("GET", "/v1/models")
        idle.getresponse().read()
        hung.request("POST", COMPLETIONS, json.dumps(request([1])))
        until(lambda: server.in_flight == 1)
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 60
        assert server.in_flight == 0 and server.aborted == 0
        with pytest.raises(ConnectionError):
            hung.getresponse()
