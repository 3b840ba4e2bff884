"""A sequence decoded in any batch, in any company, is what it is alone."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
import torch
from conftest import generator, model, tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_lazy_guide import fed
from tiny import tiny_model

from blendin import (
    BaseOnly,
    Blend,
    BlendInGenerator,
    Calibration,
    Generation,
    GuideOnly,
    Interrupted,
    InterventionCap,
    Nudge,
)
from blendin.engine.scheduler import Scheduler
from blendin.engine.sequence import SequenceState
from blendin.models import varlen_batch
from blendin.models.kv_pool import Pool

TEXTS = (
    "How many apples?",
    "How many apples are there in the basket, and how many are in the other one?",
    "def add(a, b):\n    return",
    "你好,世界 and a café 👍",
    "  two  spaces\n\n\nand lines\t.",
    "x",
)
ARCHITECTURES = ("llama", "qwen2", "gemma3")
kinds = st.sampled_from(("byte-level", "sentencepiece", "prefixed"))
models = st.tuples(st.sampled_from(ARCHITECTURES), kinds, st.integers(0, 2))
policies = st.one_of(
    st.builds(
        Blend,
        threshold=st.sampled_from((0.2, 0.4, 0.8, 2.0)),
        top_k=st.sampled_from((None, 1, 10, 100)),
        alpha=st.sampled_from((None, None, 0.3, 1.0)),
        calibration=st.sampled_from((None, Calibration(1.6, 0.7, a=0.2, b=0.8, c=1.0))),
    ),
    st.builds(
        Nudge, threshold=st.sampled_from((0.4, 0.8)), unit=st.sampled_from(("word", "token"))
    ),
    st.just(BaseOnly()),
    st.just(GuideOnly()),
    st.just(InterventionCap(Blend(threshold=0.9), grace_steps=5)),
)
rows = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(TEXTS),
        "policy": policies,
        "max_new_tokens": st.integers(1, 30),  # far past the Gemma models' sliding window of 8
        "stop": st.sampled_from(((), ("e",), (" the", "\n"))),
        "system": st.sampled_from((None, "Be brief, and think before you answer.")),
        "do_sample": st.booleans(),
        "repetition_penalty": st.sampled_from((1.0, 1.0, 1.3)),
    }
)
batches = st.lists(rows, min_size=1, max_size=7)


def same(ours: Generation, alone: Generation) -> None:
    """Equal in all but rounding, which differs with the shapes of the matrices."""
    assert ours.error is None
    assert ours.token_ids == alone.token_ids
    assert ours.text == alone.text
    assert ours.stop_reason == alone.stop_reason
    assert len(ours.steps) == len(alone.steps)
    for step, expected in zip(ours.steps, alone.steps, strict=True):
        for name in ("token_bytes", "text", "source", "intervened", "is_end"):
            assert getattr(step, name) == getattr(expected, name)
        for name in ("base_top_prob", "guide_top_prob", "alpha", "agreement"):
            assert getattr(step, name) == pytest.approx(getattr(expected, name), abs=1e-5)
        rank = expected.agreement_rank  # a near-tie may fall either way
        assert step.agreement_rank == (rank and pytest.approx(rank, abs=1))


def columns(batch: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """A list of each setting; of `stop`, lists."""
    named = {name: [row[name] for row in batch] for name in batch[0]}
    return named | {"stop": [list(row["stop"]) for row in batch]}


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)
@given(
    base=models,
    guide=models,
    batch=batches,
    size=st.integers(1, 8),
    cap=st.none() | st.integers(300, 600),
    seed=st.integers(0, 5),
)
def test_company_changes_nothing(
    base: Any, guide: Any, batch: list[dict[str, Any]], size: int, cap: int | None, seed: int
) -> None:
    """Any mix of policies, settings and lengths, in any order, under any bound."""
    gen = generator(base, guide)
    together = gen.generate(**columns(batch), seed=seed, max_batch_size=size, max_cached_tokens=cap)
    for index, (row, out) in enumerate(zip(batch, together, strict=True)):
        # The i-th prompt of a list draws with seed + i.
        same(out, gen.generate(**row, seed=seed + index))


@pytest.mark.parametrize("together", [False, True], ids=["row by row", "in groups"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_way_of_attending(
    architecture: Any, attention: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU's grouped attention too, and a model whose own attention is eager."""
    monkeypatch.setattr(varlen_batch, "batches_single_tokens", lambda device: together)
    lm = tiny_model(architecture, tokenizer("byte-level"), 1)
    lm.set_attn_implementation(attention)
    gen = BlendInGenerator((lm, tokenizer("byte-level")), model("gemma3", "sentencepiece", 2))
    outs = gen.generate(list(TEXTS), max_new_tokens=24, max_batch_size=4)
    assert gen.base.varlen is not None and gen.guide.varlen is not None
    for text, out in zip(TEXTS, outs, strict=True):
        same(out, gen.generate(text, max_new_tokens=24))
    assert lm.config._attn_implementation == attention


