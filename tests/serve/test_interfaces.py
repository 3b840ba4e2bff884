"""The requests of logitloom, SillyTavern and mikupad as they send them, and what they read.

Written down from their sources (logitloom: logit-loom.ts and api-sniffer.ts; SillyTavern 1.19.0:
textgen-settings.js, openai.js and its server's backends; mikupad: useCompletion and api/openai.js).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from conftest import model
from serving import Served, events, served

from blendin import Blend, BlendInGenerator

USER = {"role": "user", "content": "How many?"}
ORIGIN = {"Origin": "http://interface.example"}


@pytest.fixture(scope="module")
def gen() -> BlendInGenerator:
    return BlendInGenerator(
        model("llama", "byte-level"), model("llama", "sentencepiece", 1), Blend(0.6)
    )


@pytest.fixture(scope="module")
def server(gen: BlendInGenerator) -> Iterator[Served]:
    with served(gen, cors=["*"]) as running:
        yield running


def begun(text: str) -> list[dict[str, Any]]:
    return [USER, {"role": "assistant", "content": text}]


def is_readable(token: str) -> bool:
    """Whether it is not the half of a character, which interfaces cannot put into a text."""
    return bool(token) and "\\x" not in token


# -- logitloom: a tree of alternatives, each gone on with by prefill -------------------------------


def test_logitloom_finds_the_server_from_its_page(server: Served) -> None:
    """A page of another origin that asks for /models, and there for the fields of each model."""
    sent = {"Authorization": "Bearer x", "x-api-key": "x",
            "anthropic-dangerous-direct-browser-access": "true"}  # fmt: skip
    asked = {"Access-Control-Request-Method": "GET",
             "Access-Control-Request-Headers": ",".join(sent).lower()}  # fmt: skip
    leave = server.client.options("/v1/models", headers=ORIGIN | asked)
    assert leave.status_code == 200
    assert set(sent) <= set(leave.headers["Access-Control-Allow-Headers"].split(",")) | {
        "Authorization"
    }
    models = server.client.get("/v1/models", headers=ORIGIN | sent)
    assert models.headers["Access-Control-Allow-Origin"] == "*"
    assert all(each["id"] and each["owned_by"] for each in models.json()["data"])
    assert server.client.get("/models", headers=sent).status_code == 404  # it looks above, too


def loom(server: Served, path: str, prefill: str, depth: int) -> list[tuple[str, dict[str, float]]]:
    """logitloom's `query`: the chosen tokens, and the alternatives of each."""
    request = {"model": "pair", "max_tokens": depth, "temperature": 0.0}
    if path == "chat":
        messages = begun(prefill) if prefill else [USER]
        request |= {"messages": messages, "logprobs": True, "top_logprobs": 3}
        answer = server.client.post("/v1/chat/completions", json=request).json()
        content = answer["choices"][0]["logprobs"]["content"]
        return [
            (each["token"], {top["token"]: top["logprob"] for top in each["top_logprobs"]})
            for each in content
        ]
    request |= {"prompt": f"How many?{prefill}", "logprobs": 3}
    told = server.client.post("/v1/completions", json=request).json()["choices"][0]["logprobs"]
    return list(zip(told["tokens"], told["top_logprobs"], strict=True))


@pytest.mark.parametrize("path", ["chat", "base"])
def test_logitlooms_tree_grows_from_each_alternative(
    server: Served, gen: BlendInGenerator, path: str
) -> None:
    depth = 4
    roots = loom(server, path, "", depth)
    for chosen, top in roots:
        assert chosen == max(top, key=lambda token: top[token]) and len(top) >= 3
    first, top = roots[0]
    others = [token for token in top if token != first and is_readable(token)]
    assert others
    for token in others:  # each is a branch: the prompt, the tokens so far and it
        if path == "chat":
            expected = gen.generate(begun(token), max_new_tokens=depth - 1)
        else:
            prompt = f"How many?{token}"
            expected = gen.generate(prompt, base_prompt=prompt, max_new_tokens=depth - 1)
        branch = loom(server, path, token, depth - 1)
        assert len(branch) == len(expected.steps)
        for (chosen, _), step in zip(branch, expected.steps, strict=True):
            if not step.is_end and is_readable(chosen):
                assert chosen == step.token_bytes.decode()


