"""Captured decoding is plain decoding: here on the CPU, where the same buffers run uncaptured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import generator, model

from blendin import Blend, BlendInGenerator, GuideOnly, Nudge
from blendin.models.context import Context
from blendin.models.cuda_graphs import SMALLEST_CAPACITY, GraphRunner, GraphRunners
from blendin.models.local import LanguageModel


def captured(architecture: str, kind: str = "byte-level", seed: int = 0) -> LanguageModel:
    return LanguageModel(*model(architecture, kind, seed), architecture, capture=True)


@pytest.mark.parametrize("policy", [Blend(), Nudge(), Nudge(unit="token"), GuideOnly()], ids=str)
@pytest.mark.parametrize(
    ("base", "guide"),
    [
        (("llama", "byte-level", 0), ("qwen2", "sentencepiece", 1)),
        (("qwen2", "sentencepiece", 2), ("llama", "byte-level", 3)),
        (("gemma3", "byte-level", 0), ("llama", "sentencepiece", 1)),
    ],
)
def test_a_captured_pair_writes_what_the_plain_pair_writes(
    base: Any, guide: Any, policy: Any
) -> None:
    plain = generator(base, guide)
    pair = BlendInGenerator(captured(*base), captured(*guide))
    for prompt in ("How many apples?", "你好,世界", "def add(a, b):"):
        outs = [
            gen.generate(prompt, policy=policy, max_new_tokens=40).steps for gen in (plain, pair)
        ]
        for expected, step in zip(*outs, strict=True):
            assert (step.token_bytes, step.token_ids, step.source, step.intervened) == (
                expected.token_bytes,
                expected.token_ids,
                expected.source,
                expected.intervened,
            )
            assert step.alpha == pytest.approx(expected.alpha, abs=1e-5)


def test_a_runner_is_handed_from_sequence_to_sequence() -> None:
    lm = captured("llama")
    first = Context([1, 2, 3])
    lm.forward(first)
    runner = first.cache
    second = Context([4, 5])
    lm.forward(second)
    assert second.cache is not runner
    del first
    third = Context([6, 7, 8])
    lm.forward(third)
    assert third.cache is runner


def test_an_outgrown_runner_is_left_for_a_pool() -> None:
    lm = captured("llama")
    context = Context(list(range(200)))
    lm.forward(context)
    context.ids += range(100)
    assert len(context.ids) > SMALLEST_CAPACITY
    scored = lm.forward(context)
    assert not isinstance(context.cache, GraphRunner)
    with torch.inference_mode():
        expected = lm.model(torch.tensor([context.ids]), use_cache=False).logits[0, -1:]
    torch.testing.assert_close(scored, expected)


def test_a_sliding_window_too_small_is_logged_once_and_decoded_plainly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runners = GraphRunners(model("gemma3", "byte-level")[0], "gemma")
    assert runners.take(10) is None
    assert runners.take(10) is None
    assert (
        "gemma decodes without CUDA graphs: 256 tokens do not fit into its sliding" in caplog.text
    )


def test_a_failing_capture_is_logged_once_and_decoded_plainly(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(GraphRunner, "_capture", broken)
    lm = captured("llama")
    plain = LanguageModel(*model("llama", "byte-level"), "llama", capture=False)
    for _ in range(2):
        contexts = Context([1, 2, 3]), Context([1, 2, 3])
        for _ in range(3):
            logits = [
                own.forward(own_context)
                for own, own_context in zip((lm, plain), contexts, strict=True)
            ]
            torch.testing.assert_close(*logits)
            for context in contexts:
                context.ids.append(7)
    assert caplog.text.count("decodes without CUDA graphs: operation not permitted") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_graphs_on_a_gpu_write_what_the_plain_path_writes(architecture: str) -> None:
    lm, tok = model(architecture, "byte-level", 7)
    try:
        lm.to("cuda", torch.float32)
        graphs = LanguageModel(lm, tok, "graphs", capture=True)
        plain = LanguageModel(lm, tok, "plain", capture=False)
        outs = [
            BlendInGenerator(own, own).generate(
                "How many?", policy=Blend(threshold=0.6), max_new_tokens=64
            )
            for own in (graphs, plain)
        ]
        assert graphs._runners is not None
        assert not graphs._runners._given_up
        assert outs[0].token_ids == outs[1].token_ids
    finally:
        lm.to("cpu", torch.float64)
