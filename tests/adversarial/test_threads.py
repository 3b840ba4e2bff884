"""Threads that share a generator get what each would get alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import generator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_batch import same

from blendin import BaseOnly, Blend, BlendInGenerator, Generation, GuideOnly, Nudge

TEXTS = ("How many apples?", "Why?", "你好,世界 and a café", "def add(a, b):\n    return", "x")
PAIRS = (
    (("llama", "byte-level", 1), ("gemma3", "sentencepiece", 2)),
    (("gemma3", "byte-level", 1), ("qwen2", "byte-level", 2)),
)
policies = st.sampled_from(
    (Blend(), Blend(threshold=0.9, top_k=5), Nudge(), Nudge(threshold=2), BaseOnly(), GuideOnly())
)
settings_of_call = st.fixed_dictionaries(
    {
        "policy": policies,
        "max_new_tokens": st.integers(1, 12),
        "seed": st.integers(0, 2),
        "do_sample": st.booleans(),
        "speculate": st.just("off"),
    }
)
single = st.sampled_from(TEXTS)
several = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4)
calls = st.tuples(
    st.sampled_from(("generate", "stream", "stream_batch", "score")),
    single | several,
    settings_of_call,
)


def made(gen: BlendInGenerator, call: tuple[str, Any, dict[str, Any]]) -> list[Any]:
    way, prompt, own = call
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if way == "score":
        scores = gen.score(prompts, [" 12 apples."] * len(prompts), policy=own["policy"])
        return [pytest.approx(score.log_likelihood, abs=1e-6) for score in scores]
    if way == "stream":
        return ["".join(step.text for step in gen.stream(prompts[0], **own))]
    if way == "stream_batch":
        return [
            out for _, out in sorted(gen.stream_batch(prompts, **own), key=lambda each: each[0])
        ]
    out = gen.generate(prompt, **own)
    return out if isinstance(out, list) else [out]


@pytest.mark.fuzz
@pytest.mark.parametrize("base, guide", PAIRS, ids=["llama+gemma3", "gemma3+qwen2"])
@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(queue=st.lists(calls, min_size=6, max_size=12), workers=st.integers(2, 6))
def test_threads_get_what_they_would_get_alone(
    base: Any, guide: Any, queue: list[Any], workers: int
) -> None:
    gen = generator(base, guide)
    before = [lm.model.config._attn_implementation for lm in (gen.base, gen.guide)]
    expected = [made(gen, call) for call in queue]
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda call: made(gen, call), queue))
    for ours, alone in zip(found, expected, strict=True):
        assert len(ours) == len(alone)
        for out, told in zip(ours, alone, strict=True):
            if isinstance(out, Generation):
                same(out, told)
            else:
                assert out == told
    assert [lm.model.config._attn_implementation for lm in (gen.base, gen.guide)] == before