def test_an_end_in_logitlooms_tree_is_a_token_and_a_finish(server: Served) -> None:
    """It marks the branch as finished; gone on with from there, its name is text."""
    for seed in range(40):
        request: dict[str, Any] = {"messages": [USER], "max_tokens": 30, "stop": [], "seed": seed}
        answer = server.client.post(
            "/v1/chat/completions",
            json={**request, "temperature": 1.5, "logprobs": True, "top_logprobs": 3},
        ).json()["choices"][0]
        if answer["finish_reason"] == "stop":
            break
    end = answer["logprobs"]["content"][-1]
    assert end["bytes"] is None and end["token"]
    assert not answer["message"]["content"].endswith(end["token"])
    assert loom(server, "chat", answer["message"]["content"] + end["token"], 2)


# -- SillyTavern: probabilities of a message's tokens, and going on from one -----------------------

GENERIC = {
    "prompt": "Anna: Hello!\nBob:", "model": "pair", "max_tokens": 8, "logprobs": 10,
    "temperature": 1, "top_p": 0.95, "frequency_penalty": 0, "presence_penalty": 0,
    "stop": ["\nAnna:", "\nBob:"], "seed": 1,
}  # fmt: skip
"""Text completion, "Generic": its server lets OpenAI's fields through, its preset Default."""

VLLM = GENERIC | {
    "logprobs": 5, "min_p": 0.01, "repetition_penalty": 1.1, "top_k": -1, "min_tokens": 0,
    "skip_special_tokens": True, "ignore_eos": False, "spaces_between_special_tokens": True, "n": 1,
}  # fmt: skip
"""Text completion, "vLLM", which shows token probabilities, with its preset Default."""

CUSTOM = {
    "model": "pair", "temperature": 1, "max_tokens": 8, "presence_penalty": 0, "seed": 1,
    "frequency_penalty": 0, "top_p": 1, "logprobs": True, "top_logprobs": 5,
    "stop": ["\nAnna:"],
}  # fmt: skip
"""Chat completion, "Custom (OpenAI-compatible)", with request_token_probabilities."""

STRICT = [
    {"role": "system", "content": "Write Bob's next reply.\nBob is brief."},
    {"role": "user", "content": "[Start a new chat]"},
    {"role": "assistant", "content": "Hello, Anna."},
    {"role": "user", "content": "How many?"},
]
"""Its messages with the prompt post-processing "Strict": user first, roles in turns."""


