"""Generations under attack: any tokenizers, texts, policies, settings, company and interruptions.

What is right is what the slow reference says, or what the plain loop makes of a prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from odd_models import models, pair, prompts, reference, stops
from test_batch import pools, same

from blendin import (
    BaseOnly,
    Blend,
    BlendInGenerator,
    Defer,
    Generation,
    GuideOnly,
    Interrupted,
    InterventionCap,
    Nudge,
)

LENGTH = 12
thresholds = st.sampled_from((0.0, 0.2, 0.4, 0.6, 0.9, 2.0))
compared = st.one_of(
    st.builds(
        Blend,
        threshold=thresholds,
        agreement_bonus=st.sampled_from((0.0, 0.1, 1.0)),
        top_k=st.sampled_from((None, 1, 2, 100)),
        alpha=st.sampled_from((None, 0.0, 0.3, 1.0)),
    ),
    st.builds(Nudge, threshold=thresholds, unit=st.sampled_from(("word", "token"))),
    st.builds(Defer, threshold=st.sampled_from((0.05, 0.2, 0.5)),
              rule=st.sampled_from(("token", "budget", "bet"))),
    st.just(BaseOnly()),
    st.just(GuideOnly()),
)  # fmt: skip
policies = compared | st.just(InterventionCap(Blend(threshold=0.9), grace_steps=3))
greedy = st.just({"do_sample": False, "temperature": 1.0, "top_p": 1.0})
sampled = st.fixed_dictionaries(
    {
        "do_sample": st.just(True),
        "temperature": st.sampled_from((0.7, 1.0, 3.0)),
        "top_p": st.sampled_from((0.5, 1.0)),
    }
)
rows = st.builds(
    lambda row, sampling: row | sampling,
    st.fixed_dictionaries(
        {
            "prompt": prompts,
            "policy": policies,
            "max_new_tokens": st.integers(1, LENGTH),
            "stop": stops,
            "system": st.none() | prompts,
            "repetition_penalty": st.sampled_from((1.0, 1.3)),
        }
    ),
    greedy | sampled,
)
relaxed = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.differing_executors]


def named(policy: Any) -> dict[str, Any]:
    """The reference's words for a policy."""
    numbers = {name: value for name, value in vars(policy).items() if name != "unit"}
    if isinstance(policy, Nudge):
        return {"policy": f"nudge-{policy.unit}", **numbers}
    name = {Blend: "blend", Defer: "defer", BaseOnly: "base", GuideOnly: "guide"}[type(policy)]
    return {"policy": name, **(numbers if name in ("blend", "defer") else {})}


@pytest.mark.fuzz
@settings(deadline=None, max_examples=40, suppress_health_check=relaxed)
@given(base=models, guide=models, texts=st.tuples(prompts, prompts), policy=compared)
def test_every_step_is_that_of_the_slow_reference(
    base: Any, guide: Any, texts: tuple[str, str], policy: Any
) -> None:
    """Whole prompts, in which control tokens that are spelled are read as such by both."""
    gen = pair(base, guide)
    try:
        out = gen.generate(
            base_prompt=texts[0], guide_prompt=texts[1], policy=policy, max_new_tokens=LENGTH
        )
    except ValueError as error:  # a text of nothing that the tokenizer can write
        assert "prompt" in str(error)
        return
    slow = reference(base, guide)
    expected = slow.generate(*texts, max_new_tokens=LENGTH, **named(policy))
    sure = next(
        (n for n, step in enumerate(expected.steps) if step.margin < 1e-6), len(expected.steps)
    )
    ours = [None if step.is_end else step.token_bytes for step in out.steps]
    assert ours[:sure] == [step.symbol for step in expected.steps][:sure]
    if sure == len(expected.steps):
        assert out.stop_reason == expected.stop_reason
        assert len(ours) == sure


@contextmanager
def failing(gen: BlendInGenerator, role: str, at: int, error: BaseException) -> Iterator[list[int]]:
    """A model whose n-th forward fails, and no other."""
    lm = getattr(gen, role).model
    forward, calls = lm.forward, list[int]()

    def once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise error
        return forward(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "forward", once)
        yield calls


