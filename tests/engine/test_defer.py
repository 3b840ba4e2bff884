"""`Defer`: its three rules are those of the slow reference, lazily."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import generator, model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import END, Prediction, Reference, ReferenceResult

from blendin import BlendInGenerator, Defer, Generation, GuideOnly

LENGTH = 30
PROMPTS = ("How many apples?", "def add(a, b):\n    return", "你好,世界 and a café 👍")
RULES = ("token", "budget", "bet")

Spec = tuple[str, str, int]
specs = st.tuples(
    st.sampled_from(("llama", "qwen2", "gemma3")),
    st.sampled_from(("byte-level", "sentencepiece", "prefixed")),
    st.integers(0, 5),
)
guides = specs | st.tuples(st.just("llama"), st.just("no-bytes"), st.integers(0, 5))
prompts = st.sampled_from(PROMPTS)
policies = st.builds(
    Defer,
    threshold=st.sampled_from((0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)),
    rule=st.sampled_from(RULES),
)
some = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


@cache
def reference(base: Spec, guide: Spec) -> Reference:
    return Reference(*model(*base), *model(*guide))


def expected_of(base: Spec, guide: Spec, out: Generation, policy: Defer) -> ReferenceResult:
    return reference(base, guide).generate(
        out.settings["base_prompt"],
        out.settings["guide_prompt"],
        policy="defer",
        threshold=policy.threshold,
        rule=policy.rule,
        max_new_tokens=LENGTH,
    )


def close(value: float | None) -> Any:
    return pytest.approx(value, abs=1e-5) if value is not None else None  # float32, as elsewhere


def check(out: Generation, expected: ReferenceResult) -> None:
    """Step by step, up to a step that float32 could turn out either way."""
    for step, told in zip(out.steps, expected.steps, strict=False):
        if told.margin < 1e-6:
            return
        assert (None if step.is_end else step.token_bytes) == told.symbol
        assert step.intervened == told.intervened
        assert step.base_top_prob == close(told.base_top_prob)
        assert step.guide_top_prob == close(told.guide_top_prob)
        assert step.agreement == close(told.agreement)
        assert step.alpha == close(told.alpha)
    assert len(out.steps) == len(expected.steps)
    assert out.stop_reason == expected.stop_reason
    assert out.token_ids[:-1] == expected.base_ids[: len(out.token_ids) - 1]


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(specs, guides, prompts, policies)
def test_every_step_is_that_of_the_slow_reference(
    base: Spec, guide: Spec, prompt: str, policy: Defer
) -> None:
    out = generator(base, guide).generate(prompt, policy=policy, max_new_tokens=LENGTH, stop=())
    check(out, expected_of(base, guide, out, policy))


@pytest.mark.slow
@some
@given(specs, st.sampled_from(("llama", "gemma3")), prompts, policies)
def test_two_models_of_one_vocabulary_follow_the_reference_too(
    base: Spec, other: str, prompt: str, policy: Defer
) -> None:
    guide = (other, base[1], base[2] + 1)
    out = generator(base, guide).generate(prompt, policy=policy, max_new_tokens=LENGTH, stop=())
    check(out, expected_of(base, guide, out, policy))


@pytest.mark.slow
@some
@given(specs, specs, st.lists(prompts, min_size=2, max_size=3), policies)
def test_a_list_of_prompts_gives_what_each_gives_alone(
    base: Spec, guide: Spec, texts: list[str], policy: Defer
) -> None:
    gen = generator(base, guide)
    together = gen.generate(texts, policy=policy, max_new_tokens=16)
    alone = [gen.generate(text, policy=policy, max_new_tokens=16) for text in texts]
    assert [out.token_ids for out in together] == [out.token_ids for out in alone]
    flags = [[step.intervened for step in out.steps] for out in together]
    assert flags == [[step.intervened for step in out.steps] for out in alone]


@pytest.mark.slow
@some
@given(specs, guides, prompts, policies)
def test_the_trace_adds_up_in_streams_too(
    base: Spec, guide: Spec, prompt: str, policy: Defer
) -> None:
    gen = generator(base, guide)
    out = gen.generate(prompt, policy=policy, max_new_tokens=LENGTH, speculate="off")
    streamed = list(gen.stream(prompt, policy=policy, max_new_tokens=LENGTH, speculate="off"))
    assert streamed == out.steps
    data = b"".join(step.token_bytes for step in out.steps)
    assert data.decode("utf-8", "replace") == out.text
    assert "".join(step.text for step in out.steps) == out.text
    assert out.intervention_rate == sum(step.intervened for step in out.steps) / len(out.steps)
    for step in out.steps:
        assert step.intervened == (step.alpha is not None) == (step.guide_top_prob is not None)
        assert step.alpha is None or 0 <= step.alpha <= 1
        assert step.intervened or step.source == "base"


@some
@given(specs, guides, prompts, policies)
def test_the_guide_runs_at_interventions_alone(
    base: Spec, guide: Spec, prompt: str, policy: Defer
) -> None:
    gen = generator(base, guide)
    before = gen.guide.forwards
    out = gen.generate(prompt, policy=policy, max_new_tokens=LENGTH, speculate="off")
    if gen.guide is not gen.base:
        assert gen.guide.forwards - before == out.interventions
    assert out.guide_forwards == out.interventions


@pytest.mark.parametrize(
    "policy",
    [
        Defer(threshold=0, rule="token"),
        Defer(threshold=0, rule="budget"),
        Defer(threshold=1, rule="bet"),
        Defer(threshold=2, rule="bet"),
    ],
    ids=repr,
)
def test_where_no_mass_can_move_the_base_decodes_alone(policy: Defer) -> None:
    base, guide = ("llama", "byte-level", 0), ("gemma3", "sentencepiece", 1)
    gen = generator(base, guide)
    before = gen.guide.forwards
    for sampling in ({}, {"do_sample": True, "seed": 1}):
        own = {"max_new_tokens": LENGTH, "speculate": "off", **sampling}  # the guide may draft
        out = gen.generate(PROMPTS[0], policy=policy, **own)
        alone = gen.generate(PROMPTS[0], policy="base", **own)
        assert out.token_ids == alone.token_ids
        assert out.interventions == out.guide_forwards == 0
    assert gen.guide.forwards == before


@pytest.mark.slow
@some
@given(specs, specs, prompts, st.sampled_from(("token", "budget")))
def test_all_mass_handed_over_is_the_guides_own_text(
    base: Spec, guide: Spec, prompt: str, rule: Any
) -> None:
    gen = generator(base, guide)
    out = gen.generate(prompt, policy=Defer(threshold=2, rule=rule), max_new_tokens=LENGTH, stop=())
    alone = gen.generate(prompt, policy=GuideOnly(), max_new_tokens=LENGTH)
    assert [step.token_bytes for step in out.steps] == [step.token_bytes for step in alone.steps]
    assert out.intervention_rate == 1


@pytest.mark.slow
@some
@given(specs, prompts, policies)
def test_guided_by_itself_a_model_writes_its_own_greedy_text(
    spec: Spec, prompt: str, policy: Defer
) -> None:
    gen = generator(spec, spec)
    prompts = {"base_prompt": prompt, "guide_prompt": prompt, "max_new_tokens": LENGTH}
    out = gen.generate(policy=policy, **prompts)
    assert out.token_ids == gen.generate(policy="base", **prompts).token_ids


def test_each_rule_consults_and_abstains() -> None:
    """Or everything above could hold of a policy that does one thing only."""
    gen = generator(("llama", "byte-level", 0), ("gemma3", "sentencepiece", 1))
    texts = set()
    for rule in RULES:
        out = gen.generate(PROMPTS[0], policy=Defer(rule=rule), max_new_tokens=60)  # type: ignore[arg-type]
        assert 0 < out.interventions < len(out.steps)
        texts.add((out.text, out.interventions))
    assert len(texts) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": 2.1}, "threshold"),
        ({"threshold": 40}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"rule": "word"}, "rule"),
    ],
)
def test_what_makes_no_sense_is_refused(changed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Defer(**changed)


def test_the_defaults() -> None:
    assert Defer() == Defer(threshold=0.4, rule=Defer().rule)
    assert Defer().threshold == 0.4


# -- sampling --------------------------------------------------------------------------------------

DRAWS = 600


def one_step(
    gen: BlendInGenerator, base: Spec, guide: Spec, text: str
) -> tuple[Prediction, Prediction]:
    """Both models' predictions of the first token, as the reference reads them."""
    ref = reference(base, guide)
    out = gen.generate(text, max_new_tokens=1)
    at = [
        (ref.base_model, ref.base, out.settings["base_prompt"]),
        (ref.guide_model, ref.guide, out.settings["guide_prompt"]),
    ]
    first, second = [ref._predict(lm, v, v.encode_prompt(prompt)) for lm, v, prompt in at]
    return first, second


