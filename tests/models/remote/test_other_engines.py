"""Servers of llama.cpp and SGLang decode and score as the model itself does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import generator, model
from fake_server import FakeServer
from other_engines import LlamaCpp, OtherEngine, SGLang
from test_remote import BASE, GUIDE, PROMPTS, folder, same, scores_agree

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly, Nudge
from blendin.models.remote.errors import ContextFullError, ServerError

ENGINES: dict[str, Callable[[Any], OtherEngine]] = {
    "llama.cpp": LlamaCpp,
    "SGLang": SGLang,
    "SGLang, incremental": lambda of: SGLang(of, incremental=True),
}
SPLIT = "写一首关于春天的诗 🙂🙂"
"""Goes on within characters."""


@pytest.fixture(scope="module")
def here() -> BlendInGenerator:
    return generator(BASE, GUIDE)


@pytest.fixture(scope="module", params=ENGINES)
def servers(request: pytest.FixtureRequest) -> Iterator[tuple[OtherEngine, OtherEngine]]:
    made = ENGINES[request.param]
    with made(model(*BASE)) as base, made(model(*GUIDE)) as guide:
        yield base, guide


def pair(base: FakeServer, guide: FakeServer | None = None, **options: Any) -> BlendInGenerator:
    return BlendInGenerator(
        base.url,
        guide.url if guide is not None else model(*GUIDE),
        base_kwargs={"tokenizer": folder(BASE), **options},
        guide_kwargs={"tokenizer": folder(GUIDE), **options} if guide is not None else {},
    )


@pytest.mark.parametrize(
    "policy",
    [Blend(threshold=0.8), Nudge(threshold=0.8), BaseOnly(), GuideOnly()],
    ids=["blend", "nudge", "base", "guide"],
)
def test_both_models_at_servers_decode_as_here(
    here: BlendInGenerator, servers: tuple[OtherEngine, OtherEngine], policy: Any
) -> None:
    gen = pair(*servers, top_logprobs=200)
    prompts = [*PROMPTS[:2], SPLIT]
    settings: dict[str, Any] = {"policy": policy, "max_new_tokens": 16, "stop": ()}
    for out, plain in zip(
        gen.generate(prompts, **settings), here.generate(prompts, **settings), strict=True
    ):
        same(out, plain)


def test_given_texts_are_scored_as_here(
    here: BlendInGenerator, servers: tuple[OtherEngine, OtherEngine]
) -> None:
    scores_agree(pair(*servers, top_logprobs=2000), here, atol=2e-3)


def test_a_token_within_a_character_has_its_row(here: BlendInGenerator) -> None:
    """llama.cpp gives it no probabilities: they are asked for with another token in its place."""
    split = "你好 🙂"
    tokens = here.base.vocabulary.tokens
    ids = here.base.vocabulary.text_ids(split)
    assert any(not _is_text(tokens[id] or b"") for id in ids)
    with LlamaCpp(model(*BASE)) as server:
        gen = pair(server)
        score, plain = (each.score("Say", split, policy=BaseOnly()) for each in (gen, here))
        assert score.token_log_likelihoods == pytest.approx(plain.token_log_likelihoods, abs=2e-3)
        biased = [each["logit_bias"] for each in server.requests if each.get("logit_bias")]
        plain_token = gen.base._texts.plain  # type: ignore[attr-defined]
        assert any(bias[0][0] == plain_token for bias in biased)
        out = gen.generate(base_prompt=split[:2], guide_prompt="x", max_new_tokens=24, stop=())
        same(
            out, here.generate(base_prompt=split[:2], guide_prompt="x", max_new_tokens=24, stop=())
        )


def _is_text(data: bytes) -> bool:
    return data.decode("utf-8", "replace").encode() == data


def test_engines_mix(here: BlendInGenerator) -> None:
    with SGLang(model(*BASE)) as base, LlamaCpp(model(*GUIDE)) as guide:
        gen = pair(base, guide)
        assert (gen.base.dialect.NAME, gen.guide.dialect.NAME) == ("SGLang", "llama.cpp")  # type: ignore[attr-defined]
        for prompt in PROMPTS[:2]:
            settings: dict[str, Any] = {"policy": Blend(threshold=0.8), "max_new_tokens": 16}
            same(gen.generate(prompt, **settings), here.generate(prompt, **settings))


def test_replicas_of_two_engines_are_refused() -> None:
    with LlamaCpp(model(*BASE)) as one, SGLang(model(*BASE)) as other:
        with pytest.raises(ServerError, match=r"one engine.*llama\.cpp's.*SGLang's"):
            BlendInGenerator(
                f"{one.url},{other.url}", model(*GUIDE), base_kwargs={"tokenizer": folder(BASE)}
            )


@pytest.mark.parametrize("name", ENGINES)
def test_a_context_that_is_full_is_told(name: str) -> None:
    with ENGINES[name](model(*BASE)) as server:
        gen = pair(server)
        server.max_model_len = 8
        with pytest.raises(ContextFullError):
            gen.generate("one two three four five six seven eight nine", max_new_tokens=4)


Lie = Callable[[dict[str, Any]], Any]


def changed(change: Callable[[dict[str, Any]], Any]) -> Lie:
    def lie(answer: dict[str, Any]) -> Any:
        told = copy.deepcopy(answer)
        if "tokens" not in told or "content" in told:  # not of /tokenize
            change(told)
        return told

    return lie


LLAMA_CPP: dict[str, tuple[Lie, str]] = {
    "another token's row": (
        changed(lambda a: a["completion_probabilities"][0].update(id=5)), "where it writes"),
    "p = 148": (
        changed(lambda a: a["completion_probabilities"][0].update(logprob=5.0)), "p ≤ 1"),
    "no ids": (changed(lambda a: a.pop("tokens")), "no list of `tokens`"),
    "an id as text": (
        changed(lambda a: a["completion_probabilities"][0]["top_logprobs"][0].update(id="7")),
        "token's id"),
    "the same twice": (
        changed(lambda a: a["completion_probabilities"][0]["top_logprobs"].append(
            a["completion_probabilities"][0]["top_logprobs"][0])), "twice"),
    "a shifted context": (changed(lambda a: a.update(truncated=True)), "context shift"),
    "rows lost": (changed(lambda a: a.pop("completion_probabilities", 0)), "no log-probabilities"),
    "more than asked": (
        changed(lambda a: a.update(tokens=a["tokens"] * 200)), "more tokens than"),
}  # fmt: skip
SGLANG: dict[str, tuple[Lie, str]] = {
    "p = 148": (
        changed(lambda a: a["meta_info"]["output_token_logprobs"][-1].__setitem__(0, 5.0)),
        "p ≤ 1"),
    "an id beyond": (
        changed(lambda a: a["meta_info"]["output_top_logprobs"][-1][0].__setitem__(1, 10**7)),
        "none of the vocabulary"),
    "no count": (changed(lambda a: a["meta_info"].pop("completion_tokens")), "completion_tokens"),
    "tokens lost": (
        changed(lambda a: a["meta_info"].update(
            completion_tokens=a["meta_info"]["completion_tokens"] + 1)), "for one of its tokens"),
    "lists of two lengths": (
        changed(lambda a: a["meta_info"]["output_top_logprobs"].append([])), "one length"),
    "given up": (
        changed(lambda a: a["meta_info"].update(
            finish_reason={"type": "abort", "message": "out of memory"})), "out of memory"),
    "no meta": (changed(lambda a: a.pop("meta_info")), "meta_info"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "name"),
    [*(("llama.cpp", name) for name in LLAMA_CPP), *(("SGLang", name) for name in SGLANG)],
)
def test_a_lie_is_refused_with_the_url(engine: str, name: str) -> None:
    lie, told = (LLAMA_CPP if engine == "llama.cpp" else SGLANG)[name]
    with ENGINES[engine](model(*BASE)) as server:
        gen = pair(server)
        server.lie = lie
        with pytest.raises(ServerError, match=told) as refused:
            gen.generate(PROMPTS[0], policy=BaseOnly(), max_new_tokens=4)
        assert server.url in str(refused.value)
