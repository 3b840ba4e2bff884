"""Compiled layers are the plain ones; on the CPU, captured forwards run uncaptured."""

from __future__ import annotations

import gc
import logging
import shutil
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from architectures import tiny_architecture
from conftest import generator, model, tokenizer
from tiny import Around, end_token_ids, tiny_model
from varlen_attention import reference

from blendin import Blend, BlendInGenerator
from blendin.models import captured_varlen
from blendin.models.captured_varlen import CapturedVarlen
from blendin.models.compiled_layers import CannotCompile, CompiledLayers, checked_layers
from blendin.models.context import Context
from blendin.models.kv_pool import Pool
from blendin.models.local import LanguageModel

BASE, GUIDE = ("gemma3", "byte-level", 0), ("llama", "sentencepiece", 1)
PROMPTS = ["How many apples?", "你好,世界", "def add(a, b):"]


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    trace = logging.getLogger("torch.__trace")  # pytest would have all of it written
    trace.disabled = True
    yield
    torch._dynamo.reset()
    trace.disabled = False


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blendin.models.varlen.packed_attention", lambda _: reference)
    monkeypatch.setattr(captured_varlen, "WORTH_CAPTURING", 0)


def compiled(pair: Any, name: str = "llama", backend: Any = "eager") -> LanguageModel:
    """A model whose forwards are captured with compiled layers."""
    lm = LanguageModel(*pair, name, capture=True)
    lm.compile_layers(backend)
    return lm


def layers(lm: LanguageModel) -> CompiledLayers:
    found = lm._graph_contents.layers
    assert found is not None
    return found


def batch(lm: LanguageModel, steps: int = 4, rows: int = 2) -> list[torch.Tensor]:
    """The logits of some texts in one pool that gain a token a step."""
    pool, found = Pool(), []
    contexts = [Context(list(range(3, 9 + row)), 60) for row in range(rows)]
    for context in contexts:
        assert lm.join(context, pool)
    for step in range(steps):
        found.append(lm.forward_batch(contexts).clone())
        for context in contexts:
            context.ids.append(step + 5)
    return found


def plain(pair: Any) -> LanguageModel:
    return LanguageModel(*pair, "plain", capture=False)


def test_a_compiled_pair_writes_what_the_plain_pair_writes(packed: None) -> None:
    """Alone, drafting and in company; layers of two kinds, and of two models."""
    expected = generator(BASE, GUIDE)
    pair = BlendInGenerator(compiled(model(*BASE)), compiled(model(*GUIDE)))
    for prompts, speculate in ((PROMPTS[0], "off"), (PROMPTS[0], 3), (PROMPTS, "off")):
        outs, others = (
            gen.generate(
                prompts, policy=Blend(), max_new_tokens=12, speculate=speculate, progress=False
            )
            for gen in (pair, expected)
        )
        for out, other in zip([outs] if isinstance(prompts, str) else outs,
                              [others] if isinstance(prompts, str) else others,
                              strict=True):  # fmt: skip
            assert (out.text, out.token_ids) == (other.text, other.token_ids)
    for lm in (pair.base, pair.guide):
        assert isinstance(lm, LanguageModel)
        # Four graphs, for one token and for several, whatever the shapes and layers are.
        assert not layers(lm).is_refused and 4 <= layers(lm)._graphs.compiled <= 8


def test_over_a_static_cache_likewise() -> None:
    pair = model("llama", "byte-level")
    lm, own = compiled(pair), plain(pair)
    contexts = Context([1, 2, 3]), Context([1, 2, 3])
    for step in range(6):
        found = [each.forward(context) for each, context in zip((lm, own), contexts, strict=True)]
        torch.testing.assert_close(*found)
        for context in contexts:
            context.ids += [step + 5] * (1 + (step % 3 == 0))
    assert not layers(lm).is_refused and 4 <= layers(lm)._graphs.compiled <= 8


@pytest.mark.parametrize("family", ["phi3", "mixtral"])
def test_other_families_are_compiled_as_they_are(family: str, packed: None) -> None:
    tok = tokenizer("byte-level")
    own = tiny_architecture(family, len(tok), end_token_ids(tok))
    lm = compiled((own, tok), family)
    torch.testing.assert_close(batch(lm), batch(plain((own, tok))), rtol=1e-4, atol=1e-4)
    assert not layers(lm).is_refused and layers(lm)._graphs.calls


def test_the_model_itself_stays_as_it_is_and_its_weights_are_freed_with_it(packed: None) -> None:
    tok = tokenizer("byte-level")
    own = tiny_model("llama", tok, suppress=False)
    lm = compiled((own, tok))
    batch(lm)
    for module in own.modules():
        assert module._compiled_call_impl is None and "forward" not in vars(module)
        assert type(getattr(module, "layer_idx", 0)) is int
    own_weights = {each.data_ptr() for each in own.parameters()}
    assert {each.data_ptr() for each in layers(lm)._twin.parameters()} == own_weights
    weight = weakref.ref(own.lm_head.weight)
    del lm, own, module
    gc.collect()
    assert weight() is None


