"""A model runs where accelerate runs it, not where its weights lie."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook, add_hook_to_module
from conftest import model
from transformers import AutoModelForCausalLM

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly
from blendin.models.cuda_graphs import GraphRunner
from blendin.models.devices import input_device, is_offloaded, output_device, run_devices
from blendin.models.graph_capture import CannotCapture, GraphContents
from blendin.models.local import LanguageModel

CPU = torch.device("cpu")
PARTS = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "lm_head")


def fresh(architecture: str = "llama") -> Any:
    return copy.deepcopy(model(architecture, "byte-level")[0])


def offloaded_to_memory(lm: Any, folder: Path) -> Any:
    return accelerate.cpu_offload(lm, execution_device=CPU)


def offloaded_with_buffers(lm: Any, folder: Path) -> Any:
    return accelerate.cpu_offload(lm, execution_device=CPU, offload_buffers=True)


def offloaded_to_disk(lm: Any, folder: Path) -> Any:
    return accelerate.disk_offload(lm, str(folder / "offload"), execution_device=CPU)


def offloaded_whole(lm: Any, folder: Path) -> Any:
    return accelerate.cpu_offload_with_hook(lm, execution_device=CPU)[0]


def partly_on_disk(*parts: str) -> Callable[[Any, Path], Any]:
    def dispatched(lm: Any, folder: Path) -> Any:
        places = {part: "disk" if part in parts else "cpu" for part in (*PARTS, "model.rotary_emb")}
        return accelerate.dispatch_model(lm, places, offload_dir=str(folder / "offload"))

    return dispatched


def loaded_partly_on_disk(lm: Any, folder: Path) -> Any:
    lm.save_pretrained(folder / "saved")
    places: dict[str, Any] = dict.fromkeys((*PARTS, "model.rotary_emb"), "cpu")
    places |= {"lm_head": "disk", "model.layers.1": "disk", "model.embed_tokens": "disk"}
    return AutoModelForCausalLM.from_pretrained(
        folder / "saved", device_map=places, offload_folder=folder / "offload"
    )


def one_hook(lm: Any, folder: Path) -> Any:
    return accelerate.dispatch_model(lm, {"": "cpu"}, force_hooks=True)


def chained_hooks(lm: Any, folder: Path) -> Any:
    lm = accelerate.cpu_offload(lm, execution_device=CPU)
    add_hook_to_module(lm.lm_head, AlignDevicesHook(), append=True)
    assert isinstance(lm.lm_head._hf_hook, SequentialHook)
    return lm


def tied(lm: Any, folder: Path) -> Any:
    lm.lm_head.weight = lm.model.embed_tokens.weight
    return accelerate.cpu_offload(lm, execution_device=CPU)


def packed(lm: Any, folder: Path) -> Any:
    return torch.ao.quantization.quantize_dynamic(lm.float(), {torch.nn.Linear}, torch.qint8)


def compiled(lm: Any, folder: Path) -> Any:
    return torch.compile(accelerate.cpu_offload(lm, execution_device=CPU), backend="eager")


WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "cpu_offload": offloaded_to_memory,
    "cpu_offload, buffers": offloaded_with_buffers,
    "disk_offload": offloaded_to_disk,
    "cpu_offload_with_hook": offloaded_whole,
    "all on disk": partly_on_disk(*PARTS),
    "embeddings on disk": partly_on_disk("model.embed_tokens"),
    "head on disk": partly_on_disk("lm_head"),
    "a layer on disk": partly_on_disk("model.layers.1"),
    "device_map with a part on disk": loaded_partly_on_disk,
    "one hook": one_hook,
    "chained hooks": chained_hooks,
    "tied, offloaded": tied,
    "dynamic int8": packed,
}


def own_greedy(lm: Any, ids: list[int], count: int) -> list[int]:
    tokens = torch.tensor([ids])
    out = lm.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=count
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_it_writes_what_its_own_generate_writes(way: str, tmp_path: Path) -> None:
    """Alone, in a list, with drafts, as base and as guide."""
    tok, lm = model("llama", "byte-level")[1], WAYS[way](fresh(), tmp_path)
    other = model("llama", "sentencepiece", 1)
    gen, turned = BlendInGenerator((lm, tok), other), BlendInGenerator(other, (lm, tok))
    assert gen.base.device == turned.guide.device == CPU
    settings: Any = {"max_new_tokens": 8, "stop": ()}
    prompts = ["How many apples?", "The fox"]
    # Dynamic quantization rounds by what is read at once: only step by step is it `generate`.
    for speculate in ("off",) if way == "dynamic int8" else ("off", 3, "lookup"):
        outs = gen.generate(base_prompt=prompts, policy=BaseOnly(), speculate=speculate, **settings)
        alone = [
            gen.generate(base_prompt=text, policy=BaseOnly(), speculate=speculate, **settings)
            for text in prompts
        ]
        for text, out, one in zip(prompts, outs, alone, strict=True):
            assert out.error is None and out.token_ids == one.token_ids
            own = own_greedy(lm, gen.base.encode_prompt(text), 8)
            assert out.token_ids == own[: len(out.token_ids)] and out.token_ids
    text = turned.generate(guide_prompt=prompts[0], policy=GuideOnly(), **settings)
    assert text.token_ids == alone[0].token_ids
    assert gen.generate(prompts[0], policy=Blend(threshold=2), **settings).steps
    assert gen.score(prompts[0], " There are 12.").log_likelihood < 0


@pytest.mark.parametrize("way", [*WAYS, "compiled"])
def test_a_device_is_known_without_a_weight(way: str, tmp_path: Path) -> None:
    lm = (WAYS | {"compiled": compiled})[way](fresh(), tmp_path)
    assert input_device(lm) == output_device(lm) == CPU
    assert run_devices(lm) <= {CPU}


@pytest.mark.parametrize(
    ("hooked", "device", "expected"),
    [
        (("model.embed_tokens",), "meta:7", "cpu"),  # meta is nowhere
        (("model.embed_tokens",), "cuda:1", "cuda:1"),
        (("model.embed_tokens",), torch.device("xpu", 2), "xpu:2"),
        (("model",), "cuda:1", "cpu"),  # a layer's own hook is nearer
    ],
)
def test_ids_go_where_the_hook_of_the_embeddings_runs_them(
    hooked: tuple[str, ...], device: Any, expected: Any
) -> None:
    lm = fresh()
    for name in ("model.embed_tokens", "lm_head"):
        lm.get_submodule(name)._hf_hook = AlignDevicesHook(CPU)
    for name in hooked:
        lm.get_submodule(name)._hf_hook = AlignDevicesHook(device)
    assert input_device(lm) == torch.device(expected)
    assert output_device(lm) == CPU


def test_logits_come_back_to_the_ids_where_the_outermost_hook_says_so() -> None:
    lm = fresh()
    lm.model.embed_tokens._hf_hook = AlignDevicesHook("cuda:0")
    lm.lm_head._hf_hook = AlignDevicesHook("cuda:1")
    assert output_device(lm) == torch.device("cuda:1")
    lm._hf_hook = SequentialHook(AlignDevicesHook("cuda:1", io_same_device=True))
    assert output_device(lm) == torch.device("cuda:0")
    assert run_devices(lm) >= {torch.device("cuda:0"), torch.device("cuda:1")}


class Silent(torch.nn.Module):
    """A model without embeddings that could be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2, device="meta")
        self.hf_device_map = {"a": "disk", "b": "cuda:1"}

    def get_input_embeddings(self) -> Any:
        raise NotImplementedError

    def get_output_embeddings(self) -> None:
        return None


