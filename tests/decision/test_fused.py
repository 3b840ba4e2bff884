"""Decoding through the Triton kernels is decoding without them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from conftest import tokenizer
from interpreted import DEVICE, HERE, run_interpreted
from tiny import tiny_model

from blendin import (
    BaseOnly,
    Blend,
    BlendInGenerator,
    Calibration,
    Defer,
    GuideOnly,
    InterventionCap,
    Nudge,
)
from blendin.decision.fused import FusedPrediction, checked_kernel_tables
from blendin.decision.prediction import DensePrediction
from blendin.decision.symbols import ModelSymbols
from blendin.engine.pair import Pair
from blendin.policy import Policy

pytest.importorskip("triton")

here = pytest.mark.skipif(not HERE, reason="runs in a process of its own")


@pytest.mark.slow
@pytest.mark.skipif(HERE, reason="the tests run in this process")
def test_under_the_interpreter() -> None:
    run_interpreted(__file__)


@cache
def pairs_of(base: str, guide: str) -> tuple[BlendInGenerator, Pair, Pair]:
    """A generator of tiny float32 models, and its pair without the kernels and with them.

    The kernels read 16 or 32 bits.
    """
    models = []
    for architecture, kind, seed in (("llama", base, 3), ("qwen2", guide, 4)):
        lm = tiny_model(architecture, tokenizer(kind), seed, dtype=torch.float32)
        models.append((lm.to(DEVICE), tokenizer(kind)))
    gen = BlendInGenerator(*models)
    plain, fused = (Pair(gen.base, gen.guide, fused=kernels) for kernels in (False, True))
    assert plain.base_kernels is None and plain.guide_kernels is None
    assert fused.base_kernels is not None and fused.guide_kernels is not None
    return gen, plain, fused


def steps_of_both(base: str, guide: str, **settings: Any) -> tuple[Any, Any]:
    """The steps without the kernels and with them."""
    gen, *pairs = pairs_of(base, guide)
    outs = []
    for pair in pairs:
        gen.pair = pair
        outs.append(gen.generate("How many?", trace_top=4, **settings).steps)
    return outs[0], outs[1]


def assert_same(plain: Any, fused: Any) -> None:
    for one, step in zip(plain, fused, strict=True):
        for name in ("token_bytes", "token_ids", "text", "source", "intervened", "is_end"):
            assert getattr(step, name) == getattr(one, name)
        for name in ("base_top_prob", "guide_top_prob", "alpha", "agreement"):
            assert getattr(step, name) == pytest.approx(getattr(one, name), abs=1e-5)
        for name in ("base", "guide", "emitted"):
            lists = [[c.prob for c in getattr(each.candidates, name)] for each in (one, step)]
            assert lists[1] == pytest.approx(lists[0], abs=1e-5)
        for name in ("base_prob", "guide_prob"):
            expected = getattr(one.candidates, name)
            assert getattr(step.candidates, name) == pytest.approx(expected, abs=1e-5)
        rank = one.agreement_rank  # a near-tie may fall either way
        assert step.agreement_rank == (rank and pytest.approx(rank, abs=1))


@here
@pytest.mark.parametrize(
    "policy",
    [
        Blend(),
        Blend(threshold=0.8, top_k=3),
        Blend(threshold=0.6, calibration=Calibration(1.6, 0.7, a=0.2, b=0.8, c=1.0)),
        Blend(threshold=0.7, top_k=None),
        Blend(threshold=0.9, alpha=0.3),
        Blend(threshold=2, alpha=1),
        Nudge(threshold=0.9),
        Defer(),
        BaseOnly(),
        GuideOnly(),
        InterventionCap(Blend(threshold=0.9)),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("base", "guide"),
    [
        ("byte-level", "sentencepiece"),
        ("sentencepiece", "byte-level"),
        ("byte-level", "byte-level"),
    ],
)
def test_steps_are_the_same_with_kernels(base: str, guide: str, policy: Policy) -> None:
    assert_same(*steps_of_both(base, guide, policy=policy, max_new_tokens=16))


@here
def test_draws_are_the_same_with_kernels() -> None:
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": True, "seed": 0}
    settings |= {"top_p": 0.9, "repetition_penalty": 1.2, "temperature": 0.8}
    policy = Blend(threshold=0.9)
    drawn = steps_of_both("byte-level", "sentencepiece", policy=policy, **settings)
    assert_same(*drawn)


@here
def test_only_logits_of_64_bits_are_read_without_the_kernels() -> None:
    pair = pairs_of("byte-level", "sentencepiece")[2]
    for predict, tables in (
        (pair.predict_base, pair.tables.base),
        (pair.predict_guide, pair.tables.guide),
    ):
        logits = torch.randn(2, len(tables.symbols), device=DEVICE)
        assert type(predict(logits)) is FusedPrediction
        assert type(predict(logits.double())) is DensePrediction


@here
def test_not_a_number_stops_the_text() -> None:
    gen, _, gen.pair = pairs_of("byte-level", "sentencepiece")
    handle = gen.guide.model.lm_head.register_forward_hook(lambda *a: a[-1] * float("nan"))
    try:
        with pytest.raises(FloatingPointError, match="not numbers"):
            gen.generate("x", policy=Blend(threshold=2))
    finally:
        handle.remove()


@here
def test_kernels_that_give_other_numbers_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = pairs_of("byte-level", "sentencepiece")[1].tables.guide
    from blendin.kernels import heads

    right = heads.list_heads

    def wrong(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        symbols, probs = right(*arguments)
        return symbols, probs * 1.1

    monkeypatch.setattr(heads, "list_heads", wrong)
    assert checked_kernel_tables(model) is None
    assert "without the Triton kernels: on trial the list of candidates was off" in caplog.text


def test_kernels_that_fail_are_named_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no such instruction")

    ids = torch.arange(10)
    model = ModelSymbols.of(ids[:1], ids > 0, ids, end=10)
    monkeypatch.setattr("blendin.decision.fused._try", broken)
    assert checked_kernel_tables(model) is None
    assert "read without the Triton kernels: no such instruction" in caplog.text
