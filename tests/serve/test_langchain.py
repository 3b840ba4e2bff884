"""LangChain's ChatOpenAI against the server; `pip install langchain-openai` brings it (60 MB)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import generator
from serving import Served, served

from blendin import BlendInGenerator, Nudge

langchain_openai = pytest.importorskip("langchain_openai", reason="LangChain is not installed")

MESSAGES = [("system", "Be brief."), ("user", "How many?")]


@pytest.fixture(scope="module")
def gen() -> BlendInGenerator:
    return generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))


@pytest.fixture(scope="module")
def server(gen: BlendInGenerator) -> Iterator[Served]:
    with served(gen, api_key="key") as running:
        yield running


def chat(server: Served, **fields: Any) -> Any:
    """Its model, as a reader of its documentation makes it."""
    given = {"model": "pair", "max_tokens": 12, **fields}
    return langchain_openai.ChatOpenAI(base_url=f"{server.url}/v1", api_key="key", **given)


def text(gen: BlendInGenerator, messages: Any = MESSAGES, **settings: Any) -> str:
    names = {"system": "system", "user": "user", "ai": "assistant"}
    told = [{"role": names[role], "content": content} for role, content in messages]
    return gen.generate(told, **{"max_new_tokens": 12, **settings}).text


def test_invoke_stream_and_batch_are_generates_texts(server: Served, gen: BlendInGenerator) -> None:
    model = chat(server, stream_usage=True)
    answer = model.invoke(MESSAGES)
    assert answer.content == text(gen)
    assert answer.usage_metadata["output_tokens"] == 12
    assert answer.response_metadata["finish_reason"] == "length"
    chunks = list(model.stream(MESSAGES))
    assert "".join(chunk.content for chunk in chunks) == answer.content
    assert (
        sum(chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata) == 12
    )
    others = [[("user", f"How many {what}?")] for what in ("a", "b", "c")]
    assert [each.content for each in model.batch(others)] == [text(gen, each) for each in others]
    assert asyncio.run(model.ainvoke(MESSAGES)).content == answer.content


def test_settings_and_policies_reach_the_pair(server: Served, gen: BlendInGenerator) -> None:
    drawn = {"temperature": 0.8, "top_p": 0.9, "seed": 5}
    expected = text(gen, do_sample=True, **drawn)
    assert chat(server, **drawn).invoke(MESSAGES).content == expected
    nudge = chat(server, model="pair:nudge", extra_body={"blendin": {"threshold": 0.3}})
    answer = nudge.invoke(MESSAGES)
    assert answer.content == text(gen, policy=Nudge(0.3))
    whole = text(gen)
    stop = whole[len(whole) // 2 :][:2]
    assert chat(server).invoke(MESSAGES, stop=[stop]).content == whole[: whole.index(stop)]


def test_logprobs_and_an_answer_that_is_begun(server: Served, gen: BlendInGenerator) -> None:
    model = chat(server).bind(logprobs=True, top_logprobs=2)
    tokens = model.invoke(MESSAGES).response_metadata["logprobs"]["content"]
    assert len(tokens) == 12 and all(len(token["top_logprobs"]) == 2 for token in tokens)
    begun = [*MESSAGES, ("ai", "I have")]
    assert chat(server).invoke(begun).content == text(gen, begun)


def test_what_is_refused_is_an_error_that_says_why(server: Served) -> None:
    openai = pytest.importorskip("openai")
    with pytest.raises(openai.BadRequestError, match="tools"):
        chat(server).bind_tools([{"name": "f", "description": "f", "parameters": {}}]).invoke("Hi")