def test_a_model_that_says_nothing_is_looked_up_in_its_device_map() -> None:
    silent = Silent()
    assert input_device(silent) == output_device(silent) == torch.device("cuda:1")
    silent.hf_device_map = {"": "disk"}
    assert input_device(silent) == CPU
    silent.layer._hf_hook = AlignDevicesHook("cuda:2", offload=False)  # type: ignore[assignment]
    assert input_device(silent) == torch.device("cuda:2")


def test_an_adapter_around_a_hooked_layer_does_not_hide_it() -> None:
    """As PEFT wraps an embedding after accelerate has placed it."""
    lm = fresh()
    around = torch.nn.Module()
    around.base_layer = lm.model.embed_tokens
    around.base_layer._hf_hook = AlignDevicesHook("cuda:1")
    lm.model.embed_tokens = around
    assert input_device(lm) == torch.device("cuda:1")


def test_a_batch_over_several_devices_asks_for_its_logits_without_a_tensor() -> None:
    """accelerate would move one to the first device, and the head may be on another."""
    gen = BlendInGenerator((fresh(), model("llama", "byte-level")[1]), model("qwen2", "byte-level"))
    prompts = ["How many apples?", "The fox", "I"]
    together = gen.generate(prompts, max_new_tokens=6)
    varlen = gen.base.varlen  # type: ignore[union-attr]
    assert varlen is not None and not varlen._is_spread
    varlen._is_spread, asked = True, []

    def seen(module: Any, arguments: Any, options: dict[str, Any]) -> None:
        asked.append(options["logits_to_keep"])

    varlen.model.register_forward_pre_hook(seen, with_kwargs=True)
    again = gen.generate(prompts, max_new_tokens=6)
    assert [out.token_ids for out in again] == [out.token_ids for out in together]
    assert asked and not any(isinstance(each, torch.Tensor) for each in asked)


