"""The contract's checks pass on what is right, and name the step of what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from conftest import generator

from blendin import (
    Blend,
    BlendInGenerator,
    Defer,
    InterventionCap,
    Nudge,
    testing,
)
from blendin.engine.request import Request
from blendin.engine.sequence import SequenceState
from blendin.policy import POLICY_NAMES, Policy, named_policy
from blendin.testing import check_company, check_model, check_plain, check_policy, check_trace

PAIRS = {
    "one vocabulary": (("llama", "byte-level", 0), ("qwen2", "byte-level", 1)),
    "two vocabularies": (("gemma3", "byte-level", 0), ("llama", "sentencepiece", 1)),
}


@pytest.fixture(params=PAIRS)
def gen(request: pytest.FixtureRequest) -> BlendInGenerator:
    return generator(*PAIRS[request.param])


@pytest.mark.parametrize(
    "policy",
    [
        *map(named_policy, POLICY_NAMES),
        Blend(threshold=0.9, top_k=3),
        Blend(threshold=0.7, top_k=None, alpha=0.5),
        Nudge(threshold=0.6),
        Nudge(threshold=0.6, unit="token"),
        Defer(0.3, "budget"),
        Defer(0.3, "bet"),
        InterventionCap(Nudge(threshold=2), 0.3, 4),
        InterventionCap(Defer(0.5), 0.3, 4),
    ],
    ids=str,
)
def test_every_policy_keeps_the_contract(gen: BlendInGenerator, policy: Policy) -> None:
    check_policy(gen, policy, max_new_tokens=20)


def test_every_way_of_using_a_model_keeps_it() -> None:
    base, guide = PAIRS["two vocabularies"]
    check_model(generator(base, guide), max_new_tokens=12)
    check_model(generator(base, base), max_new_tokens=12)


@dataclass(frozen=True)
class EveryThird(Policy):
    """A policy that somebody else wrote, in one class: α is 1 at every third uncertain row."""

    threshold: float = 2.0

    def intervenes(self, base: Any, greedy: bool = True) -> torch.Tensor:
        return (base.top_prob < self.threshold) & (base.choice % 3 == 0)

    def mix(self, base: Any, guide: Any, greedy: bool = True) -> Any:
        one = torch.ones_like(guide.top_prob)
        return base.top(4).mixed_with(guide.top(4), one, base.prob_of(guide.choice))


def test_a_policy_of_ones_own(gen: BlendInGenerator) -> None:
    check_policy(gen, EveryThird(), max_new_tokens=20)
    out = gen.generate("How many apples?", policy=EveryThird(), max_new_tokens=40)
    assert 0 < out.interventions < len(out.steps)


@dataclass(frozen=True)
class MinorityOfOne(Blend):
    """A faulty policy: how a row is decided depends on its company."""

    def intervenes(self, base: Any, greedy: bool = True) -> torch.Tensor:
        return (base.top_prob < 2) & (len(base.top_prob) == 1)


def test_company_that_matters_is_found() -> None:
    with pytest.raises(AssertionError, match="alone and in a batch differ at step 0"):
        check_company(generator(*PAIRS["two vocabularies"]), MinorityOfOne(), max_new_tokens=8)


def test_a_context_that_went_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = generator(*PAIRS["one vocabulary"])
    expected = testing.plain_loop(gen, "How many apples?", Blend(threshold=0.9), 20)

    def forgetful(self: Any, id: int) -> None:
        self.base.ids.append(id)  # and not the guide's

    monkeypatch.setattr(testing, "plain_loop", lambda *args, **kwargs: expected)
    monkeypatch.setattr(SequenceState, "append_base", forgetful)
    with pytest.raises(AssertionError, match="the plain loop and generate"):
        check_plain(gen, Blend(threshold=0.9), ["How many apples?"], 20)


def test_a_trace_that_does_not_add_up_is_found() -> None:
    out = generator(*PAIRS["one vocabulary"]).generate(
        "How many apples?", policy=Blend(threshold=0.9), max_new_tokens=12
    )
    check_trace(out)
    place = next(i for i, step in enumerate(out.steps) if step.intervened)
    out.steps[place] = replace(out.steps[place], alpha=1.5)
    with pytest.raises(AssertionError, match=f"step {place}: α is 1.5"):
        check_trace(out)


def test_a_capped_policys_servers_stop_writing_where_the_policy_alone_would() -> None:
    gen = generator(*PAIRS["one vocabulary"])
    for policy in (Blend(threshold=0.5), InterventionCap(Blend(threshold=0.5))):
        request = Request.of("x", None, None, default_policy=policy)
        assert request.read(gen.pair).context("base").min_top_prob == 0.25
