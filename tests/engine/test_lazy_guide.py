"""The guide costs nothing while the base is sure, and reads nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import generator

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly, InterventionCap, Nudge

PROMPT = "How many apples are there?"


@pytest.fixture
def gen() -> BlendInGenerator:
    return generator(("gemma3", "sentencepiece", 3), ("llama", "byte-level", 4))


def fed(lm: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the forwards that a model runs from now on."""
    lengths: list[int] = []
    forward = lm.model.forward

    def counting(*args: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        lengths.append(input_ids.shape[-1])
        return forward(*args, input_ids=input_ids, **kwargs)

    assert lm.varlen is not None  # tried beforehand
    # LanguageModel read the signature when it was made.
    monkeypatch.setattr(lm.model, "forward", counting)
    return lengths


@pytest.mark.parametrize("policy", [Blend(), Nudge(unit="token"), Blend(threshold=0.8)])
def test_one_guide_forward_an_intervention(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch, policy: Any
) -> None:
    base, guide = fed(gen.base, monkeypatch), fed(gen.guide, monkeypatch)
    out = gen.generate(PROMPT, policy=policy, max_new_tokens=48, speculate="off")
    assert 0 < out.interventions < len(out.steps)
    assert len(guide) == out.interventions
    assert len(base) == len(out.steps)


def test_nothing_is_read_twice(gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    base, guide = fed(gen.base, monkeypatch), fed(gen.guide, monkeypatch)
    out = gen.generate(PROMPT, max_new_tokens=48, speculate="off")
    assert base[0] == len(gen.base.encode_prompt(out.settings["base_prompt"]))
    # All but the last step's own tokens are fed, once each.
    assert sum(base[1:]) == len(out.token_ids) - len(out.steps[-1].token_ids)
    assert guide[0] >= len(gen.guide.encode_prompt(out.settings["guide_prompt"]))
    assert sum(guide[1:]) <= len(b"".join(step.token_bytes for step in out.steps))


def test_a_nudged_word_asks_the_base_once(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, guide = fed(gen.base, monkeypatch), fed(gen.guide, monkeypatch)
    out = gen.generate(PROMPT, policy=Nudge(threshold=0.6), max_new_tokens=48, speculate="off")
    inside = sum(step.intervened and step.base_top_prob is None for step in out.steps)
    assert inside > 0
    assert len(base) == len(out.steps) - inside
    # The guide's look at the next word's beginning serves the intervention that follows at once.
    words = out.interventions - inside
    assert out.interventions <= len(guide) <= out.interventions + words


def test_a_policy_that_needs_one_model_runs_one(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, guide = fed(gen.base, monkeypatch), fed(gen.guide, monkeypatch)
    gen.generate(PROMPT, policy=BaseOnly(), max_new_tokens=8, speculate="off")
    assert (len(base), len(guide)) == (8, 0)
    gen.generate(PROMPT, policy=GuideOnly(), max_new_tokens=8, speculate="off")
    assert (len(base), len(guide)) == (8, 8)


@pytest.mark.parametrize("max_rate", [0.0, 0.1, 1.0])
def test_the_cap_holds_the_rate_down(gen: BlendInGenerator, max_rate: float) -> None:
    free = gen.generate(PROMPT, policy=Blend(threshold=0.9), max_new_tokens=80)
    policy = InterventionCap(Blend(threshold=0.9), max_rate=max_rate)
    out = gen.generate(PROMPT, policy=policy, max_new_tokens=80)
    assert [s.token_bytes for s in out.steps[:20]] == [s.token_bytes for s in free.steps[:20]]
    flags = [step.intervened for step in out.steps]
    for count in range(20, len(flags)):
        if flags[count]:
            assert sum(flags[: count + 1]) <= max_rate * (count + 1)
    if max_rate == 1:
        assert out.token_ids == free.token_ids
    else:
        assert any(not s.intervened and s.base_top_prob < 0.9 for s in out.steps[20:])
