"""Decoding through the Triton kernels is decoding through the eager mathematics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tokenizer
from interpreted import DEVICE, HERE, run_interpreted
from tiny import tiny_model

from blendin import BaseOnly, Blend, BlendInGenerator, InterventionCap, Nudge
from blendin.decision.fused import checked_kernel_tables
from blendin.engine.fused_stepper import FusedStepper, stepper
from blendin.engine.pair import Pair
from blendin.engine.request import Request
from blendin.engine.sequence import Limits
from blendin.sampling import Sampling

pytest.importorskip("triton")

here = pytest.mark.skipif(not HERE, reason="runs in a process of its own")


@pytest.mark.skipif(HERE, reason="the tests run in this process")
def test_under_the_interpreter() -> None:
    run_interpreted(__file__)


def pair_of(base: str, guide: str) -> BlendInGenerator:
    """Tiny float32 models: the kernels read 16 or 32 bits."""
    models = []
    for architecture, kind, seed in (("llama", base, 3), ("qwen2", guide, 4)):
        lm = tiny_model(architecture, tokenizer(kind), seed, dtype=torch.float32)
        models.append((lm.to(DEVICE), tokenizer(kind)))
    return BlendInGenerator(*models)


@here
@pytest.mark.parametrize(
    "policy",
    [
        Blend(),
        Blend(threshold=0.8, top_k=3),
        Blend(threshold=0.7, top_k=None),
        Blend(threshold=0.9, alpha=0.3),
        Blend(threshold=2, alpha=1),
        BaseOnly(),
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
def test_fused_steps_are_the_eager_ones(base: str, guide: str, policy: Any) -> None:
    gen = pair_of(base, guide)
    outs = []
    for fused in (False, True):
        gen.pair = Pair(gen.base, gen.guide, fused=fused)
        assert (gen.pair.fused is not None) == fused
        outs.append(gen.generate("How many?", policy=policy, max_new_tokens=16).steps)
    for eager, step in zip(*outs, strict=True):
        for name in ("token_bytes", "token_ids", "text", "source", "intervened", "is_end"):
            assert getattr(step, name) == getattr(eager, name)
        for name in ("base_top_prob", "guide_top_prob", "alpha", "agreement"):
            assert getattr(step, name) == pytest.approx(getattr(eager, name), abs=1e-5)
        rank = eager.agreement_rank  # a near-tie may fall either way
        assert step.agreement_rank == (rank and pytest.approx(rank, abs=1))


@here
def test_what_the_kernels_do_not_know_is_decided_eagerly() -> None:
    gen = pair_of("byte-level", "sentencepiece")
    gen.pair = Pair(gen.base, gen.guide, fused=True)
    eager = Pair(gen.base, gen.guide, fused=False)
    for policy, sampling, fused in (
        (Blend(), Sampling(), True),
        (Nudge(), Sampling(), False),
        (Blend(), Sampling(do_sample=True, seed=0), False),
        (Blend(), Sampling(repetition_penalty=1.2), False),
    ):
        sequence = Request("x", None, None, None, policy, Limits(), sampling).read(gen.pair)
        assert isinstance(stepper(gen.pair, [sequence]), FusedStepper) == fused
        assert not isinstance(stepper(eager, [sequence]), FusedStepper)


@here
def test_not_a_number_stops_the_text() -> None:
    gen = pair_of("byte-level", "sentencepiece")
    gen.pair = Pair(gen.base, gen.guide, fused=True)
    handle = gen.guide.model.lm_head.register_forward_hook(lambda *a: a[-1] * float("nan"))
    try:
        with pytest.raises(FloatingPointError, match="not numbers"):
            gen.generate("x", policy=Blend(threshold=2))
    finally:
        handle.remove()


def test_kernels_that_fail_are_told_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gen = pair_of("byte-level", "sentencepiece")

    def broken(*arguments: Any) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("blendin.decision.fused._try", broken)
    assert checked_kernel_tables(gen.pair.tables, same=False) is None
    assert "decided without the Triton kernels: no such instruction" in caplog.text
