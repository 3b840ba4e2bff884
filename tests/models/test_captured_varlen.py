"""Captured varlen forwards are the plain ones; on the CPU, the same buffers run uncaptured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import generator, model
from faulty_graphs import replays_nothing, replays_once
from varlen_attention import reference

from blendin import Blend, BlendInGenerator, GuideOnly, Nudge
from blendin.models import captured_varlen
from blendin.models.captured_varlen import WORTH_CAPTURING, CapturedVarlen, shape_of
from blendin.models.context import Context
from blendin.models.cuda_graphs import GraphRunner
from blendin.models.graph_capture import record
from blendin.models.kv_pool import Pool
from blendin.models.local import LanguageModel

BASE, GUIDE = ("gemma3", "byte-level", 0), ("llama", "sentencepiece", 1)
PROMPTS = ["How many apples?", "你好,世界", "def add(a, b):", "a"]


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blendin.models.varlen.packed_attention", lambda _: reference)


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of every replay."""
    made: list[Any] = []
    replayed = CapturedVarlen._replayed

    def counted(self: Any, forward: Any, *rest: Any) -> Any:
        made.append(forward.batch.shape)
        return replayed(self, forward, *rest)

    monkeypatch.setattr(CapturedVarlen, "_replayed", counted)
    return made


def captured(architecture: str, kind: str = "byte-level", seed: int = 0) -> LanguageModel:
    lm = LanguageModel(*model(architecture, kind, seed), architecture, capture=True)
    assert lm.varlen is not None and lm.varlen.captured is not None
    return lm


def plain(architecture: str = "llama") -> LanguageModel:
    return LanguageModel(*model(architecture, "byte-level"), architecture, capture=False)


@pytest.mark.parametrize("speculate", ["off", 3])
@pytest.mark.parametrize("policy", [Blend(), Nudge(), GuideOnly()], ids=str)
def test_a_captured_pair_writes_what_the_plain_pair_writes(
    policy: Any, speculate: Any, shapes: list[Any]
) -> None:
    """Alone and in company: rows come, end, move and are taken over."""
    expected = generator(BASE, GUIDE)
    pair = BlendInGenerator(captured(*BASE), captured(*GUIDE))
    settings = {"policy": policy, "speculate": speculate, "progress": False}
    for prompts in (PROMPTS[0], PROMPTS[1], PROMPTS + PROMPTS[::-1]):
        outs, others = (
            gen.generate(
                prompts, **settings, max_batch_size=3,
                max_new_tokens=30 if isinstance(prompts, str) else [12, 20, 9, 17, 5, 21, 30, 8],
            )
            for gen in (pair, expected)
        )  # fmt: skip
        pairs = [(outs, others)] if isinstance(prompts, str) else zip(outs, others, strict=True)
        for out, other in pairs:
            assert (out.text, out.token_ids) == (other.text, other.token_ids)
            for step, plainly in zip(out.steps, other.steps, strict=True):
                assert step.alpha == pytest.approx(plainly.alpha, abs=1e-5)
    assert (1, 1) in shapes and any(rows > 1 for rows, _ in shapes)
    assert speculate == "off" or any(width > 1 for _, width in shapes)


def batch(lm: LanguageModel, steps: int = 12) -> list[torch.Tensor]:
    """The logits of three texts in one pool, two of which gain more tokens at times."""
    pool, found = Pool(), []
    contexts = [Context(list(range(3, 3 + length)), length + 40) for length in (4, 21, 11)]
    for context in contexts:
        assert lm.join(context, pool)
    for step in range(steps):
        found.append(lm.forward_batch(contexts).clone())
        for row, context in enumerate(contexts):
            context.ids += [step + 5] * (1 + (step % 3 == row))
    return found


