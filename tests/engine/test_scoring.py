"""A given text's likelihood is that of the steps which would have emitted it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import generator, model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Reference
from test_exactness import calibrations, models, reference

from blendin import BaseOnly, Blend, GuideOnly, InterventionCap, Nudge

TEXTS = (
    " There are 12 apples in the basket.",
    "def add(a, b):\n    return a + b\n",
    "你好,世界 and a café 👍",
    "  two  spaces\n\n\nand lines\t.",
)


def slow(
    ref: Reference, base_prompt: str, guide_prompt: str, tokens: list[int], policy: Any
) -> tuple[list[float], list[bool]]:
    """The contract's scoring, a full forward a token and model; log-likelihoods, interventions."""
    base_start = ref.base.encode_prompt(base_prompt)
    guide_ids = ref.guide.encode_prompt(guide_prompt)
    waiting_ids: list[int] = []
    waiting = b""
    values, intervened = [], []
    for place, token in enumerate(tokens):
        base = ref._predict(ref.base_model, ref.base, base_start + tokens[:place])
        symbol = ref.base.bytes_at(token)
        catch_up = None
        fitted = getattr(policy, "calibration", None)
        read = base if fitted is None else base.at(fitted.base_temperature)
        if read.top_prob < policy.threshold:
            passed = ref.same_vocabulary
            catch_up = ref._passed_through(waiting_ids) if passed else ref.guide.encode(waiting)
        intervened.append(catch_up is not None)
        if catch_up is None:
            values.append(math.log(base.by_id[token]))
            waiting_ids.append(token)
            waiting += symbol
            continue
        guide_ids, waiting_ids, waiting = guide_ids + catch_up, [], b""
        guide = ref._predict(ref.guide_model, ref.guide, guide_ids)
        t_g, p_g, _ = guide.best_symbol(ref.allowed)
        alpha = 1.0 if isinstance(policy, Nudge) else policy.alpha
        if alpha is None:
            if fitted is not None:
                p_g = guide.at(fitted.guide_temperature).best_symbol(ref.allowed)[1]
            agreed = read.by_symbol.get(t_g, 0.0)
            own = None
            if fitted is not None and fitted.a is not None:
                own = fitted.a, fitted.b, fitted.c
            alpha = ref._alpha(read.top_prob, p_g, agreed, policy.agreement_bonus, own)
        weights = {
            each: alpha * guide.by_symbol.get(each, 0.0) + (1 - alpha) * base.by_symbol.get(each, 0)
            for each in ref.allowed
        }
        canonical = ref.base.canonical.get(symbol) == token
        weight = weights.get(symbol, 0.0) if canonical else 0.0
        values.append(math.log(weight / sum(weights.values())) if weight else -math.inf)
        entering = ref.guide.own_or_encoded(symbol)
        if entering is None:
            waiting += symbol
        else:
            guide_ids = guide_ids + entering
    return values, intervened


