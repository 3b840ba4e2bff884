"""One generator used by several threads: each gets what it would get alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from conftest import model, tokenizer
from tiny import tiny_model

from blendin import BaseOnly, Blend, BlendInGenerator, Nudge

PROMPTS = ("How many?", "def add(a, b):", "Où est le café?", "a", "48 + 24 = 72. The answer")
POLICIES = (Blend(0.7), Nudge(0.6), Blend(2, top_k=None), BaseOnly())


def jobs() -> list[tuple[str, Any, dict[str, Any]]]:
    """Single calls, lists, drafts, samples and scores, mixed."""
    singles = [
        ("generate", prompt, {"policy": policy, "speculate": speculate})
        for prompt, policy, speculate in zip(
            PROMPTS * 4, POLICIES * 5, ("auto", "off", 3, "guide") * 5, strict=True
        )
    ]
    lists = [
        ("generate", [*PROMPTS[place:], *PROMPTS[:place]], {"policy": POLICIES[place % 4]})
        for place in range(5)
    ]
    sampled = [("generate", prompt, {"do_sample": True, "seed": 5}) for prompt in PROMPTS]
    mixed: list[tuple[str, Any, dict[str, Any]]] = []
    for group in zip(singles, lists * 4, sampled * 4, strict=True):
        mixed += group
    return mixed


def run(gen: BlendInGenerator, job: tuple[str, Any, dict[str, Any]]) -> list[Any]:
    _, prompt, settings = job
    if settings.get("do_sample"):
        with torch.inference_mode():  # what a server may be in
            outs = gen.generate([prompt], max_new_tokens=10, **settings)
    else:
        outs = gen.generate(prompt, max_new_tokens=10, **settings)
    outs = outs if isinstance(outs, list) else [outs]
    assert not any(out.error for out in outs), outs
    return [out.token_ids for out in outs]


@pytest.mark.parametrize("kind", ["varlen", "eager", "own cache", "static cache", "one model"])
def test_threads_get_what_each_gets_alone(kind: str) -> None:
    lm = tiny_model("gemma3", tokenizer("byte-level"), 1)
    if kind == "eager":
        lm.set_attn_implementation("eager")
    base: Any = (lm, tokenizer("byte-level"))
    guide = base if kind == "one model" else model("llama", "sentencepiece", 2)
    gen = BlendInGenerator(base, guide)
    if kind == "own cache":
        gen.base.varlen = gen.guide.varlen = None  # type: ignore[attr-defined]
    if kind == "static cache":
        from blendin.models.cuda_graphs import GraphRunners
        from blendin.models.graph_capture import GraphContents

        gen.guide._runners = GraphRunners(gen.guide.model, "guide", GraphContents("guide"))  # type: ignore[attr-defined]
    work = jobs()
    expected = [run(gen, job) for job in work]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda job: run(gen, job), work))
    assert found == expected


def test_a_models_owner_may_use_it_meanwhile() -> None:
    """Its attention, config and results stay its own, and so does transformers' registry."""
    lm = tiny_model("llama", tokenizer("byte-level"), 1)
    gen = BlendInGenerator((lm, tokenizer("byte-level")), model("gemma3", "byte-level", 2))
    ids = torch.tensor([tokenizer("byte-level").encode("def add(a, b):")])

    def own(_: int) -> list[int]:
        assert lm.config._attn_implementation == "sdpa"
        made = lm.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12
        )
        return made[0].tolist()

    expected, ours = own(0), gen.generate(list(PROMPTS), max_new_tokens=12)
    with ThreadPoolExecutor(4) as pool:
        owned = pool.map(own, range(12))
        lists = pool.map(lambda _: gen.generate(list(PROMPTS), max_new_tokens=12), range(6))
        assert all(each == expected for each in owned)
        for outs in lists:
            assert [out.token_ids for out in outs] == [out.token_ids for out in ours]