def raises(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no compiler here")


def doubles(graph: Any, inputs: Any) -> Any:
    def doubled(each: Any) -> Any:
        return 2 * each if isinstance(each, torch.Tensor) and each.is_floating_point() else each

    return lambda *arguments: [*map(doubled, graph.forward(*arguments))]


@pytest.mark.parametrize(
    ("backend", "reason"),
    [(raises, "no compiler here"), (doubles, "captured distributions differ from the plain")],
)
def test_layers_that_cannot_be_compiled_or_are_wrong_are_captured_as_they_are(
    backend: Any, reason: str, packed: None,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    replays: list[Any] = []
    replayed = CapturedVarlen._replayed
    monkeypatch.setattr(
        CapturedVarlen,
        "_replayed",
        lambda self, *rest: (replays.append(1), replayed(self, *rest))[1],
    )
    pair = model("llama", "byte-level")
    lm = compiled(pair, backend=backend)
    for rows in (2, 4):
        torch.testing.assert_close(batch(lm, rows=rows), batch(plain(pair), rows=rows))
    assert layers(lm).is_refused and len(replays) >= 6
    assert caplog.text.count("llama keeps its layers uncompiled") == 1 and reason in caplog.text
    assert "without CUDA graphs" not in caplog.text


def test_what_torch_leaves_uncompiled_is_said(
    packed: None, caplog: pytest.LogCaptureFixture
) -> None:
    pair = model("llama", "byte-level")
    lm = compiled(pair)
    with torch._dynamo.config.patch(disable=True):
        torch.testing.assert_close(batch(lm), batch(plain(pair)))
    assert "keeps its layers uncompiled: torch.compile left them as they are" in caplog.text


def test_memory_that_is_short_once_does_not_end_it(
    packed: None, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def short(graph: Any, inputs: Any) -> Any:
        tried.append(1)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return graph.forward

    pair = model("llama", "byte-level")
    lm = compiled(pair, backend=short)
    torch.testing.assert_close(batch(lm), batch(plain(pair)))
    assert not layers(lm).is_refused and layers(lm)._graphs.calls
    assert caplog.text.count("not enough memory for them now") == 1


def test_what_is_not_transformers_own_is_refused_by_name(caplog: pytest.LogCaptureFixture) -> None:
    tok = tokenizer("byte-level")
    own = tiny_model("llama", tok, suppress=False)
    assert checked_layers(own) == ["model.layers.0", "model.layers.1"]
    with pytest.raises(CannotCompile, match=r"it is wrapped \(Around\)"):
        checked_layers(Around(own))
    handle = own.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    lm = compiled((own, tok), "hooked")
    assert "hooked keeps its layers uncompiled: something hangs on its layers" in caplog.text
    assert lm._graph_contents.layers is None
    handle.remove()
    own._hf_peft_config_loaded = True
    with pytest.raises(CannotCompile, match="adapters are loaded into it"):
        checked_layers(own)
    del own._hf_peft_config_loaded
    own.config.num_hidden_layers = 7
    with pytest.raises(CannotCompile, match="layers of a LlamaForCausalLM are not found"):
        checked_layers(own)
    own.model.layers[0].mlp.compile(backend="eager")
    with pytest.raises(CannotCompile, match="compiled already"):
        checked_layers(own)


def test_it_is_refused_where_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is loaded, if that can be told."""
    pair = model("llama", "byte-level", 0), model("llama", "sentencepiece", 1)
    with monkeypatch.context() as patched:
        patched.setattr("blendin.generator.load", None)
        for sources in (pair, ("gemma-3-270m", "http://127.0.0.1:9/v1")):
            with pytest.raises(ValueError, match=r"neither model's are: load them to a CUDA"):
                BlendInGenerator(*sources, compile_layers=True)
        with pytest.raises(ValueError, match="compile_layers is 'yes'"):
            BlendInGenerator(*pair, compile_layers="yes")
    monkeypatch.setattr("blendin.models.layer_compilation.check_captures", lambda _: None)
    with pytest.raises(ValueError, match="neither model's are"):
        BlendInGenerator(*pair, compile_layers=True)


def test_those_are_compiled_that_are_captured() -> None:
    base = LanguageModel(*model("llama", "byte-level"), "base", capture=True)
    gen = BlendInGenerator(base, model("llama", "sentencepiece", 1), compile_layers=True)
    own = layers(base)
    assert isinstance(gen.guide, LanguageModel) and not gen.guide.captures
    BlendInGenerator(base, gen.guide, compile_layers=True)
    assert layers(base) is own  # not anew


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_inductors_code_rounds_as_the_layers_themselves_do(packed: None) -> None:
    tok = tokenizer("byte-level")
    pair = tiny_model("llama", tok, dtype=torch.bfloat16, suppress=False), tok
    lm = compiled(pair, backend="inductor")
    found, expected = (torch.cat(batch(each, 2)) for each in (lm, plain(pair)))
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.1)
    assert float((found == expected).float().mean()) > 0.9  # 0.13 where rounding is left out
    assert not layers(lm).is_refused and layers(lm)._graphs.compiled


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("architecture", "dtype"), [
    ("llama", torch.bfloat16), ("gemma3", torch.bfloat16), ("llama", torch.float32),
])  # fmt: skip
def test_on_a_gpu_compiled_layers_write_what_the_plain_path_writes(
    architecture: str, dtype: torch.dtype
) -> None:
    own, tok = model(architecture, "byte-level", 7)
    try:
        own.to("cuda", dtype)
        lm, other = compiled((own, tok), backend="inductor"), plain((own, tok))
        near = {} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.1}
        for rows in (1, 2, 5):
            found, expected = (batch(each, steps=8, rows=rows) for each in (lm, other))
            torch.testing.assert_close(found, expected, **near)
        context, plainly = Context([1, 2, 3]), Context([1, 2, 3])
        for step in range(8):
            torch.testing.assert_close(lm.forward(context), other.forward(plainly), **near)
            for each in (context, plainly):
                each.ids.append(step + 5)
        assert not layers(lm).is_refused and layers(lm)._graphs.calls
    finally:
        own.to("cpu", torch.float64)