class Sessions(RuleBasedStateMachine):
    """One generator that is used, interrupted and used again."""

    @initialize(base=models, guide=models)
    def load(self, base: Any, guide: Any) -> None:
        self.gen, self.others = pair(base, guide), pools()

    def alone(self, row: dict[str, Any], seed: int) -> Generation | None:
        """By the plain loop; None where the row is refused."""
        try:
            out = self.gen.generate(**row, seed=seed, speculate="off")
        except ValueError:
            return None
        adds_up(out)
        return out

    @rule(row=rows, seed=st.integers(0, 3), speculate=st.sampled_from(("auto", 1, 4)))
    def one(self, row: dict[str, Any], seed: int, speculate: Any) -> None:
        expected = self.alone(row, seed)
        if expected is None:
            with pytest.raises(ValueError):
                self.gen.generate(**row, seed=seed, speculate=speculate)
        elif row["do_sample"]:  # the same distribution, no more
            adds_up(self.gen.generate(**row, seed=seed, speculate=speculate))
        else:
            same(self.gen.generate(**row, seed=seed, speculate=speculate), expected)

    @rule(
        batch=st.lists(rows, min_size=2, max_size=4), seed=st.integers(0, 3), size=st.integers(1, 4)
    )
    def many(self, batch: list[dict[str, Any]], seed: int, size: int) -> None:
        outs = self.gen.generate(**columns(batch), seed=seed, max_batch_size=size, speculate="off")
        for index, (row, out) in enumerate(zip(batch, outs, strict=True)):
            expected = self.alone(row, seed + index)
            if expected is None:
                assert out.error is not None
            else:
                same(out, expected)

    @rule(row=rows, count=st.integers(0, LENGTH))
    def left(self, row: dict[str, Any], count: int) -> None:
        """A stream that its reader leaves."""
        expected = self.alone(row, 0)
        if expected is None:
            return
        stream = self.gen.stream(**row, seed=0, speculate="off")
        came = [step for _, step in zip(range(count), stream, strict=False)]
        stream.close()
        assert [step.token_bytes for step in came] == [
            step.token_bytes for step in expected.steps[: len(came)]
        ]
        assert expected.text.startswith("".join(step.text for step in came))

    @rule(batch=st.lists(rows, min_size=2, max_size=4), count=st.integers(0, 3))
    def list_left(self, batch: list[dict[str, Any]], count: int) -> None:
        results = self.gen.stream_batch(**columns(batch), seed=0, speculate="off")
        for _, (index, out) in zip(range(count), results, strict=False):
            expected = self.alone(batch[index], index)
            assert expected is not None or out.error is not None
            if expected is not None:
                same(out, expected)
        results.close()

    @rule(
        batch=st.lists(rows, min_size=1, max_size=3),
        role=st.sampled_from(("base", "guide")),
        at=st.integers(1, 8),
        error=st.sampled_from((RuntimeError, MemoryError, IndexError, KeyboardInterrupt)),
    )
    def broken(self, batch: list[dict[str, Any]], role: str, at: int, error: Any) -> None:
        """A forward that fails costs no row but those that were in it."""
        outs: list[Generation] = []
        with failing(self.gen, role, at, error("a fault to order")):
            try:
                outs = self.gen.generate(**columns(batch), seed=0, speculate="off")
            except Interrupted as stopped:
                outs = stopped.outputs
        assert len(outs) == len(batch)
        for index, (row, out) in enumerate(zip(batch, outs, strict=True)):
            expected = self.alone(row, index)
            if expected is not None and out.error is None and out.stop_reason is not None:
                same(out, expected)

    def teardown(self) -> None:
        assert pools() <= self.others


def columns(batch: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in batch] for name in batch[0]}


def adds_up(out: Generation) -> None:
    """Rule 6."""
    assert "".join(step.text for step in out.steps) == out.text
    assert out.interventions == sum(step.intervened for step in out.steps)
    assert all(step.alpha is None or 0 <= step.alpha <= 1 for step in out.steps)
    assert not any(stop in out.text for stop in out.settings["stop"])
    data = b"".join(step.token_bytes for step in out.steps)
    if out.stop_reason != "stop":
        assert data.decode("utf-8", "replace") == out.text


@pytest.mark.fuzz
def test_a_generator_that_is_interrupted_goes_on_as_if_it_were_not() -> None:
    run_state_machine_as_test(
        Sessions,
        settings=settings(
            deadline=None, max_examples=8, stateful_step_count=6, suppress_health_check=relaxed
        ),
    )


@pytest.mark.fuzz
@settings(deadline=None, max_examples=25, suppress_health_check=relaxed)
@given(base=models, row=rows, cut=st.data())
def test_a_stop_text_is_found_over_any_border(base: Any, row: Any, cut: Any) -> None:
    """A stop text that is drawn from what is written: it spans tokens and half characters."""
    gen: BlendInGenerator = pair(base, ("llama", "byte-level", 0))
    asked: dict[str, Any] = row | {"stop": [], "seed": 0, "speculate": "off"}
    try:
        whole = gen.generate(**asked)
    except ValueError:
        return
    if not whole.text:
        return
    begin = cut.draw(st.integers(0, len(whole.text) - 1))
    end = cut.draw(st.integers(begin + 1, min(len(whole.text), begin + 6)))
    stop = whole.text[begin:end]
    if "\ufffd" in stop:
        return
    ask: Callable[..., Any] = gen.generate
    out = ask(**asked | {"stop": [stop]})
    assert out.text == whole.text[: whole.text.index(stop)]
    assert out.stop_reason == "stop"
    assert "".join(step.text for step in gen.stream(**asked | {"stop": [stop]})) == out.text
