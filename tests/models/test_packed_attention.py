"""A batch's sequences are attended to where they lie, in one call, as one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import model
from torch import Tensor
from varlen_attention import reference

from blendin.models.context import Context
from blendin.models.kv_pool import Pool
from blendin.models.local import LanguageModel


def logits_of(lm: LanguageModel) -> list[Tensor]:
    """Of three sequences in one pool over some steps, one of which is finished early."""
    pool, found = Pool(), []
    contexts = [Context(list(range(3, 3 + length))) for length in (4, 21, 11)]
    for context in contexts:
        assert lm.join(context, pool)
    for step in range(4):
        found.append(lm.forward_batch(contexts).clone())
        for context in contexts:
            context.ids += [step + 5] * (1 + (step == 1))
        if step == 1:
            lm.leave(contexts.pop(0))
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3"])
def test_one_call_a_layer_is_attention_one_by_one(
    architecture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, tokenizer = model(architecture, "byte-level")
    expected = logits_of(LanguageModel(own, tokenizer, "plain"))
    calls = []

    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(arguments[0].shape)
        return reference(*arguments, **options)

    monkeypatch.setattr("blendin.models.varlen.packed_attention", lambda _: counted)
    lm = LanguageModel(own, tokenizer, "packed")
    calls.clear()
    torch.testing.assert_close(logits_of(lm), expected)
    layers = own.config.num_hidden_layers
    assert len(calls) == 4 * layers  # four forwards


def test_where_it_is_wrong_or_fails_the_plain_attention_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, tokenizer = model("llama", "byte-level")
    expected = logits_of(LanguageModel(own, tokenizer, "plain"))

    def fails(*arguments: Any, **options: Any) -> Tensor:
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer")

    for attention in (fails, lambda query, *_, **__: torch.zeros_like(query)):
        monkeypatch.setattr("blendin.models.varlen.packed_attention", lambda _, a=attention: a)
        lm = LanguageModel(own, tokenizer, "fallen back")
        assert lm.varlen is not None and lm.varlen.attend_packed is None
        torch.testing.assert_close(logits_of(lm), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_torchs_own_is_used_on_a_gpu_and_near_the_plain_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, tokenizer = model("llama", "byte-level", 5)
    try:
        own.to("cuda", torch.bfloat16)
        lm = LanguageModel(own, tokenizer, "packed", capture=False)
        assert lm.varlen is not None
        if lm.varlen.attend_packed is None:
            pytest.skip("this torch has no varlen_attn with lengths, or its flash no such heads")
        got = logits_of(lm)
        monkeypatch.setattr("blendin.models.varlen.packed_attention", lambda _: None)
        expected = logits_of(LanguageModel(own, tokenizer, "plain", capture=False))
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)
    finally:
        own.to("cpu", torch.float64)