def tail(seen: Counter[Any], expected: dict[Any, float]) -> float:
    """The upper tail of chi-square by simulation; rare symbols are counted together."""
    total = sum(expected.values())
    count = sum(seen.values())
    assert set(seen) <= {symbol for symbol, prob in expected.items() if prob > 0}
    common = [symbol for symbol, prob in expected.items() if prob / total * count >= 5]
    probs = np.array([expected[symbol] / total for symbol in common])
    counts = np.array([seen[symbol] for symbol in common])
    probs, counts = np.append(probs, 1 - probs.sum()), np.append(counts, count - counts.sum())
    probs, counts = probs[probs > 1e-9], counts[probs > 1e-9]

    def statistic(table: np.ndarray) -> np.ndarray:
        return (((table - count * probs) ** 2) / (count * probs)).sum(-1)

    simulated = statistic(np.random.default_rng(0).multinomial(count, probs, size=2000))
    return float((simulated >= statistic(counts)).mean())


def drawn(gen: BlendInGenerator, text: str, policy: Defer, **sampling: Any) -> Counter[Any]:
    outs = gen.generate(
        [text] * DRAWS, policy=policy, max_new_tokens=1, do_sample=True, seed=0, **sampling
    )
    first = [out.steps[0] for out in outs]
    assert len({step.intervened for step in first}) == 1
    return Counter(END if step.is_end else step.token_bytes for step in first)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    "guide", [("llama", "byte-level", 1), ("llama", "sentencepiece", 1)], ids=["one", "two"]
)
@pytest.mark.parametrize(
    "policy", [Defer(0.1, "token"), Defer(0.3, "budget"), Defer(0.2, "bet")], ids=repr
)
def test_a_deferred_symbol_is_drawn_from_p(policy: Defer, guide: Spec, temperature: float) -> None:
    base = ("llama", "byte-level", 0)
    gen = generator(base, guide)
    of_base, of_guide = one_step(gen, base, guide, "a")
    ref = reference(base, guide)
    assert ref.defer_can_move_mass(of_base, policy.threshold, policy.rule)
    scores, m, _ = ref.defer(of_base, of_guide, policy.threshold, policy.rule)
    seen = drawn(gen, "a", policy, temperature=temperature)
    expected = {symbol: score ** (1 / temperature) for symbol, score in scores.items()}
    assert tail(seen, expected) > 0.001
    assert 0 < m < 1 + 1e-6
    # The same draws are not the base's.
    alone = {symbol: p ** (1 / temperature) for symbol, p in of_base.by_symbol.items()}
    unlike = set(seen) - {symbol for symbol, p in alone.items() if p > 0}
    assert unlike or tail(seen, alone) < 0.001
