"""A model feeds, scores several positions at once and rolls back, exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import model
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Around

from blendin.models.context import Context
from blendin.models.cuda_graphs import GraphRunner
from blendin.models.kv_pool import KVSegment
from blendin.models.local import LanguageModel
from blendin.models.transformers_cache import TransformersCache

ARCHITECTURES = ("llama", "qwen2", "gemma3")


def language_model(architecture: str, capture: bool = False) -> LanguageModel:
    return LanguageModel(*model(architecture, "byte-level"), architecture, capture=capture)


def uncached_logits(lm: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


@pytest.mark.parametrize(
    ("architecture", "capture", "own_cache"),
    [
        *((name, False, own) for name in ARCHITECTURES for own in (False, True)),
        ("llama", True, False),
        ("qwen2", True, False),
    ],
)
@settings(deadline=None, max_examples=25)
@given(
    prompt=st.lists(st.integers(0, 300), min_size=1, max_size=30),
    moves=st.lists(
        st.tuples(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.integers(0, 5)),
        max_size=6,
    ),
)
def test_feeding_and_rolling_back_is_reading_afresh(
    architecture: str,
    capture: bool,
    own_cache: bool,
    prompt: list[int],
    moves: list[tuple[list[int], int]],
) -> None:
    """Chunks of any size, cut back by any count, far past a sliding window of 8, in any cache."""
    lm, context = language_model(architecture, capture), Context(list(prompt))
    if own_cache:
        lm.varlen = None
    lm.forward(context)
    expected = TransformersCache if own_cache else GraphRunner if capture else KVSegment
    assert isinstance(context.cache, expected)
    for new, back in moves:
        context.ids += new
        scored = lm.forward(context, positions=len(new))
        torch.testing.assert_close(scored, uncached_logits(lm, context.ids)[-len(new) :])
        lm.rollback(context, min(back, len(context.ids) - 1))
        torch.testing.assert_close(lm.forward(context), uncached_logits(lm, context.ids)[-1:])


def test_rolling_back_what_was_not_read_costs_nothing() -> None:
    lm = language_model("llama")
    context = Context([1, 2, 3])
    lm.forward(context)
    context.ids += [4, 5]
    lm.rollback(context, 2)
    forwards = lm.forwards
    lm.forward(context)
    assert lm.forwards == forwards


@pytest.mark.parametrize(
    "kind",
    ["peft", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("compile", "both"))],
)
def test_a_wrapper_does_not_hide_that_only_wanted_logits_are_made(kind: str) -> None:
    """Otherwise every token of a prompt would get logits, and no CUDA graph would be captured."""
    lm, tok = model("llama", "byte-level")
    wrapped: Any = lm if kind == "compile" else Around(lm)
    if kind != "peft":
        wrapped = torch.compile(wrapped, backend="eager")
    own = LanguageModel(wrapped, tok, kind, capture=True)
    assert own._keeps_logits and own._runners is not None
    plain = LanguageModel(wrapped, tok, kind, capture=False)
    heads: list[int] = []
    handle = lm.lm_head.register_forward_hook(lambda _m, _i, out: heads.append(out.shape[1]))
    try:
        assert (plain.varlen is None) == (kind != "peft")  # would be compiled for every batch
        heads.clear()
        logits = plain.forward(Context([1, 2, 3, 4]))
    finally:
        handle.remove()
    assert heads == [1]
    torch.testing.assert_close(logits, uncached_logits(plain, [1, 2, 3, 4])[-1:])


def test_positions_that_are_not_new_are_refused() -> None:
    lm, context = language_model("llama"), Context([1, 2, 3])
    with pytest.raises(ValueError, match="4 positions asked for, 3 tokens are new"):
        lm.forward(context, positions=4)
    with pytest.raises(ValueError, match="cannot take 3 of 3"):
        lm.rollback(context, 3)


@pytest.mark.parametrize("kind", ("byte-level", "sentencepiece", "prefixed"))
def test_prompts_get_one_bos_and_no_end(kind: str) -> None:
    lm = LanguageModel(*model("llama", kind), kind)
    bos = lm.tokenizer.bos_token
    expected = [] if bos is None else [lm.tokenizer.bos_token_id]
    assert lm.encode_prompt("a dog")[: len(expected) + 1][: len(expected)] == expected
    if bos is not None:
        assert lm.encode_prompt(f"{bos}a dog").count(lm.tokenizer.bos_token_id) == 1


def test_end_tokens_are_the_union_of_three_sources() -> None:
    lm, tok = model("llama", "byte-level")
    names = {"<|end|>", "<|im_end|>"}
    assert LanguageModel(lm, tok, "x").end_ids == {tok.convert_tokens_to_ids(n) for n in names}
    before = lm.generation_config.eos_token_id
    lm.generation_config.eos_token_id = 7
    try:
        ends = LanguageModel(lm, tok, "x").end_ids
    finally:
        lm.generation_config.eos_token_id = before
    assert ends == {7, *(tok.convert_tokens_to_ids(n) for n in names)}
