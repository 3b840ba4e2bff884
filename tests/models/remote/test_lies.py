"""A server is believed only as far as it can be: each field that lies is refused with its URL."""

from __future__ import annotations

import copy
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import generator, model
from fake_server import FakeServer, Fault
from test_remote import BASE, GUIDE, PROMPTS, folder, same

from blendin import BaseOnly, BlendInGenerator
from blendin.models.remote.errors import ServerError

Lie = Callable[[dict[str, Any]], Any]
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def here() -> BlendInGenerator:
    """With a base of its own: a server's thread may still be at work in the other."""
    lm, tokenizer = model(*BASE)
    return BlendInGenerator((copy.deepcopy(lm), tokenizer), model(*GUIDE))


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer(model(*BASE)) as server:
        yield server


@pytest.fixture(autouse=True)
def honest(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").lie = lambda answer: answer


@pytest.fixture(scope="module")
def served(server: FakeServer) -> BlendInGenerator:
    return load(server, patience=300.0)


def load(server: FakeServer, **options: Any) -> BlendInGenerator:
    return BlendInGenerator(
        server.url, model(*GUIDE), base_kwargs={"tokenizer": folder(BASE), **options}
    )


def within(change: Callable[[dict[str, Any]], Any]) -> Lie:
    """A lie about `logprobs`."""

    def lie(answer: dict[str, Any]) -> Any:
        told = copy.deepcopy(answer)
        logprobs = told["choices"][0]["logprobs"]
        if logprobs["tokens"]:
            change(logprobs)
        return told

    return lie


def listed(name: str, value: Any) -> Lie:
    """One more token among the likeliest."""
    return within(lambda logprobs: logprobs["top_logprobs"][0].update({name: value}))


def likeliest(value: Any) -> Lie:
    """A log-probability for the likeliest."""

    def change(logprobs: dict[str, Any]) -> None:
        top = logprobs["top_logprobs"][0]
        top[max(top, key=lambda name: top[name])] = value

    return within(change)


def put(name: str, value: Any) -> Lie:
    return within(lambda logprobs: logprobs.update({name: value}))


def first(name: str, value: Any) -> Lie:
    return within(lambda logprobs: logprobs[name].__setitem__(0, value))


def choice(**fields: Any) -> Lie:
    def lie(answer: dict[str, Any]) -> Any:
        return answer | {"choices": [answer["choices"][0] | fields]}

    return lie


def twice(answer: dict[str, Any]) -> str:
    """The same key twice in the list, which a dict would hide."""
    text = json.dumps(answer)
    place = text.index('"top_logprobs": [{') + len('"top_logprobs": [{')
    return text[:place] + '"token_id:7": -9.5, "token_id:7": -9.25, ' + text[place:]


LASTING: dict[str, tuple[Lie, str]] = {
    "p = 148": (likeliest(5.0), "5.0.*p ≤ 1"),
    "+inf": (likeliest(float("inf")), "inf"),
    "NaN": (likeliest(float("nan")), "nan"),
    "1e999": (
        lambda answer: json.dumps(likeliest(12345.5)(answer)).replace("12345.5", "1e999"),
        "inf",
    ),
    "sum of 5": (
        within(
            lambda lp: lp["top_logprobs"][0].update({f"token_id:{n}": -0.01 for n in (301, 302)})
        ),
        "sum to",
    ),
    "nobody likely": (
        within(
            lambda lp: lp.update(
                top_logprobs=[dict.fromkeys(lp["top_logprobs"][0], -50.0)],
                token_logprobs=[-50.0],
            )
        ),
        "no token more than",
    ),
    "null for -inf": (likeliest(None), "None for a log-probability"),
    "a text for a number": (likeliest("-0.5"), "'-0.5' for a log-probability"),
    "a truth value": (likeliest(False), "False for a log-probability"),
    "a list for a number": (likeliest([-0.5]), r"\[-0.5\] for a log-probability"),
    "negative id": (listed("token_id:-5", -9.0), "token_id:-5"),
    "id without end": (listed(f"token_id:{10**30}", -9.0), "token_id:1000"),
    "id beyond the rows": (listed("token_id:5000", -9.0), "token_id:5000"),
    "probable padding": (
        within(
            lambda lp: lp.update(
                top_logprobs=[{lp["tokens"][0]: -1.0, "token_id:1300": -2.0}], token_logprobs=[-1.0]
            )
        ),
        "token 1300",
    ),
    "id with a point": (listed("token_id:7.0", -9.0), "token_id:7.0"),
    "id in other digits": (listed("token_id:７", -9.0), "token_id"),
    "id with a sign": (listed("token_id:+7", -9.0), "token_id"),
    "id that is empty": (listed("token_id:", -9.0), "token_id"),
    "token as text": (listed("hello", -9.0), "as text"),
    "twice, spelt otherwise": (
        within(
            lambda lp: lp["top_logprobs"][0].update({"token_id:0301": -9.0, "token_id:301": -9.0})
        ),
        "token 301 twice",
    ),
    "twice, spelt alike": (twice, "token_id:7' twice"),
    "two probabilities": (first("token_logprobs", -20.0), "two log-probabilities"),
    "token is a number": (first("tokens", 5), "5 for a token"),
    "token is a list": (first("tokens", []), r"\[\] for a token"),
    "tokens is a text": (put("tokens", "token_id:5"), "logprobs.tokens"),
    "no tokens": (within(lambda lp: lp.pop("tokens")), "logprobs.tokens"),
    "top as list": (first("top_logprobs", [["token_id:5", -0.5]]), "no object"),
    "top as text": (first("top_logprobs", "x"), "no object"),
    "no top": (first("top_logprobs", None), "no object"),
    "no list of tops": (put("top_logprobs", None), r"logprobs\.top_logprobs"),
    "lists of two lengths": (
        within(lambda lp: lp["tokens"].append("token_id:5")),
        "different lengths",
    ),
    "llama.cpp": (choice(logprobs={"content": [{"token": "x", "logprob": -1.0}]}), "llama.cpp"),
    "logprobs is a list": (choice(logprobs=[]), "logprobs.tokens"),
    "no logprobs": (
        lambda answer: {"choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]},
        "no log-probabilities",
    ),
    "a chat's delta": (lambda answer: {"choices": [{"delta": {"content": "x"}}]}, "chat server"),
    "{}": (lambda answer: {}, "no list of `choices`"),
    "[]": (lambda answer: [], "no list of `choices`"),
    "null": (lambda answer: None, "no list of `choices`"),
    "choices is an object": (lambda answer: {"choices": {"0": 1}}, "no list of `choices`"),
    "choices of texts": (lambda answer: {"choices": ["x"]}, "other `choices`"),
    "two choices": (lambda answer: {"choices": answer["choices"] * 2}, "other `choices`"),
    "text is a number": (choice(text=5), "`text` that is none"),
    "deep": (lambda answer: DEEP, "too deep"),
    "a number of 9000 digits": (
        lambda answer: json.dumps(answer).replace('"tokens"', f'"x": {"9" * 9000}, "tokens"', 1),
        "number too long",
    ),
    "400 in a stream": (
        lambda answer: {"error": {"message": "bad one", "type": "BadRequestError", "code": 400}},
        "bad one",
    ),
    "400 as a text": (lambda answer: {"error": {"message": "bad one", "code": "400"}}, "bad one"),
    "404 at the top": (
        lambda answer: {"object": "error", "message": "bad one", "code": 404},
        "bad one",
    ),
    "a kind alone": (
        lambda answer: {"error": {"message": "bad one", "type": "invalid_request_error"}},
        "bad one",
    ),
    "an error event": (
        lambda answer: b'event: error\ndata: {"code": 422, "message": "bad one"}\n\n',
        "bad one",
    ),
    "another text": (choice(text=" something else entirely"), "some are lost"),
    "text without tokens": (
        lambda answer: answer | {
            "choices": [answer["choices"][0] | {"logprobs": None, "text": "x"}]
        },
        "no log-probabilities",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LASTING)
def test_a_lie_is_refused_at_loading_and_later_with_the_url_and_at_once(
    server: FakeServer, served: BlendInGenerator, name: str
) -> None:
    lie, told = LASTING[name]
    server.lie = lie
    began = time.monotonic()
    with pytest.raises(ServerError, match=told) as refused:
        load(server)
    assert server.url in str(refused.value)
    with pytest.raises(ServerError, match=told) as refused:
        served.generate(PROMPTS[0], policy=BaseOnly(), max_new_tokens=4)
    assert server.url in str(refused.value) and len(str(refused.value)) < 800
    assert time.monotonic() - began < 60


PASSING: dict[str, tuple[Lie, str]] = {
    "no row for a token": (
        within(lambda lp: lp.update(token_logprobs=[None], top_logprobs=[None])),
        "no log-probabilities for one of its tokens",
    ),
    "nothing": (
        lambda answer: {"choices": [{"text": "", "logprobs": None, "finish_reason": "stop"}]},
        "gives no token",
    ),
    "HTML": (lambda answer: "<html>Welcome</html>", "not JSON"),
    "half": (lambda answer: json.dumps(answer)[:-9], "not JSON"),
    "a fault inside": (lambda answer: {"error": {"message": "oh", "code": 500}}, "gave up: oh"),
    "no bytes of UTF-8": (lambda answer: b"data: \xff\xfe\n\n", "not JSON"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_asked_again_and_lasts_no_longer_than_patience(
    here: BlendInGenerator, name: str
) -> None:
    lie, told = PASSING[name]
    events: Counter[str] = Counter()

    def second_of_every_other_request(answer: dict[str, Any]) -> Any:
        # Counted by request: a server may write on for a while to a client that has gone.
        events[answer["id"]] += 1
        is_spoilt = list(events).index(answer["id"]) % 2 == 0
        return lie(answer) if is_spoilt and events[answer["id"]] == 2 else answer

    expected = here.generate(PROMPTS[0], policy=BaseOnly(), max_new_tokens=8)
    with FakeServer(model(*BASE)) as server:  # of its own: nobody else's requests are counted
        served = load(server)
        server.lie = second_of_every_other_request
        out = served.generate(PROMPTS[0], policy=BaseOnly(), max_new_tokens=8)
        assert (out.text, out.token_ids) == (expected.text, expected.token_ids)
        assert len(events) > 1
        server.lie = lie
        with pytest.raises(ServerError, match=told) as refused:
            load(server)
        assert server.url in str(refused.value)


def test_a_token_without_a_row_is_never_passed_over(server: FakeServer) -> None:
    gen = load(server)
    server.lie = PASSING["no row for a token"][0]
    began = time.monotonic()
    with pytest.raises(ServerError, match=f"{server.url}.*3 times in a row"):
        gen.generate(PROMPTS[0], policy=BaseOnly(), max_new_tokens=8)
    assert time.monotonic() - began < 60  # of 600 s of patience


def test_tokens_that_are_lost_leave_their_text_behind() -> None:
    """A stream that leaves out whole tokens, with an empty event or none in their place."""
    for gap in ({"choices": []}, {"choices": [{"text": "", "logprobs": None}]}):
        count, kept = 0, ""

        def lose(answer: dict[str, Any], gap: Any = gap) -> Any:
            nonlocal count, kept
            count += 1
            if count == 2:
                kept = answer["choices"][0]["text"]
                return gap
            if count == 3:
                text = kept + answer["choices"][0]["text"]
                return choice(text=text)(answer)
            return answer

        with (
            FakeServer(model(*BASE), lie=lose) as server,  # of its own, as its events are counted
            pytest.raises(ServerError, match=r"some are lost|for one of its tokens"),
        ):
            load(server)


@pytest.mark.parametrize("where", ["first", "last", "both"])
def test_an_empty_event_first_or_last_is_none(
    here: BlendInGenerator, server: FakeServer, where: str
) -> None:
    empty = json.dumps({"choices": [{"index": 0, "text": "", "logprobs": None}]})
    seen: set[str] = set()

    def padded(answer: dict[str, Any]) -> bytes:
        events = [json.dumps(answer)]
        if where != "last" and answer["id"] not in seen:
            events.insert(0, empty)
        seen.add(answer["id"])
        if where != "first" and answer["choices"][0]["finish_reason"]:
            events.append(empty)
        return "".join(f": ping\n\ndata: {each}\r\n\r\n" for each in events).encode()

    server.lie = padded
    out = load(server).generate(PROMPTS[0], max_new_tokens=12)
    same(out, here.generate(PROMPTS[0], max_new_tokens=12))


@pytest.mark.parametrize("tokens", [1, 4])
def test_line_separators_in_a_text_are_no_line_ends(tokens: int) -> None:
    """vLLM sends U+2028, U+2029 and U+0085 as they are, and with them several tokens an event."""
    text = "one\u2028two\u2029three\x85four\u2028five"
    here = generator(BASE, GUIDE)
    ids = here.base.vocabulary.text_ids(text)
    with FakeServer(model(*BASE), tokens_an_event=tokens) as server:
        gen = load(server)
        writes = iter(ids)
        read = server._read

        def writing(*args: Any, **kwargs: Any) -> Any:
            rows, cache = read(*args, **kwargs)
            rows = rows.clone()
            rows[-1] = -30.0
            rows[-1, next(writes, ids[0])] = 0.0
            return rows, cache

        server._read = writing  # type: ignore[method-assign]
        out = gen.generate("x", policy=BaseOnly(), max_new_tokens=len(ids), stop=())
    assert out.text == text


def test_bad_gzip_is_a_sentence(monkeypatch: pytest.MonkeyPatch, server: FakeServer) -> None:
    import fake_server

    gen = load(server)
    send = fake_server._Connection.send_header

    def compressed(self: Any, name: str, value: str) -> None:
        send(self, name, value)
        if name == "Content-Type":
            send(self, "Content-Encoding", "gzip")

    monkeypatch.setattr(fake_server._Connection, "send_header", compressed)
    with pytest.raises(ServerError, match=f"{server.url}.*cannot be unpacked"):
        load(server)
    with pytest.raises(ServerError, match=f"{server.url}.*cannot be unpacked"):
        gen.generate(PROMPTS[0], policy=BaseOnly(), max_new_tokens=4)
    # A refusal stays one, whatever its body.
    server.faults = lambda number: Fault("status", status=422)
    try:
        with pytest.raises(ServerError, match=f"{server.url}.* answers 422"):
            gen.generate(PROMPTS[0], policy=BaseOnly(), max_new_tokens=4)
    finally:
        server.faults = lambda number: None


@pytest.mark.parametrize(
    "lie",
    [
        within(lambda lp: lp["tokens"].__setitem__(3, "token_id:9")),
        within(
            lambda lp: [lp[name].pop() for name in ("tokens", "token_logprobs", "top_logprobs")]
        ),
        within(
            lambda lp: [
                lp[name].__setitem__(5, None) for name in ("token_logprobs", "top_logprobs")
            ]
        ),
        within(lambda lp: lp["top_logprobs"][4].update({"token_id:7": 5.0})),
    ],
    ids=["another token", "too few", "no row", "p = 148"],
)
def test_a_text_that_is_read_back_otherwise_is_not_scored(
    server: FakeServer, served: BlendInGenerator, lie: Lie
) -> None:
    server.lie = lie
    with pytest.raises(ServerError, match=server.url):
        served.score("Why?", " Because the sky is blue.", policy=BaseOnly())


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ({"max_model_len": "2048"}, "max_model_len='2048'"),
        ({"max_model_len": -5}, "max_model_len=-5"),
        ({"max_model_len": True}, "max_model_len=True"),
        ({"max_model_len": 2048.5}, "max_model_len=2048.5"),
        ({"id": 7}, "serves nothing"),
    ],
)
def test_a_card_that_cannot_be_is_refused(card: dict[str, Any], told: str) -> None:
    with FakeServer(model(*BASE), card=card) as server:
        with pytest.raises(ServerError, match=told) as refused:
            load(server)
    assert server.url in str(refused.value)


def test_odd_bytes_are_the_same_in_text_and_tokens() -> None:
    """The comparison refuses no honest server, whatever half characters its model writes."""
    for own in (BASE, GUIDE):
        with FakeServer(model(*own)) as server:
            gen = BlendInGenerator(
                server.url, model(*GUIDE), base_kwargs={"tokenizer": folder(own)}
            )
            settings: dict[str, Any] = {
                "policy": BaseOnly(), "do_sample": True, "temperature": 2.0, "max_new_tokens": 40,
                "stop": (),
            }  # fmt: skip
            for seed in range(6):
                out = gen.generate(PROMPTS[seed % 4], seed=seed, **settings)
                assert out.error is None and out.steps