@pytest.mark.parametrize("recorded", [replays_nothing, replays_once])
def test_a_graph_that_does_not_do_the_forwards_work_is_found_out(
    recorded: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(captured_varlen, "record", recorded)
    lm = captured("llama")
    torch.testing.assert_close(batch(lm), batch(plain()))
    assert "its captured distributions differ from the plain" in caplog.text
    context = Context([1, 2, 3])  # one alone takes the other kind of graph
    lm.forward(context)
    assert isinstance(context.cache, GraphRunner)


@pytest.mark.parametrize("what", ["_long", "_int"])
def test_positions_or_lengths_that_are_baked_in_are_found_out(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each buffer by itself is held at what it was at the capture."""

    def baked(run: Any, device: Any) -> Any:
        buffers = run.__closure__
        static = next(c.cell_contents for c in buffers if hasattr(c.cell_contents, "fill"))
        held = getattr(static, what).clone()
        output = run().clone()

        def again() -> None:
            now = getattr(static, what).clone()
            getattr(static, what).copy_(held)
            output.copy_(run())
            getattr(static, what).copy_(now)

        return output, again

    monkeypatch.setattr(captured_varlen, "record", baked)
    batch(captured("llama"))
    assert "its captured distributions differ from the plain" in caplog.text


def test_it_is_captured_anew_when_a_pools_tensors_are_made_anew(
    shapes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[int] = []
    monkeypatch.setattr(
        captured_varlen, "record", lambda *each: (records.append(1), record(*each))[1]
    )
    lm, own = captured("llama"), plain()
    pools, found = (Pool(), Pool()), ([], [])
    contexts = [[Context([3, 4, 5], 30), Context([6, 7], 30)] for _ in pools]
    for reader, pool, mine, logits in zip((lm, own), pools, contexts, found, strict=True):
        for context in mine:
            assert reader.join(context, pool)
        for step in range(20):
            logits.append(reader.forward_batch(mine).clone())
            for context in mine:
                context.ids.append(step + 3)
            if step == 9:
                before = pool.version
                mine.append(Context(list(range(3, 80)), 300))
                assert reader.join(mine[-1], pool) and pool.version != before
                reader.forward_batch(mine)
    torch.testing.assert_close(*found)
    assert len(records) == 2 and shapes.count((2, 1)) == 9 - WORTH_CAPTURING + 1


def test_memory_that_is_short_once_does_not_end_the_graphs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shapes: list[Any]
) -> None:
    tried: list[int] = []

    def short(*arguments: Any) -> Any:
        tried.append(1)
        if len(tried) == 2:  # which is said once
            monkeypatch.setattr(captured_varlen, "record", record)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(captured_varlen, "record", short)
    torch.testing.assert_close(batch(captured("llama"), 24), batch(plain(), 24))
    assert caplog.text.count("not enough memory for them now") == 1 and shapes


def test_what_does_not_fit_is_read_plainly() -> None:
    pool = Pool()
    full, other = pool.reserve((), 8), pool.reserve((), 40)
    assert full is not None and other is not None
    assert shape_of([(full, [1])]) is None  # a prompt
    full.ids += range(7)
    other.ids += range(20)
    assert shape_of([(full, [1])]) == (1, 1)
    assert shape_of([(full, [1]), (other, [1, 2])]) is None  # its padding would not fit
    assert shape_of([(other, [1, 2, 3])] * 3) == (4, 4)
    assert shape_of([(other, [1])] * 300) is None


def test_a_spare_segment_goes_from_sequence_to_sequence() -> None:
    lm = captured("llama")
    first, other = Context([1, 2, 3]), Context([1, 2])
    for context in (first, other):
        lm.forward(context)
    segment = first.cache
    assert segment is not other.cache
    del context, first
    third = Context([4, 5])
    lm.forward(third)
    assert third.cache is segment
    lm.leave(third)
    del third
    fourth = Context([4, 5])
    lm.forward(fourth)
    assert fourth.cache is not segment  # its memory was given back
    torch.testing.assert_close(fourth.last_logits, plain().forward(Context([4, 5])))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_captured_batches_are_read_like_plain_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    own, tokenizer = model("llama", "byte-level", 7)
    try:
        own.to("cuda", torch.bfloat16)
        lm = LanguageModel(own, tokenizer, "captured", capture=True)
        if lm.varlen is None or lm.varlen.captured is None:
            pytest.skip("varlen_attn does not run here")
        found, expected = batch(lm), batch(LanguageModel(own, tokenizer, "plain", capture=False))
        assert not lm.varlen.captured.refusals.is_final
        torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)
    finally:
        own.to("cpu", torch.float64)
