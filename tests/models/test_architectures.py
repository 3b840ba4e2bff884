"""Whatever architecture people bring: right in every way of running, or refused by name."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, NotTiny, tiny_architecture
from conftest import model, tokenizer
from tiny import end_token_ids

from blendin import BaseOnly, Blend, BlendInGenerator
from blendin.testing import check_policy

# fmt: off
NOT_CAUSAL = {
    "bert", "bert-generation", "big_bird", "camembert", "cpmant", "data2vec-text", "electra",
    "ernie", "megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roformer",
    "xlm-roberta", "xlm-roberta-xl", "xlm", "xlnet",
}
"""They read in both directions, as their default configuration stands, or want mask tokens."""

MUST_BE_TINY = {
    "bamba", "bloom", "falcon_h1", "falcon_mamba", "gemma3_text", "gpt2", "gpt_oss", "jamba",
    "lfm2", "llama", "llama4_text", "mamba", "mamba2", "mistral", "mpt", "nemotron_h",
    "openai-gpt", "opt", "qwen3_next", "recurrent_gemma", "reformer", "rwkv", "zamba2",
}
"""Kinds of state that must not silently drop out of the table: recurrent, hybrid, none."""
# fmt: on


@cache
def llama() -> tuple[Any, Any]:
    return deepcopy(model("llama", "byte-level")[0]).float(), tokenizer("byte-level")


@cache
def architecture(kind: str) -> tuple[Any, Any]:
    tok = tokenizer("byte-level")
    try:
        return tiny_architecture(kind, len(tok) + 7, end_token_ids(tok)), tok
    except NotTiny as reason:
        if kind in MUST_BE_TINY:
            raise
        pytest.skip(str(reason))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_is_right_as_base_and_as_guide(kind: str) -> None:
    """Alone, in lists, with drafts, over a live state: as reading it afresh at every step."""
    lm = architecture(kind)
    if kind in NOT_CAUSAL:
        with pytest.raises(ValueError, match="'theirs' cannot be decoded with"):
            BlendInGenerator(named(lm, "theirs"), llama())
        return
    gen = BlendInGenerator(lm, llama())
    check_policy(gen, Blend(threshold=2), ["How many?", "def add(a, b):"], 5)
    check_policy(BlendInGenerator(llama(), lm), Blend(threshold=0.6), ["How many?"], 5)
    expected = own_text(lm, "def add(a, b):", 6)
    out = gen.generate(base_prompt="def add(a, b):", policy=BaseOnly(), max_new_tokens=6)
    decided = len(out.token_ids) - (out.stop_reason == "end")  # ends may win together alone
    assert out.token_ids[:decided] == expected[:decided]


def named(lm: tuple[Any, Any], name: str) -> tuple[Any, Any]:
    lm[0].name_or_path = name
    return lm


def own_text(lm: tuple[Any, Any], prompt: str, length: int) -> list[int]:
    ids = torch.tensor([lm[1].encode(prompt)])
    made = lm[0].generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length
    )
    return made[0, ids.shape[1] :].tolist()