policies = st.one_of(
    st.builds(
        Blend,
        threshold=st.sampled_from((0.0, 0.2, 0.5, 2.0)),
        alpha=st.sampled_from((None, 0.0, 0.3, 1.0)),
        agreement_bonus=st.sampled_from((0.1, 1.0)),
        top_k=st.sampled_from((1, 100)),  # which scoring does not heed
        calibration=calibrations,
    ),
    st.builds(Nudge, threshold=st.sampled_from((0.3, 2.0))),
)


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
@given(
    base=models,
    guide=models,
    rows=st.lists(st.tuples(st.sampled_from(TEXTS), policies), min_size=1, max_size=4),
)
def test_scores_are_those_of_the_slow_reference(base: Any, guide: Any, rows: Any) -> None:
    gen, ref = generator(base, guide), reference(base, guide)
    texts, rules = [text for text, _ in rows], [policy for _, policy in rows]
    prompts = ["How many apples?"] * len(rows)
    scores = gen.score(prompts, texts, policy=rules)
    for text, policy, score in zip(texts, rules, scores, strict=True):
        whole = gen.generate(prompts[0], max_new_tokens=1).settings
        values, intervened = slow(
            ref, whole["base_prompt"], whole["guide_prompt"], list(score.token_ids), policy
        )
        assert b"".join(ref.base.bytes_at(id) for id in score.token_ids) == text.encode()
        assert score.interventions == sum(intervened)
        assert list(score.token_log_likelihoods) == pytest.approx(values, rel=1e-4, abs=1e-4)
        assert score.log_likelihood == pytest.approx(sum(values), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("policy", [Blend(top_k=None), BaseOnly(), Blend(threshold=0.8, alpha=0.5)])
def test_what_greedy_decoding_writes_is_greedy(policy: Any) -> None:
    gen = generator(("llama", "byte-level", 2), ("qwen2", "byte-level", 3))
    out = gen.generate("How many?", policy=policy, max_new_tokens=12)
    score = gen.score("How many?", out.text, policy=policy)
    if list(score.token_ids) == out.token_ids:  # else the text has other tokens too
        assert score.is_greedy
    assert score.interventions <= len(score.token_ids)
    assert not gen.score("How many?", out.text + "zq", policy=policy).is_greedy


def test_the_guide_alone_scores_its_own_tokens() -> None:
    gen = generator(("llama", "byte-level", 2), ("qwen2", "sentencepiece", 3))
    text = " There are 12 apples."
    score = gen.score("How many?", text, policy=GuideOnly())
    prompt = gen.generate("How many?", policy=GuideOnly(), max_new_tokens=1).settings
    lm, _ = model("qwen2", "sentencepiece", 3)
    ids = gen.guide.encode_prompt(prompt["guide_prompt"])
    own = gen.guide.vocabulary.encode_bytes(text.encode())
    assert own is not None and list(score.token_ids) == own
    with torch.inference_mode():
        logits = lm(torch.tensor([ids + own])).logits[0, len(ids) - 1 : -1].float()
    expected = torch.log_softmax(logits, -1)[torch.arange(len(own)), torch.tensor(own)]
    assert list(score.token_log_likelihoods) == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_text_longer_than_one_reading_is_scored_whole() -> None:
    gen = generator(("gemma3", "byte-level", 2), ("llama", "sentencepiece", 3))
    text = " There are 12 apples in the basket, and 3 pears." * 12
    long = gen.score("How many?", text, policy=Blend())
    assert len(long.token_ids) > 130
    whole = gen.generate("How many?", max_new_tokens=1).settings
    values, _ = slow(
        reference(("gemma3", "byte-level", 2), ("llama", "sentencepiece", 3)),
        whole["base_prompt"],
        whole["guide_prompt"],
        list(long.token_ids),
        Blend(),
    )
    assert list(long.token_log_likelihoods) == pytest.approx(values, rel=1e-3, abs=1e-3)


def test_the_cap_is_applied_to_scores_too() -> None:
    gen = generator(("llama", "byte-level", 2), ("qwen2", "byte-level", 3))
    free = gen.score("How many?", TEXTS[0], policy=Blend(threshold=2))
    policy = InterventionCap(Blend(threshold=2), max_rate=0.0, grace_steps=3)
    capped = gen.score("How many?", TEXTS[0], policy=policy)
    assert free.interventions == len(free.token_ids)
    assert capped.interventions == 3
    assert capped.token_log_likelihoods[:3] == pytest.approx(free.token_log_likelihoods[:3])


@pytest.mark.parametrize(
    ("prompt", "text", "message"),
    [
        ("x", "", "text to score is empty"),
        (["x", "y"], ["a"], "1 texts for 2 prompts"),
        ("x", "a" * 5000, "shorten them"),
    ],
)
def test_bad_texts(prompt: Any, text: Any, message: str) -> None:
    gen = generator(("llama", "byte-level", 2), ("qwen2", "byte-level", 3))
    with pytest.raises(ValueError, match=message):
        gen.score(prompt, text)


@pytest.mark.parametrize("role", ["base", "guide"])
def test_a_text_that_either_model_cannot_hold_is_refused(
    role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    policy = Blend(threshold=2)
    assert gen.score("Why?", " So it is." * 4, policy=policy).interventions
    monkeypatch.setattr(getattr(gen, role), "max_length", 64)
    with pytest.raises(ValueError, match=rf"of {getattr(gen, role).name} holds 64"):
        gen.score("Why?", " So it is." * 12, policy=policy)
