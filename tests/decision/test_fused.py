"""Decoding through the Triton kernels is decoding without them."""

from __future__ import annotations

import importlib
from collections import Counter
from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from conftest import tokenizer
from interpreted import DEVICE, HERE, run_interpreted
from launches import KERNELS, intervention, recorded
from tiny import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from varlen_attention import reference

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
from blendin.decision.fused import FusedPrediction
from blendin.decision.gated import Gate, GatedLogits, logits_of
from blendin.decision.kernel_trial import checked_kernel_tables
from blendin.decision.predict import rows_of
from blendin.decision.prediction import DensePrediction
from blendin.decision.symbols import SymbolTables
from blendin.engine import loop
from blendin.engine.pair import Pair
from blendin.models.context import Context
from blendin.models.cuda_graphs import GraphRunner
from blendin.models.local import LanguageModel
from blendin.policy import Policy

pytest.importorskip("triton")

here = pytest.mark.skipif(not HERE, reason="runs in a process of its own")
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []


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


POLICIES = [
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
]
PAIRS = [
    ("byte-level", "sentencepiece"),
    ("sentencepiece", "byte-level"),
    ("byte-level", "byte-level"),
]


@here
@pytest.mark.parametrize(
    ("pair", "policy"),
    [*((PAIRS[0], policy) for policy in POLICIES), *((pair, POLICIES[0]) for pair in PAIRS[1:])],
    ids=str,
)
def test_steps_are_the_same_with_kernels(pair: tuple[str, str], policy: Policy) -> None:
    assert_same(*steps_of_both(*pair, policy=policy, max_new_tokens=8))


