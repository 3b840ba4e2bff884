"""`trace_top`: what was likely at a step, by the base, by the guide and by their mixture."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import generator, model, readable, tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import END, Reference
from tiny import tiny_model

from blendin import (
    BaseOnly,
    Blend,
    BlendInGenerator,
    Calibration,
    Candidate,
    Defer,
    Generation,
    GuideOnly,
    InterventionCap,
    Nudge,
    Policy,
    Step,
)
from blendin.decision.mixture import Mixture
from blendin.decision.prediction import DensePrediction

LENGTH = 12
PROMPTS = ("How many apples?", "def add(a, b):\n    return", "你好,世界 and a café 👍")
FAR = 1e-5
"""How far float32 may be from the reference, as elsewhere."""

Spec = tuple[str, str, int]
specs = st.tuples(
    st.sampled_from(("llama", "qwen2", "gemma3")),
    st.sampled_from(("byte-level", "sentencepiece", "prefixed")),
    st.integers(0, 5),
)
thresholds = st.sampled_from((0.2, 0.4, 0.8, 2.0))
REFERENCES: Mapping[type[Policy], str] = {
    Blend: "blend",
    Defer: "defer",
    BaseOnly: "base",
    GuideOnly: "guide",
}
policies = st.one_of(
    st.builds(
        Blend,
        threshold=thresholds,
        top_k=st.sampled_from((None, 1, 3, 100)),
        alpha=st.sampled_from((None, 0.0, 1.0)),
    ),
    st.builds(Nudge, threshold=thresholds, unit=st.sampled_from(("word", "token"))),
    st.builds(
        Defer,
        threshold=st.sampled_from((0.1, 0.4, 0.8)),
        rule=st.sampled_from(("token", "budget", "bet")),
    ),
    st.builds(BaseOnly),
    st.builds(GuideOnly),
)
some = settings(
    deadline=None,
    max_examples=10,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


@cache
def reference(base: Spec, guide: Spec) -> Reference:
    return Reference(*model(*base), *model(*guide))


def is_top(told: tuple[Candidate, ...], n: int, probs: Mapping[Hashable, float], key: Any) -> None:
    """Whether some candidates are the n likeliest of a distribution, each with its probability."""
    best = sorted(probs.values(), reverse=True)[:n]
    assert [each.prob for each in told] == pytest.approx([p for p in best if p > 0], abs=FAR)
    assert [each.prob for each in told] == sorted((each.prob for each in told), reverse=True)
    assert len({key(each) for each in told}) == len(told)
    for each in told:
        assert each.prob == pytest.approx(probs[key(each)], abs=FAR)


def by_base(each: Candidate) -> Hashable:
    return END if each.is_end else each.base_id


def by_guide(each: Candidate) -> Hashable:
    return END if each.is_end else each.guide_id


def by_bytes(each: Candidate) -> Hashable:
    return END if each.is_end else each.token_bytes


@pytest.mark.parametrize(
    "policy",
    [
        Blend(),
        Blend(threshold=0.8, top_k=1),
        Blend(threshold=2, top_k=None),
        Blend(threshold=2, alpha=0.3, top_k=3),
        Blend(calibration=Calibration(1.7, 0.6)),
        Nudge(threshold=0.8),
        Nudge(unit="token"),
        Defer(0.1),
        Defer(0.8, "budget"),
        Defer(0.4, "bet"),
        BaseOnly(),
        GuideOnly(),
    ],
    ids=readable,
)
@settings(some, max_examples=5)
@given(specs, specs, st.sampled_from(PROMPTS), st.sampled_from((1, 4, 10_000)))
def test_candidates_are_those_of_the_slow_reference(
    policy: Policy, base: Spec, guide: Spec, prompt: str, n: int
) -> None:
    out = generator(base, guide).generate(
        prompt, policy=policy, max_new_tokens=LENGTH, stop=(), trace_top=n
    )
    numbers = {name: value for name, value in vars(policy).items() if name != "unit"}
    name = f"nudge-{policy.unit}" if isinstance(policy, Nudge) else REFERENCES[type(policy)]
    prompts = [out.settings.get(f"{role}_prompt", "-") for role in ("base", "guide")]
    expected = reference(base, guide).generate(
        *prompts, policy=name, max_new_tokens=LENGTH, **numbers
    )
    for step, told in zip(out.steps, expected.steps, strict=False):
        if told.margin < 1e-6:
            return
        found = step.candidates
        assert found is not None
        chosen = found.chosen
        assert (chosen.token_bytes, chosen.is_end) == (step.token_bytes, step.is_end)
        assert (None if chosen.is_end else chosen.token_bytes) == told.symbol
        for side, listed, prob, key in (
            (told.base, found.base, found.base_prob, by_base),
            (told.guide, found.guide, found.guide_prob, by_guide),
        ):
            assert bool(listed) == (side is not None) == (prob is not None)
            if side is not None:
                is_top(listed, n, side.by_id, key)
                assert prob == pytest.approx(side.by_id.get(key(chosen), 0.0), abs=FAR)
        if told.scores is not None:
            is_top(found.emitted, n, told.scores, by_bytes)  # type: ignore[arg-type]
            assert chosen.prob == pytest.approx(told.scores[by_bytes(chosen)], abs=FAR)  # type: ignore[index]
            assert found.emitted[0].token_bytes == chosen.token_bytes
        else:
            assert found.emitted == (found.guide if isinstance(policy, GuideOnly) else found.base)
            assert found.emitted[0] == chosen


ways = st.fixed_dictionaries(
    {
        "policy": policies | st.builds(InterventionCap, policies.filter(
            lambda policy: isinstance(policy, (Blend, Nudge, Defer))
        ), grace_steps=st.just(2)),
        "speculate": st.sampled_from(("off", "auto", 3)),
        "trace_top": st.sampled_from((0, 1, 5)),
        "repetition_penalty": st.sampled_from((1.0, 1.3)),
        "seed": st.integers(0, 5),
    }
)  # fmt: skip


def without(steps: list[Step]) -> list[Step]:
    return [replace(step, candidates=None) for step in steps]


@some
@given(specs, specs, st.lists(ways, min_size=2, max_size=4), st.sampled_from((0.0, 0.7, 1.0)))
def test_asking_changes_nothing_that_is_emitted(
    base: Spec, guide: Spec, rows: list[dict[str, Any]], temperature: float
) -> None:
    """Rows of all policies together, some of which ask; and each of them alone, streamed."""
    gen = generator(base, guide)
    texts = [PROMPTS[place % len(PROMPTS)] for place in range(len(rows))]
    common: dict[str, Any] = {"max_new_tokens": 10, "do_sample": True, "temperature": temperature}
    asked = {name: [row[name] for row in rows] for name in rows[0]} | common
    plain = gen.generate(texts, **asked | {"trace_top": 0}, progress=False)
    outs = gen.generate(texts, **asked, progress=False)
    for place, (row, one, other) in enumerate(zip(rows, plain, outs, strict=True)):
        assert other.error is None
        assert without(other.steps) == one.steps
        assert [step.candidates is not None for step in other.steps] == [
            row["trace_top"] > 0
        ] * len(other.steps)
        assert other.settings.get("trace_top", 0) == row["trace_top"]
        alone = row | common | {"seed": row["seed"] + place}
        assert close(list(gen.stream(texts[place], **alone)), other.steps)


def close(one: list[Step], other: list[Step]) -> bool:
    """Whether two runs are equal up to the rounding of float32."""
    pairs = list(zip(one, other, strict=True))
    for mine, theirs in pairs:
        assert mine.token_ids == theirs.token_ids
        if mine.candidates is None or theirs.candidates is None:
            assert mine.candidates is theirs.candidates
            continue
        for name in ("base", "guide", "emitted"):
            lists = [
                [each.prob for each in getattr(step.candidates, name)] for step in (mine, theirs)
            ]
            assert lists[0] == pytest.approx(lists[1], abs=FAR)
    return True


@pytest.mark.parametrize("policy", [Blend(threshold=2), Nudge(2), Defer(0.4, "bet"), GuideOnly()])
def test_what_is_emitted_from_is_told_before_the_sampling_settings(policy: Policy) -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    asked: dict[str, Any] = {"policy": policy, "max_new_tokens": 1, "trace_top": 6}
    greedy = gen.generate("How many?", **asked).steps[0].candidates
    chosen = set()
    for seed in range(8):
        drawn = gen.generate(
            "How many?", do_sample=True, temperature=3.0, top_p=0.9, seed=seed, **asked
        )
        found = drawn.steps[0].candidates
        assert greedy is not None and found is not None
        assert (found.base, found.guide) == (greedy.base, greedy.guide)
        assert found.emitted == greedy.emitted
        chosen.add(found.chosen)
        known = {by_bytes(each): each for each in found.emitted}
        assert known.get(by_bytes(found.chosen), found.chosen) == found.chosen
    assert len(chosen) > 1
    assert len({each.prob for each in chosen}) == len(chosen)


def test_nothing_is_computed_where_it_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, n: int) -> Any:
        raise AssertionError("asked for candidates")

    for kind in (DensePrediction, Mixture):
        monkeypatch.setattr(kind, "likeliest", fails)
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    gen.generate(["a", "b"], policy=[Blend(threshold=0.6), GuideOnly()], max_new_tokens=12)
    with pytest.raises(AssertionError, match="asked for candidates"):
        gen.generate("a", trace_top=1)


@pytest.mark.parametrize("same", [True, False], ids=["one vocabulary", "two"])
def test_special_tokens_have_names_and_end_is_one_symbol(same: bool) -> None:
    models = []
    for kind in ("byte-level", "byte-level" if same else "sentencepiece"):
        lm = tiny_model("llama", tokenizer(kind), 5, suppress=False)
        models.append((lm, tokenizer(kind)))
    gen = BlendInGenerator(*models)
    out = gen.generate("a", policy=Blend(threshold=2), max_new_tokens=3, trace_top=10_000)
    for step in out.steps:
        assert step.candidates is not None
        for role, listed in (("base", step.candidates.base), ("guide", step.candidates.guide)):
            lm = gen.pair.model(role)
            ids = [getattr(each, f"{role}_id") for each in listed]
            assert sum(each.is_end for each in listed) == 1
            assert sorted(id for id in ids if id is not None) == sorted(
                set(range(len(lm.vocabulary))) - lm.end_ids
            )
            assert sum(each.prob for each in listed) == pytest.approx(1, abs=1e-4)
            for id, each in zip(ids, listed, strict=True):
                special = id is not None and lm.vocabulary.tokens[id] is None
                assert each.is_special == special
                if special:
                    assert each.text == (lm.tokenizer.convert_ids_to_tokens(id) or "")
                    assert each.base_id == each.guide_id or not same
        assert not any(each.is_special for each in step.candidates.emitted)
    names = {each.text for each in out.steps[0].candidates.base if each.is_special}  # type: ignore[union-attr]
    assert "<|im_start|>" in names


@pytest.fixture(scope="module")
def out() -> Generation:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    return gen.generate("How many?", policy=Nudge(), max_new_tokens=12, trace_top=3)


def test_files_hold_the_candidates(out: Generation, tmp_path: Path) -> None:
    out.save(tmp_path / "out.json")
    assert Generation.load(tmp_path / "out.json") == out
    out.write_jsonl(tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [Step.from_dict(json.loads(line)) for line in lines] == out.steps


def test_files_of_before_have_none(out: Generation, tmp_path: Path) -> None:
    told = {"format": "blendin.Generation", "version": 1, **out.to_dict()}
    for step in told["steps"]:
        del step["candidates"]
    (tmp_path / "old.json").write_text(json.dumps(told))
    assert Generation.load(tmp_path / "old.json").steps == without(out.steps)


@pytest.mark.parametrize("field", [each.name for each in fields(Candidate)])
def test_a_damaged_file_is_told_of(out: Generation, tmp_path: Path, field: str) -> None:
    told = {"format": "blendin.Generation", "version": 1, **out.to_dict()}
    del told["steps"][0]["candidates"]["base"][0][field]
    (tmp_path / "bad.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f"damaged: KeyError at '{field}'"):
        Generation.load(tmp_path / "bad.json")


@pytest.mark.parametrize("value", [-1, 2.5, "5", None, True])
def test_what_is_no_number_of_candidates_is_refused(value: Any) -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    with pytest.raises(ValueError, match="trace_top"):
        gen.generate("a", trace_top=value)


def test_no_number_is_too_large() -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    (step,) = gen.generate("a", max_new_tokens=1, trace_top=2**40).steps
    assert step.candidates is not None
    width = len(gen.base.vocabulary) - len(gen.base.end_ids) + 1
    assert len(step.candidates.base) <= width
    assert torch.tensor([each.prob for each in step.candidates.base]).sum() == pytest.approx(1)