def test_weights_that_are_moved_are_not_captured_in_a_graph(tmp_path: Path) -> None:
    lm = offloaded_to_memory(fresh(), tmp_path)
    assert is_offloaded(lm) and not is_offloaded(fresh())
    with pytest.raises(CannotCapture, match="brought in for each forward"):
        GraphRunner(lm, 256, GraphContents("lm"))
    spread = fresh()
    spread.model.layers[1]._hf_hook = AlignDevicesHook("cuda:1")
    with pytest.raises(CannotCapture, match="spread over several devices"):
        GraphRunner(spread, 256, GraphContents("spread"))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda lm: lm, "float64"),
        (lambda lm: lm.to(torch.bfloat16), "bfloat16"),
        (lambda lm: packed(lm, Path()), "float32, weights in torch.ao qint8"),
        (lambda lm: accelerate.cpu_offload(lm, execution_device=CPU), "float64"),
    ],
)
def test_precision_says_how_weights_are_kept(make: Any, expected: str) -> None:
    lm = LanguageModel(make(fresh()), model("llama", "byte-level")[1], "x")
    assert lm.precision == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"quant_method": "gptq", "bits": 4}, "float64, weights in gptq 4 bits"),
        ({"quant_method": "awq", "bits": 4}, "float64, weights in awq 4 bits"),
        (
            {"quant_method": "bitsandbytes", "_load_in_8bit": True},
            "float64, weights in bitsandbytes 8 bits",
        ),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnly"}}},
            "float64, weights in torchao Int8WeightOnly",
        ),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            "float64, weights in compressed-tensors pack-quantized",
        ),
        ({"quant_method": "mxfp4"}, "float64, weights in mxfp4"),
        ({"quant_method": "mxfp4", "dequantize": True}, "float64"),
        ({"quant_method": "gguf", "dequantize": False}, "float64"),  # as it is unpacked
    ],
)
def test_precision_names_a_checkpoints_quantization(settings: Any, expected: str) -> None:
    lm = fresh()
    lm.config.quantization_config = settings
    assert LanguageModel(lm, model("llama", "byte-level")[1], "x").precision == expected
