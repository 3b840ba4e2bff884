"""Drafts change what a step costs and nothing that it emits."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from conftest import generator, model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from test_exactness import models, prompts

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly, InterventionCap, Nudge
from blendin.models.lookahead import MAX_DRAFT_TOKENS
from blendin.speculation.cost_model import CostModel
from blendin.speculation.drafters import LONGEST, NgramLookup

POLICIES = (
    Blend(),
    Blend(threshold=0.9, alpha=0.3),
    Blend(threshold=2, alpha=1),
    Nudge(),
    Nudge(threshold=0.8, unit="token"),
    InterventionCap(Blend(threshold=0.8), max_rate=0.3, grace_steps=4),
    BaseOnly(),
    GuideOnly(),
)
modes = st.sampled_from((1, 2, 5, MAX_DRAFT_TOKENS, "lookup", "guide", "auto"))
samplings = st.sampled_from(
    (
        {},
        {"do_sample": True, "seed": 5},
        {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 1},
        {"repetition_penalty": 1.3},
    )
)


def decided(out: Any) -> list[Any]:
    """All of a trace that does not depend on rounding."""
    return [
        (step.token_bytes, step.token_ids, step.text, step.intervened, step.source, step.is_end)
        for step in out.steps
    ]


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(models, models, prompts, st.sampled_from(POLICIES), samplings, modes)
def test_every_draft_leaves_the_text_as_the_plain_loop_writes_it(
    base: Any, guide: Any, prompt: str, policy: Any, sampling: dict[str, Any], speculate: Any
) -> None:
    gen = generator(base, guide)
    asked: dict[str, Any] = {"policy": policy, "max_new_tokens": 32, "stop": "9"} | sampling
    plain = gen.generate(prompt, speculate="off", **asked)
    out = gen.generate(prompt, speculate=speculate, **asked)
    assert decided(out) == decided(plain)
    assert (out.text, out.stop_reason) == (plain.text, plain.stop_reason)
    for step, expected in zip(out.steps, plain.steps, strict=True):
        for name in ("base_top_prob", "guide_top_prob", "alpha", "agreement"):
            assert getattr(step, name) == pytest.approx(getattr(expected, name), abs=1e-5)


@settings(deadline=None, max_examples=15)
@given(models, models, st.lists(prompts, min_size=2, max_size=5), st.data())
def test_in_company_each_row_is_accepted_or_not_by_itself(
    base: Any, guide: Any, texts: list[str], data: Any
) -> None:
    gen = generator(base, guide)
    policies = [data.draw(st.sampled_from(POLICIES)) for _ in texts]
    speculate = [data.draw(modes | st.just("off")) for _ in texts]
    asked: dict[str, Any] = {"policy": policies, "max_new_tokens": 20, "max_batch_size": 3}
    plain = gen.generate(texts, speculate="off", **asked)
    limit = data.draw(st.sampled_from((None, 160)))
    outs = gen.generate(texts, speculate=speculate, max_cached_tokens=limit, **asked)
    assert not any(out.error for out in outs)
    assert [decided(out) for out in outs] == [decided(out) for out in plain]


def test_drafts_of_a_draw_follow_the_policys_distribution() -> None:
    gen = generator(("llama", "byte-level", 1), ("llama", "sentencepiece", 2))

    def counts(seeds: range, speculate: Any) -> Counter[str]:
        outs = gen.generate(
            ["How many apples?"] * len(seeds),
            seed=seeds[0],
            do_sample=True,
            sampling_top_k=3,
            max_new_tokens=3,
            speculate=speculate,
        )
        return Counter(out.text for out in outs)

    plain, drafted = counts(range(0, 400), "off"), counts(range(1000, 1400), 2)
    frequent = [text for text, n in (plain + drafted).items() if n >= 10]
    table = [[of[text] for text in frequent] for of in (plain, drafted)]
    for row in table:
        row.append(400 - sum(row))
    assert len(frequent) > 4
    assert chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_what_came_as_drafted_costs_no_forward(architecture: Any) -> None:
    """A model guided by itself: the guide is always right, also beyond a sliding window."""
    spec = (architecture, "byte-level", 1)
    gen = BlendInGenerator(model(*spec), tuple(model(*spec)))
    prompt = "How many apples? " * 4
    plain = gen.generate(base_prompt=prompt, guide_prompt=prompt, max_new_tokens=48)
    out = gen.generate(base_prompt=prompt, guide_prompt=prompt, max_new_tokens=48, speculate=5)
    assert out.token_ids == plain.token_ids
    looked_up = sum(step.draft == "rejected" for step in out.steps)
    assert out.stats["base_forwards"] <= 48 / 6 + looked_up + 1
    assert out.stats["accepted"] + out.stats["base_forwards"] == 48


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_drafts_in_transformers_own_cache_change_nothing(architecture: Any) -> None:
    """Also beyond a sliding window, after which that cache cannot be cropped."""
    gen = BlendInGenerator(
        tuple(model(architecture, "byte-level", 1)), tuple(model("gemma3", "sentencepiece", 2))
    )
    gen.base.varlen = gen.guide.varlen = None
    for policy in (Blend(threshold=0.8), Nudge(), BaseOnly(), GuideOnly()):
        plain = gen.generate("Why?", policy=policy, max_new_tokens=24, speculate="off")
        for speculate in (3, "guide", "lookup"):
            out = gen.generate("Why?", policy=policy, max_new_tokens=24, speculate=speculate)
            assert decided(out) == decided(plain)


def test_the_trace_tells_what_was_drafted_and_what_came() -> None:
    gen = generator(("llama", "byte-level", 1), ("llama", "sentencepiece", 2))
    for policy in (BaseOnly(), Blend()):
        out = gen.generate("How many?", policy=policy, max_new_tokens=40, speculate=3)
        stats = out.stats
        marks = Counter(step.draft for step in out.steps)
        assert stats["accepted"] == marks["accepted"] > 0
        assert stats["drafted"] == marks["accepted"] + marks["rejected"]
        assert stats["acceptance_rate"] == stats["accepted"] / stats["drafted"]
        assert stats["accepted"] + stats["base_forwards"] == len(out.steps)
        assert {key: out.summary()[key] for key in stats} == stats
    off = gen.generate("How many?", policy=BaseOnly(), max_new_tokens=40, speculate="off")
    assert off.stats["base_forwards"] == 40 and off.stats["acceptance_rate"] is None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 6))
def test_lookup_gives_what_followed_the_longest_ending_that_came_before(
    ids: list[int], count: int
) -> None:
    lookup = NgramLookup()
    for end in range(1, len(ids) + 1):
        text = ids[:end]
        found = lookup.draft(text, count)
        expected = None
        for length in range(min(LONGEST, end - 1), 0, -1):
            places = [p for p in range(length, end) if text[p - length : p] == text[-length:]]
            if places:
                longer = list(text)
                for step in range(count):
                    longer.append(longer[places[-1] + step])
                expected = longer[end:]
                break
        assert (found and found.tokens) == expected


def measured(costs: dict[int, float], accepted: int, rounds: int = 20) -> CostModel:
    """It has seen these costs, and drafts whose first `accepted` tokens were right."""
    model = CostModel()
    for width, seconds in costs.items():
        for _ in range(5):
            model.target_read(seconds, width, 0)
    for _ in range(rounds):
        model.draft_judged("lookup 2", accepted, min(accepted + 1, MAX_DRAFT_TOKENS))
    return model


def test_a_draft_is_as_long_as_it_is_worth() -> None:
    most = MAX_DRAFT_TOKENS
    flat = dict.fromkeys(range(1, most + 2), 1.0)
    steep = {width: float(width) for width in range(1, most + 2)}
    assert measured(flat, accepted=most).length("lookup 2", most) == most
    assert measured(flat, accepted=most).length("lookup 2", 4) == 4
    assert measured(steep, accepted=most).length("lookup 2", most) == 0
    slope = {width: 1 + 0.2 * (width - 1) for width in range(1, most + 2)}
    assert measured(slope, accepted=0).length("lookup 2", most) == 0
    assert 2 <= measured(slope, accepted=3).length("lookup 2", most) <= 4
    assert CostModel().length("lookup 2", most) == 0  # nothing is timed yet


def test_drafts_that_lose_time_stop_until_the_loss_is_small() -> None:
    model = measured({1: 1.0, 4: 1.2}, accepted=3)
    assert model.length("lookup 2", 3) == 3
    lost = 0
    while model.length("lookup 2", 3):
        model.target_read(1.2, 1, 3)
        lost += 1
        assert lost < 50
    for _ in range(60):
        model.target_read(1.0, 1, 0)
    assert model.lost <= 0.03 * model.spent
    assert model.length("lookup 2", 3) == 3


def simulated(cost: Any, accepted: Any, steps: int, model: CostModel) -> float:
    """Seconds of `steps` tokens on a machine where `cost(width)` is what a forward takes.

    Args:
        cost: seconds by width.
        accepted: tokens of a draft that come, by its length.
        steps: tokens to emit.
        model: chooses; keeps what it learns.
    """
    seconds, emitted, cached = 0.0, 0, 0
    while emitted < steps:
        if cached:
            cached -= 1
            model.target_read(0.0, 0, 0)
        else:
            count = model.length("lookup 2", MAX_DRAFT_TOKENS)
            taken = cost(1 + count)
            seconds += taken
            model.target_read(taken, 1, count)
            if count:
                cached = min(count, accepted(count))
                model.draft_judged("lookup 2", cached, min(cached + 1, count))
        emitted += 1
    return seconds


@pytest.mark.parametrize("steps", [50, 100, 1000])
@pytest.mark.parametrize("slope", [0.05, 0.2, 0.5, 0.9, 1.0, 1.3])
@pytest.mark.parametrize("hits", [(), (4,), (3, 5), (1, 2, 3, 4, 5)], ids=str)
def test_speculation_never_costs_more_than_a_few_steps(
    slope: float, hits: tuple[int, ...], steps: int
) -> None:
    """Whatever a token more costs, and however often drafts are right."""
    drafts = itertools.count()

    def accepted(count: int) -> int:
        return count if next(drafts) % 6 in hits else 0

    taken = simulated(lambda width: 1 + slope * (width - 1), accepted, steps, CostModel())
    assert taken <= 1.03 * steps
    if len(hits) == 5 and slope <= 0.2 and steps == 1000:
        assert taken <= 0.6 * steps


def test_nothing_is_tried_where_a_prompts_tokens_cost_as_much_as_steps() -> None:
    model = CostModel()
    model.prompt_read(20.0, 20)
    for _ in range(500):
        model.target_read(1.0, 1, 0)
        assert model.length("lookup 2", MAX_DRAFT_TOKENS) == 0


@pytest.mark.parametrize("speculate", [0, -1, MAX_DRAFT_TOKENS + 1, True, "always", 2.5, None])
def test_a_setting_that_is_none_is_refused(speculate: Any) -> None:
    gen = generator(("llama", "byte-level", 1), ("llama", "sentencepiece", 2))
    with pytest.raises(ValueError, match="use one of auto, off, guide, lookup or a number"):
        gen.generate("Why?", speculate=speculate)