@here
def test_draws_are_the_same_with_kernels() -> None:
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": True, "seed": 0}
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
    tables = pairs_of("byte-level", "sentencepiece")[1].tables
    from blendin.kernels import topk

    right = topk.topk

    def wrong(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        symbols, probs = right(*arguments)
        return symbols, probs * 1.1

    monkeypatch.setattr(topk, "topk", wrong)
    assert checked_kernel_tables(tables, (torch.bfloat16, torch.float32)) is None
    assert "without the Triton kernels: on trial the base's list was off" in caplog.text


def test_the_trial_is_of_what_decoding_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both vocabularies and dtypes, the guide's candidates alone, rows out of a batch."""
    tried = []

    def compare(fused: list[FusedPrediction], dense: Any) -> None:
        tried.append([(each.read.logits.dtype, each.candidates_only) for each in fused])

    monkeypatch.setattr("blendin.decision.kernel_trial._compare", compare)
    assert checked_kernel_tables(small_tables(), (torch.bfloat16, torch.float32)) is not None
    assert tried == [[(torch.bfloat16, False), (torch.float32, True)]] * 2


class Counted(TorchDispatchMode):
    """What a step's decisions cost: torch's operations, kernels, and waits of the host.

    Views, and what a model's forward does, are not counted.
    """

    WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.steps: list[Counter[str]] = [Counter()]
        self.is_deciding = True
        for name, kernels in KERNELS.items():
            for kernel in kernels:
                monkeypatch.setattr(f"blendin.kernels.{name}.{kernel}", self.launched(name, kernel))
        for model in (pair.base, pair.guide):
            forward = without(self, model.forward_batch)
            monkeypatch.setattr(model, "forward_batch", forward)
        on_host = loop._on_host

        def waiting(numbers: torch.Tensor) -> Any:
            self.steps[-1]["waits"] += 1
            return on_host(numbers)

        monkeypatch.setattr(loop, "_on_host", waiting)

    def launched(self, module: str, name: str) -> Any:
        kernel = getattr(importlib.import_module(f"blendin.kernels.{module}"), name)

        class Launched:
            def __getitem__(_, grid: Any) -> Any:
                self.steps[-1][name] += self.is_deciding
                return without(self, kernel[grid])

        return Launched()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, made = func.overloadpacket.__name__, func(*args, **(kwargs or {}))
        # Of what was made in inference mode a copy is a `to`, as is no copy.
        is_view = made is args[0] if name == "to" else func.is_view
        if self.is_deciding and not is_view and name not in ("detach", "empty", "new_empty"):
            self.steps[-1]["waits" if name in self.WAITS else "torch"] += 1
        return made


def without(counted: Counted, run: Any) -> Any:
    """Runs something uncounted."""

    def uncounted(*arguments: Any, **options: Any) -> Any:
        was, counted.is_deciding = counted.is_deciding, False
        try:
            return run(*arguments, **options)
        finally:
            counted.is_deciding = was

    return uncounted


@here
def test_a_step_costs_what_the_cost_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/gpu.md: each wait of the host, and each launch, is a later step's as well."""
    gen, _, gen.pair = pairs_of("byte-level", "sentencepiece")
    counted = Counted(gen.pair, monkeypatch)
    taken = {}
    for threshold in (0.0, 2.0):
        counted.steps.append(Counter())
        with counted:
            out = gen.generate("How", policy=Blend(threshold=threshold), max_new_tokens=3)
        total = counted.steps[-1]
        taken[threshold] = {name: count / len(out.steps) for name, count in total.items()}
    assert taken[0.0] == {"_stream": 1, "_gate": 1, "torch": 4, "waits": 1}
    kernels = {"_stream": 2, "_gate": 2, "_topk": 2, "_likelier": 1, "_blend": 1}
    assert taken[2.0] == {**kernels, "torch": 4 + 2, "waits": 2}


@here
def test_what_decoding_launches_is_what_is_compiled_ahead_of_time() -> None:
    """`scripts/kernels cubins` compiles what `intervention` launches of real vocabularies."""
    gen, _, gen.pair = pairs_of("byte-level", "sentencepiece")
    tables, float32 = gen.pair.tables, torch.float32
    for prompts, top_k in (("How", 100), (["How", "many"], 3)):
        with recorded(run=True) as launched:
            for alpha in (None, 0.5):
                policy = Blend(threshold=2, top_k=top_k, alpha=alpha)
                gen.generate(prompts, policy=policy, max_new_tokens=2)
        compiled = intervention(tables, (float32, float32), 2, top_k)
        assert sorted(map(repr, launched)) == sorted(map(repr, compiled))


@here
@pytest.mark.parametrize("is_varlen", [True, False])
def test_captured_forwards_take_the_gates_launches_with_them(
    is_varlen: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The base's at every step, the guide's at interventions; in rows of a batch as well."""
    monkeypatch.setattr("blendin.models.captured_varlen.WORTH_CAPTURING", 1)
    gen, plain, fused = captured_pairs(is_varlen, monkeypatch)
    prompt = "How many?"
    settings: dict[str, Any] = {"progress": False, "speculate": "off"}
    traced: dict[str, Any] = {"max_new_tokens": 4, "trace_top": 4, **settings}
    outs = []
    for gen.pair in (plain, fused):
        outs.append([gen.generate(prompt, policy=Blend(threshold=0.8), **traced)])
        if is_varlen:  # three rows, padded to four; elsewhere batches are not captured
            outs[-1] += gen.generate([prompt, "a", "def add(a, b):"], **traced)
    for one, other in zip(*outs, strict=True):
        assert_same(one.steps, other.steps)
    counted = Counted(gen.pair, monkeypatch)
    for threshold, text in ((0.0, prompt), (2.0, prompt), (0.0, [prompt] * 3)):
        if text is not prompt and not is_varlen:
            continue
        for tokens in (4, 6):
            counted.steps.append(Counter())
            with counted:
                policy = Blend(threshold=threshold)
                gen.generate(text, policy=policy, max_new_tokens=tokens, **settings)
        # Two steps, both captured.
        taken = counted.steps[-1] - counted.steps[-2]
        if threshold == 0:
            assert taken == {"torch": 2 * 4, "waits": 2 * 1}
        else:
            kernels = {"_topk": 2 * 2, "_likelier": 2, "_blend": 2}
            assert taken == {**kernels, "torch": 2 * (4 + 2), "waits": 2 * 2}
    assert "without" not in caplog.text and "beside" not in caplog.text


class Breaks(Gate):
    """As a kernel that cannot be launched under capture."""

    def read(self, logits: torch.Tensor) -> Any:
        raise ValueError("not supported in a graph")


class Stands(Gate):
    """As a gate that a graph does not replay; beside the graph it reads."""

    reads: ClassVar[list[Any]] = []

    def read(self, logits: torch.Tensor) -> Any:
        self.reads.append(super().read(logits))
        kept = self.reads[0] if len(self.reads) == 2 else self.reads[-1]
        return kept._replace(logits=logits)


@here
@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Breaks, "not supported in a graph"), (Stands, "other numbers in a graph than beside it")],
)
def test_a_gate_that_fails_in_a_graph_is_left_out_of_it(
    kind: type[Gate], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The forward is captured without it."""
    monkeypatch.setattr(Stands, "reads", [])
    lm = captured_pairs(False, monkeypatch)[2].base
    assert isinstance(lm, LanguageModel)
    own = lm._graph_contents.gate
    assert own is not None
    found, contexts = [], (Context([1, 2, 3]), Context([1, 2, 3]))
    for context, gate in zip(contexts, (own, kind(own.kernels, own.candidates_only)), strict=True):
        lm.gate_in_graphs(gate)
        for _ in range(3):
            scored = lm.forward_batch([context])
            context.ids.append(7)
        found.append(logits_of(scored).clone())
        assert isinstance(context.cache, GraphRunner) and not context.cache.is_closed
        assert isinstance(scored, GatedLogits) == (gate is own)
    torch.testing.assert_close(*found)
    assert lm._graph_contents.gate is None
    assert caplog.text.count("logits are read beside its CUDA graphs") == 1
    assert reason in caplog.text


@here
def test_a_prediction_takes_no_other_gates_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guide's gate chooses among its candidates, and one model may be both base and guide."""
    _, plain, fused = captured_pairs(False, monkeypatch)
    logits = torch.randn(2, len(fused.tables.base.symbols), device=DEVICE)
    assert fused.base_kernels is not None and fused.guide_kernels is not None
    scored = Gate(fused.base_kernels, candidates_only=False).read(logits)
    assert isinstance(scored, GatedLogits)
    assert fused.predict_base(scored)._gated.raw is scored.raw  # type: ignore[attr-defined]
    other = Gate(fused.base_kernels, candidates_only=True).read(logits)
    for found, pair in ((fused.predict_base(other), fused), (plain.predict_base(scored), plain)):
        assert torch.equal(found.choice, pair.predict_base(logits).choice)
        assert getattr(found, "read", scored) is scored or found.read.already is None  # type: ignore[attr-defined]
    assert scored.to(logits.device) is scored
    assert isinstance(scored.to(torch.device("meta")), torch.Tensor)
    assert logits_of(rows_of(scored, [1])).shape == (1, logits.shape[1])
    some = fused.predict_base(rows_of(scored, [1]))
    assert some.read.already is not None  # type: ignore[attr-defined]
    assert torch.equal(some.top_prob, fused.predict_base(logits[1:]).top_prob)
    both = Pair(fused.base, fused.base, fused=True)
    assert isinstance(both.base, LanguageModel) and both.base._graph_contents.gate is not None
    assert both.base._graph_contents.gate.kernels is both.base_kernels
    assert not both.base._graph_contents.gate.candidates_only


def captured_pairs(
    is_varlen: bool, monkeypatch: pytest.MonkeyPatch
) -> tuple[BlendInGenerator, Pair, Pair]:
    """As `pairs_of`, of models whose forwards are captured; here the same work is run again."""
    if is_varlen:
        monkeypatch.setattr("blendin.models.varlen.packed_attention", lambda _: reference)
    models = []
    for architecture, kind, seed in (("llama", "byte-level", 3), ("qwen2", "sentencepiece", 4)):
        own = tiny_model(architecture, tokenizer(kind), seed, dtype=torch.float32).to(DEVICE)
        models.append(LanguageModel(own, tokenizer(kind), architecture, capture=True))
    gen = BlendInGenerator(*models)
    return gen, Pair(*models, fused=False), Pair(*models, fused=True)


def small_tables() -> SymbolTables:
    ids = torch.arange(10)
    return SymbolTables(ids[:1], ids[:1], ids > 0, ids > 0, ids + 10)


def test_kernels_that_fail_are_named_and_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("blendin.decision.kernel_trial._try", broken)
    assert checked_kernel_tables(small_tables(), (torch.float32,) * 2) is None
    assert "read without the Triton kernels: no such instruction" in caplog.text