def test_a_model_without_varlen_is_read_one_by_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm = tiny_model("llama", tokenizer("byte-level"), 1)
    monkeypatch.setattr(type(lm), "_supports_attention_backend", False)
    gen = BlendInGenerator((lm, tokenizer("byte-level")), model("gemma3", "sentencepiece", 2))
    outs = gen.generate(list(TEXTS), max_new_tokens=12)
    for text, out in zip(TEXTS, outs, strict=True):
        same(out, gen.generate(text, max_new_tokens=12))
    told = [record.getMessage() for record in caplog.records]
    assert sum("one by one: its attention cannot be exchanged" in each for each in told) == 1


@pytest.mark.parametrize("fault", ["positions", "window"])
def test_a_model_whose_varlen_is_wrong_is_found_out(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm = tiny_model("gemma3", tokenizer("byte-level"), 1)
    forward = lm.forward

    def faulty(*args: Any, **kwargs: Any) -> Any:
        if fault == "positions":
            kwargs.pop("position_ids", None)
        return forward(*args, **kwargs)

    if fault == "window":
        lm.model.layers[0].self_attn.sliding_window = None
    monkeypatch.setattr(lm, "forward", faulty)
    gen = BlendInGenerator((lm, tokenizer("byte-level")), model("llama", "byte-level", 2))
    assert gen.base.varlen is None
    assert "one by one" in caplog.text


@pytest.fixture
def gen() -> BlendInGenerator:
    return generator(("gemma3", "sentencepiece", 3), ("llama", "byte-level", 4))


def test_one_base_forward_a_step_and_nothing_padded(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gen.base.varlen and gen.guide.varlen  # tried beforehand
    base, guide = fed(gen.base, monkeypatch), fed(gen.guide, monkeypatch)
    own = {"max_new_tokens": 30, "speculate": "off"}  # drafts depend on times
    alone = [gen.generate(text, **own) for text in TEXTS]
    tokens = sum(base), sum(guide)
    base.clear(), guide.clear()
    outs = gen.generate(list(TEXTS), **own)
    steps = max(len(out.steps) for out in outs)
    assert [out.token_ids for out in outs] == [out.token_ids for out in alone]
    assert len(base) <= steps + 1  # one more where a prompt waits for one that begins like it
    assert len(guide) <= steps + 1
    assert sum(base) <= tokens[0] and sum(guide) <= tokens[1]


def test_rows_that_do_not_need_the_guide_cost_it_nothing(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gen.guide.varlen
    guide = fed(gen.guide, monkeypatch)
    own = {"max_new_tokens": 20, "speculate": "off"}  # drafts depend on times
    gen.generate(TEXTS[0], **own)
    alone = list(guide)
    guide.clear()
    policies = [Blend(), BaseOnly(), Blend(threshold=0), BaseOnly()]
    gen.generate(list(TEXTS[:4]), policy=policies, **own)
    assert guide == alone


@pytest.mark.parametrize("size", [1, 3, 10])
def test_a_shared_beginning_is_read_once(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    assert gen.base.varlen
    beginning = "Question: How many apples are there?\nAnswer: There are 12 apples.\n\n" * 8
    endings = ["How many?", "And how many pears?", "Why?", "x", "Where are they?", "How many?"]
    prompts = [f"{beginning}Question: {ending}" for ending in endings]
    lengths = [len(gen.base.encode_prompt(prompt)) for prompt in prompts]
    shared = len(gen.base.encode_prompt(beginning)) - 2  # the last tokens may merge with more
    alone = [gen.generate(base_prompt=p, policy=BaseOnly(), max_new_tokens=4) for p in prompts]
    base = fed(gen.base, monkeypatch)
    outs = gen.generate(
        base_prompt=prompts, policy=BaseOnly(), max_new_tokens=4, max_batch_size=size,
        speculate="off",  # drafts depend on times
    )  # fmt: skip
    made = sum(len(out.steps) for out in outs)
    assert sum(base) <= shared + sum(length - shared for length in lengths) + made
    for out, expected in zip(outs, alone, strict=True):
        same(out, expected)


def test_settings_are_for_all_or_for_each(gen: BlendInGenerator) -> None:
    outs = gen.generate(
        ["a", "b", "c"],
        policy=[BaseOnly(), Nudge(threshold=2), GuideOnly()],
        max_new_tokens=[3, 5, 7],
        stop=["never"],
    )
    assert [len(out.steps) for out in outs] == [3, 5, 7]
    assert [out.settings["policy"]["name"] for out in outs] == ["BaseOnly", "Nudge", "GuideOnly"]
    assert all(out.settings["stop"] == ("never",) for out in outs)
    each = gen.generate(["a", "b"], stop=[["x"], []], max_new_tokens=1)
    assert [out.settings["stop"] for out in each] == [("x",), ()]
    chats = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]
    assert len(gen.generate(chats, max_new_tokens=1)) == 2


def test_a_row_that_fails_ends_alone(
    gen: BlendInGenerator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["How many?", "", "x " * 3000, "y", "z"]
    record = SequenceState.record

    def failing(self: SequenceState, *args: Any, **kwargs: Any) -> Any:
        if self.index == 4 and len(self.output.steps) == 2:
            raise RuntimeError("the disk is on fire")
        return record(self, *args, **kwargs)

    monkeypatch.setattr(SequenceState, "record", failing)
    outs = gen.generate(prompts, max_new_tokens=6)
    assert [out.error is None for out in outs] == [True, False, False, True, False]
    assert "prompt is empty" in str(outs[1].error)
    assert "shorten the prompt" in str(outs[2].error)
    assert outs[4].error == "the disk is on fire" and len(outs[4].steps) == 2
    assert all(out.stop_reason is None for out in outs if out.error)
    assert outs[1].settings["policy"]["name"] == "Blend"
    assert "prompt 4 failed: the disk is on fire" in caplog.text
    for index in (0, 3):
        same(outs[index], gen.generate(prompts[index], max_new_tokens=6))


def test_logits_that_are_not_numbers_end_their_row_alone(gen: BlendInGenerator) -> None:
    def poisoned(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        output[0, 0] = float("nan")  # of the first row
        return output

    assert gen.base.varlen
    alone = [gen.generate(text, max_new_tokens=1) for text in TEXTS[1:3]]
    handle = gen.base.model.lm_head.register_forward_hook(poisoned)
    try:
        outs = gen.generate(list(TEXTS[:3]), max_new_tokens=1)
    finally:
        handle.remove()
    assert "not numbers at step 0" in str(outs[0].error)
    for out, expected in zip(outs[1:], alone, strict=True):
        same(out, expected)


def test_results_come_as_they_are_finished(gen: BlendInGenerator) -> None:
    lengths = [20, 3, 9, 3]
    came = list(gen.stream_batch(list(TEXTS[:4]), policy=BaseOnly(), max_new_tokens=lengths))
    done = [
        gen.generate(t, policy=BaseOnly(), max_new_tokens=n)
        for t, n in zip(TEXTS, lengths, strict=False)
    ]
    order = sorted(range(4), key=lambda index: (len(done[index].steps), index))
    assert [index for index, _ in came] == order
    for index, out in came:
        same(out, done[index])


def test_a_waiting_prompt_takes_the_place_of_one_that_ends(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gen.base.varlen
    base = fed(gen.base, monkeypatch)
    settings = {"max_new_tokens": [20, 5, 5, 5], "max_batch_size": 2, "speculate": "off"}
    gen.generate(["a"] * 4, policy=BaseOnly(), **settings)
    assert len(base) == 20  # 5 + 5 + 5 beside the 20


def pools() -> set[Pool]:
    """Those that hold memory, whoever made them."""
    gc.collect()
    return {each for each in gc.get_objects() if type(each) is Pool and each.bytes}


def test_closing_frees_everything_and_keeps_what_is_finished(gen: BlendInGenerator) -> None:
    others = pools()
    results = gen.stream_batch(list(TEXTS), policy=BaseOnly(), max_new_tokens=[2, *[50] * 5])
    index, out = next(results)
    assert (index, len(out.steps)) == (0, 2)
    assert pools() - others
    results.close()
    assert pools() <= others
    assert all(len(out.steps) == 2 for out in results.unfinished.values())
    assert list(results) == []
    unstarted = gen.stream_batch(["a"])
    unstarted.close()


def test_an_interrupt_keeps_what_is_finished(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gen.base.varlen
    forward, calls, others = gen.base.model.forward, list[int](), pools()

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    monkeypatch.setattr(gen.base.model, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt, match="1 of 4 prompts are finished") as caught:
        gen.generate(
            list(TEXTS[:4]), policy=BaseOnly(), max_new_tokens=[2, 50, 50, 50], max_batch_size=3
        )
    assert isinstance(caught.value, Interrupted)
    outs = caught.value.outputs
    assert [len(out.steps) for out in outs] == [2, 5, 5, 3]
    assert [out.stop_reason is None for out in outs] == [False, True, True, True]
    del caught
    assert pools() <= others


@pytest.mark.slow
@pytest.mark.parametrize("cap", [120, 160, 240])
def test_the_cap_on_cached_tokens_holds(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch, cap: int
) -> None:
    sizes, sent_back = [], []
    advance = Scheduler._preempt

    def watching(self: Scheduler) -> None:
        sizes.extend(pool.size for pool in self._pools)
        sent_back.extend(each for each in self.running if each.preempted)
        advance(self)

    monkeypatch.setattr(Scheduler, "_preempt", watching)
    prompts = [*TEXTS, *reversed(TEXTS)]
    alone = [gen.generate(text, policy=Nudge(threshold=2), max_new_tokens=40) for text in prompts]
    outs = gen.generate(
        prompts, policy=Nudge(threshold=2), max_new_tokens=40, max_cached_tokens=cap
    )
    assert 0 < max(sizes) <= cap
    fitted = [out for out in outs if out.error is None]
    for out, expected in zip(outs, alone, strict=True):
        if out.error is None:
            same(out, expected)
        else:
            assert f"max_cached_tokens is {cap}: raise it" in out.error
    assert len(fitted) == len(outs) if cap >= 240 else len(fitted) >= len(outs) // 2


def test_a_sequence_that_outgrows_its_room_waits_and_goes_on(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reserved room is an estimate; what is estimated too low is made good."""
    read = SequenceState.__init__

    def modest(self: SequenceState, *args: Any, **kwargs: Any) -> None:
        read(self, *args, **kwargs)
        for context in (self.base, self.guide):
            if context is not None:
                context.expected = len(context.ids) + 1

    monkeypatch.setattr(SequenceState, "__init__", modest)
    waited = []
    send_back = Scheduler._preempt

    def watching(self: Scheduler) -> None:
        waited.extend(each for each in self.running if each.preempted)
        send_back(self)

    monkeypatch.setattr(Scheduler, "_preempt", watching)
    prompts = list(TEXTS) * 2
    alone = [gen.generate(text, max_new_tokens=40) for text in prompts]
    for cap in (None, 260):
        outs = gen.generate(prompts, max_new_tokens=40, max_cached_tokens=cap)
        for out, expected in zip(outs, alone, strict=True):
            same(out, expected)
        assert bool(waited) == (cap is not None)


def test_a_context_that_fills_up_ends_its_text_alone(
    gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    longest = len(gen.base.encode_prompt(f"Question: {TEXTS[1]}\nAnswer:"))
    free = gen.generate(list(TEXTS), max_new_tokens=30)
    monkeypatch.setattr(gen.base, "max_length", longest + 5)
    outs = gen.generate(list(TEXTS), max_new_tokens=30)
    assert outs[1].stop_reason == "length" and len(outs[1].steps) <= 6
    same(outs[5], free[5])


def test_progress_is_shown_when_asked_for_and_not_in_a_pipe(
    gen: BlendInGenerator, capfd: pytest.CaptureFixture[str]
) -> None:
    gen.generate(["a", "b"], max_new_tokens=3)
    assert capfd.readouterr().err == ""
    gen.generate(["a", "b"], max_new_tokens=3, progress=True)
    shown = capfd.readouterr().err
    assert "2/2" in shown and "tok/s, intervention rate" in shown


@pytest.mark.slow
def test_many_prompts_of_all_lengths_run_through_in_constant_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gen = generator(("llama", "byte-level", 0), ("qwen2", "sentencepiece", 1))
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 1501, (1000,), generator=random).tolist()
    letters = torch.randint(0, 8, (1600,), generator=random).tolist()
    text = "".join("QXZJKVWY"[letter] for letter in letters)  # a token each: no merge has them
    sizes = []
    ended = Scheduler._ended

    def watching(self: Scheduler) -> Any:
        sizes.append(tuple(pool.bytes for pool in self._pools))
        return ended(self)

    monkeypatch.setattr(Scheduler, "_ended", watching)
    prompts = [
        chr(ord("A") + index % 26) + text[: max(0, n - 1)] for index, n in enumerate(lengths)
    ]
    places = [
        place
        for place, out in gen.stream_batch(
            base_prompt=prompts,
            guide_prompt=[prompt[:200] for prompt in prompts],
            max_new_tokens=2,
            max_batch_size=16,
            max_cached_tokens=8000,
        )
        if out.stop_reason is not None
    ]
    assert sorted(places) == list(range(1000))
    half = len(sizes) // 2
    assert max(sizes[half:]) <= max(sizes[:half])
