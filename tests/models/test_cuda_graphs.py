"""Captured decoding is plain decoding: here on the CPU, where the same buffers run uncaptured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import generator, model
from faulty_graphs import replays_nothing, replays_once

from blendin import Blend, BlendInGenerator, GuideOnly, Nudge
from blendin.models.context import Context
from blendin.models.cuda_graphs import GraphRunner, prefix_of
from blendin.models.graph_capture import record
from blendin.models.kv_pool import SMALLEST_CAPACITY
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


def test_a_forward_reads_little_more_of_the_cache_than_there_is() -> None:
    assert [prefix_of(length, 1024) for length in (1, 256, 257, 385, 513, 769, 1020)] == [
        256, 256, 384, 512, 768, 1024, 1024,
    ]  # fmt: skip
    assert all(length <= prefix_of(length, 10**9) <= length * 3 // 2 for length in range(256, 9999))
    lm, own = captured("llama"), model("llama", "byte-level")[0]
    context, seen = Context(list(range(3, 240)), expected=700), []
    for _ in range(16):
        scored = lm.forward(context)
        runner = context.cache
        assert isinstance(runner, GraphRunner) and runner.capacity == 1024
        seen.append(runner._layers[0].visible)
        with torch.inference_mode():
            plain = own(torch.tensor([context.ids]), use_cache=False).logits[0, -1:]
        torch.testing.assert_close(scored, plain)
        context.ids += [7, 8]
    assert seen == sorted(seen) and set(seen) == {256, 384}


def test_layers_whose_window_has_passed_are_captured() -> None:
    lm, own = captured("gemma3"), model("gemma3", "byte-level")[0]
    assert lm.window is not None and lm.window < SMALLEST_CAPACITY
    context = Context(list(range(3, 3 + lm.window - 2)))
    for token in range(6):
        scored = lm.forward(context)
        assert isinstance(context.cache, GraphRunner) and not context.cache.is_closed
        with torch.inference_mode():
            plain = own(torch.tensor([context.ids]), use_cache=False).logits[0, -1:]
        torch.testing.assert_close(scored, plain)
        context.ids.append(token)


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


def decoded(lm: LanguageModel, tokens: int = 3) -> list[torch.Tensor]:
    """The logits of a short text, a token at a time."""
    context, found = Context([1, 2, 3]), []
    for _ in range(tokens):
        found.append(lm.forward(context).clone())
        context.ids.append(7)
    return found


@pytest.mark.parametrize("record", [replays_nothing, replays_once])
def test_a_graph_that_does_not_do_the_forwards_work_is_found_out(
    record: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("blendin.models.cuda_graphs.record", record)
    plain = LanguageModel(*model("llama", "byte-level"), "llama", capture=False)
    torch.testing.assert_close(decoded(captured("llama")), decoded(plain))
    assert "its captured distributions differ from the plain" in caplog.text


def test_graphs_are_captured_on_the_models_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model on cuda:1, while cuda:0 is current."""
    current, found, made_on = ["cuda:0"], [], []

    class On:
        def __init__(self, device: Any) -> None:
            self.device = str(device)
            made_on.append(current[-1])

        def __enter__(self) -> None:
            current.append(self.device)

        def __exit__(self, *_: Any) -> None:
            current.pop()

    class Stream(On):
        def wait_stream(self, other: Stream) -> None:
            assert other.device == self.device

    def graph(_: Any, stream: Stream, **__: Any) -> On:
        found.append(stream.device)
        return On(stream.device)

    class Graph:
        def replay(self) -> None: ...

    fakes = {"device": On, "Stream": Stream, "current_stream": Stream, "graph": graph}
    for name, fake in (fakes | {"CUDAGraph": Graph, "stream": lambda each: each}).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    run_on: list[str] = []

    def run() -> torch.Tensor:
        run_on.append(current[-1])
        return torch.zeros(1)

    record(run, torch.device("cuda:1"))
    assert made_on[:3] == ["cuda:0", "cuda:1", "cuda:1"]  # the guard; both streams
    assert found == ["cuda:1"] and set(run_on) == {"cuda:1"} and current == ["cuda:0"]


def test_memory_that_is_short_once_does_not_end_the_graphs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, capture = captured("llama"), GraphRunner._capture

    def short(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(GraphRunner, "_capture", short)
    expected = decoded(LanguageModel(*model("llama", "byte-level"), "llama", capture=False))
    torch.testing.assert_close(decoded(lm), expected)
    assert caplog.text.count("not enough memory for them now") == 1
    monkeypatch.setattr(GraphRunner, "_capture", capture)
    context = Context([1, 2, 3])
    lm.forward(context)
    assert isinstance(context.cache, GraphRunner) and not context.cache.is_closed


def test_what_was_not_a_number_is_not_handed_on_to_the_next_sequence() -> None:
    lm = captured("llama")
    first = decoded(lm)
    context = Context([1, 2, 3])
    lm.forward(context)
    assert isinstance(context.cache, GraphRunner)
    with torch.inference_mode():
        for layer in context.cache._layers:
            layer.keys.fill_(torch.nan)
            layer.values.fill_(torch.nan)
    del context
    torch.testing.assert_close(decoded(lm), first)


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
        assert not graphs._runners.refusals.is_final
        assert outs[0].token_ids == outs[1].token_ids
    finally:
        lm.to("cpu", torch.float64)