def drawn(fields: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The same settings for `generate`."""
    names = {"max_tokens": "max_new_tokens"}
    taken = ("max_tokens", "temperature", "top_p", "min_p", "seed", "stop", "repetition_penalty",
             "repetition_penalty_range", "penalize_nl")  # fmt: skip
    settings = {names.get(name, name): fields[name] for name in taken if name in fields}
    return {"do_sample": True, **settings, **given}


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """As its EventSourceStream reads a stream: events by empty lines, data by `data:`."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    read = [part.removeprefix("data: ") for part in answer.text.split("\n\n") if part]
    assert read[-1] == "[DONE]"
    return [json.loads(part) for part in read[:-1]]


@pytest.mark.parametrize("fields", [GENERIC, VLLM], ids=["generic", "vllm"])
def test_sillytaverns_text_completions(
    server: Served, gen: BlendInGenerator, fields: dict[str, Any]
) -> None:
    prompt = fields["prompt"]
    expected = gen.generate(prompt, base_prompt=prompt, **drawn(fields)).text
    whole = server.client.post("/v1/completions", json={**fields, "stream": False}).json()
    assert whole["choices"][0]["text"] == expected
    chunks = lines(server.client.post("/v1/completions", json={**fields, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    told = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["text"]]
    for choice in told:  # it shows the first token of each event
        assert len(choice["logprobs"]["top_logprobs"][0]) >= fields["logprobs"]
    begun_text = prompt + told[0]["text"]
    for token in told[1]["logprobs"]["top_logprobs"][0]:  # click one: the text so far, and it
        if is_readable(token) and not token.startswith("<"):
            again = {**fields, "prompt": begun_text + token, "temperature": 0, "top_p": 1}
            again["repetition_penalty"] = 1
            answer = server.client.post("/v1/completions", json=again).json()
            further = gen.generate(
                begun_text + token, base_prompt=begun_text + token, max_new_tokens=8,
                stop=fields["stop"],
            )  # fmt: skip
            assert answer["choices"][0]["text"] == further.text
            break
    else:
        pytest.fail("no alternative can be read")


def test_sillytaverns_chats_and_their_continuation(server: Served, gen: BlendInGenerator) -> None:
    expected = gen.generate(STRICT, **drawn(CUSTOM)).text
    request = {**CUSTOM, "messages": STRICT}
    whole = server.client.post("/v1/chat/completions", json={**request, "stream": False}).json()
    assert whole["choices"][0]["message"]["content"] == expected
    for token in whole["choices"][0]["logprobs"]["content"]:
        assert {"token", "logprob"} <= set(token) and len(token["top_logprobs"]) == 5
    chunks = lines(server.client.post("/v1/chat/completions", json={**request, "stream": True}))
    deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(deltas) == expected
    goes_on = [*STRICT, {"role": "assistant", "content": "I have"}]  # "continue prefill"
    answer = server.client.post("/v1/chat/completions", json={**request, "messages": goes_on})
    text = answer.json()["choices"][0]["message"]["content"]
    assert text == gen.generate(goes_on, **drawn(CUSTOM)).text


def test_sillytaverns_messages_out_of_turn_are_refused_with_a_reason(server: Served) -> None:
    """Without post-processing it sends several system messages, and begins with the assistant."""
    messages = [*STRICT[:1], {"role": "system", "content": "[Start a new Chat]"}, *STRICT[2:]]
    answer = server.client.post("/v1/chat/completions", json={**CUSTOM, "messages": messages})
    assert answer.status_code == 400 and "take turns" in answer.json()["error"]["message"]


# -- mikupad: completions with ten alternatives of each token --------------------------------------

MIKUPAD = {
    "model": "pair", "temperature": 0.7, "repetition_penalty": 1.1, "repetition_penalty_range": 256,
    "penalize_nl": False, "ban_eos_token": False, "presence_penalty": 0, "frequency_penalty": 0,
    "top_p": 0.95, "top_k": 40, "min_p": 0, "max_tokens": 10, "stream": True, "seed": 7,
    "dynatemp_range": 0, "dynatemp_exponent": 1, "typical_p": 1, "tfs": 1, "xtc_threshold": 0.1,
    "xtc_probability": 0, "dry_multiplier": 0, "dry_base": 1.75, "dry_allowed_length": 2,
    "dry_penalty_last_n": 1024, "dry_sequence_breakers": '["\\n", ":"]', "banned_tokens": [],
}  # fmt: skip
"""All samplers shown, at its defaults."""


def test_mikupads_completions_and_their_alternatives(server: Served, gen: BlendInGenerator) -> None:
    asked = {**MIKUPAD, "prompt": "How many", "logprobs": 10}
    expected = gen.generate("How many", base_prompt="How many", **drawn(MIKUPAD, sampling_top_k=40))
    chunks = events(server.client.post("/v1/completions", json=asked, headers=ORIGIN).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected.text
    seen = 0
    for chunk in chunks:
        choice = chunk["choices"][0]
        told = choice["logprobs"]
        if choice["text"] and len(told["tokens"]) == 1:
            top = told["top_logprobs"][0]  # under the mouse; a click goes on with another
            assert choice["text"] in top and 10 <= len(top) <= 11
            seen += 1
    assert seen
    whole = server.client.post("/v1/completions", json={**asked, "stream": False}).json()
    told = whole["choices"][0]["logprobs"]
    assert len(told["tokens"]) == len(told["top_logprobs"]) == len(expected.steps)


def test_mikupads_chats(server: Served, gen: BlendInGenerator) -> None:
    settings = drawn(MIKUPAD, sampling_top_k=40)
    asked = {**MIKUPAD, "logprobs": True, "top_logprobs": 10}
    for messages in ([USER], begun("I have")):
        chunks = events(
            server.client.post("/v1/chat/completions", json={**asked, "messages": messages}).text
        )
        choices = [chunk["choices"][0] for chunk in chunks]
        text = "".join(choice["delta"].get("content", "") for choice in choices)
        assert text == gen.generate(messages, **settings).text
        for choice in choices:
            if choice["delta"].get("content") and len(choice["logprobs"]["content"]) == 1:
                (token,) = choice["logprobs"]["content"]
                probs = {top["token"]: math.exp(top["logprob"]) for top in token["top_logprobs"]}
                said = choice["delta"]["content"]
                assert sum(probs.values()) < 1.001
                assert said in (token["token"], "\ufffd")  # half a character that stays one


ACTIVE: list[tuple[str, dict[str, Any]]] = [
    ("typical_p", {"typical_p": 0.9}),
    ("tfs", {"tfs": 0.95}),
    ("mirostat_mode", {"mirostat_mode": 2, "mirostat_tau": 5, "mirostat_eta": 0.1}),
    ("xtc_probability", {"xtc_probability": 0.5}),
    ("dry_multiplier", {"dry_multiplier": 0.8}),
    ("banned_tokens", {"banned_tokens": ["no"]}),
    ("ban_eos_token", {"ban_eos_token": True}),
    ("grammar_string", {"grammar_string": "root ::= 'a'"}),
    ("logit_bias", {"logit_bias": {"5": 1}}),
    ("dynamic_temperature", {"dynatemp_range": 0, "dynamic_temperature": True}),
]


@pytest.mark.parametrize(("name", "fields"), ACTIVE, ids=[name for name, _ in ACTIVE])
def test_what_an_interface_switches_on_and_is_not_here_is_refused_by_name(
    server: Served, name: str, fields: dict[str, Any]
) -> None:
    for path, asked in (
        ("completions", {"prompt": "a"}),
        ("chat/completions", {"messages": [USER]}),
    ):
        answer = server.client.post(f"/v1/{path}", json=MIKUPAD | asked | fields)
        error = answer.json()["error"]
        assert answer.status_code == 400 and error["param"] == name, error
        assert name in error["message"]


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({"repetition_penalty_range": 0, "penalize_nl": True, "repeat_last_n": -1}, {}),
        ({"repetition_penalty_range": -1}, {}),
        ({"repetition_penalty_range": 4}, {"repetition_penalty_range": 4}),
        ({"repeat_last_n": 4, "penalize_nl": False},
         {"repetition_penalty_range": 4, "penalize_nl": False}),
        ({"repeat_last_n": 0}, {"repetition_penalty": 1.0}),
    ],
    ids=str,
)  # fmt: skip
def test_the_penalty_looks_at_as_much_of_the_text_as_is_said(
    server: Served, gen: BlendInGenerator, fields: dict[str, Any], settings: dict[str, Any]
) -> None:
    answer = server.chat(max_tokens=24, stop=[], repetition_penalty=5, **fields).json()
    settings = {"repetition_penalty": 5.0, **settings}
    expected = gen.generate("How many?", max_new_tokens=24, stop=(), **settings).text
    assert answer["choices"][0]["message"]["content"] == expected


def test_two_ranges_of_the_penalty_agree(server: Served) -> None:
    answer = server.chat(repetition_penalty=2, repetition_penalty_range=4, repeat_last_n=5)
    assert answer.status_code == 400 and "differ" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/v1/token/encode", "/v1/internal/token-count", "/v1/internal/stop-generation"]
)
def test_what_other_servers_have_besides_is_not_found(server: Served, path: str) -> None:
    """mikupad counts tokens by trying these, and does without."""
    answer = server.client.post(path, json={"prompt": "a", "text": "a"})
    assert answer.status_code == 404 and answer.json()["error"]["message"]
