"""Quantized models as transformers loads them; whatever package is there is run in all ways.

None of the packages is needed by blendin: without them these tests say which one is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import model, tokenizer
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly

OTHER = ("llama", "sentencepiece", 1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 model with layers wide enough for blocks of 64 weights."""
    folder, tok = tmp_path_factory.mktemp("saved"), tokenizer("byte-level")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tok),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            eos_token_id=tok.convert_tokens_to_ids(["<|end|>", "<|im_end|>"]),
            bos_token_id=None,
            pad_token_id=tok.pad_token_id,
        )
        lm = LlamaForCausalLM(config)
        for name, weight in lm.named_parameters():
            if weight.dim() == 2:
                spread = 1.0 if "embed" in name else 2 * weight.shape[1] ** -0.5
                torch.nn.init.normal_(weight, 0, spread)
    lm.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def torchao(kind: str) -> Callable[[], Any]:
    def settings() -> Any:
        from torchao import quantization
        from transformers import TorchAoConfig

        return TorchAoConfig(getattr(quantization, kind)())

    return settings


def bitsandbytes(**options: Any) -> Callable[[], Any]:
    def settings() -> Any:
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(**options)

    return settings


def quanto(weights: str) -> Callable[[], Any]:
    def settings() -> Any:
        from transformers import QuantoConfig

        return QuantoConfig(weights=weights)

    return settings


QUANTIZED: dict[str, tuple[str, Callable[[], Any], str]] = {
    "torchao int8": ("torchao", torchao("Int8WeightOnlyConfig"), "torchao Int8WeightOnlyConfig"),
    "torchao int8, activations too": (
        "torchao",
        torchao("Int8DynamicActivationInt8WeightConfig"),
        "torchao Int8DynamicActivationInt8WeightConfig",
    ),
    "8 bits": ("bitsandbytes", bitsandbytes(load_in_8bit=True), "bitsandbytes 8 bits"),
    "4 bits": ("bitsandbytes", bitsandbytes(load_in_4bit=True), "bitsandbytes 4 bits"),
    "NF4": (
        "bitsandbytes",
        bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        "bitsandbytes 4 bits",
    ),
    "quanto int8": ("optimum", quanto("int8"), "quanto int8"),
    "quanto int4": ("optimum", quanto("int4"), "quanto int4"),
}


def packed(saved: Path, folder: Path) -> Path:
    """A compressed-tensors checkpoint of it, 8 bits a weight."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    shutil.copytree(saved, folder)
    weights = {}
    for name, weight in load_file(saved / "model.safetensors").items():
        if weight.dim() == 1 or "layers" not in name:
            weights[name] = weight
            continue
        scale = weight.abs().amax(1, keepdim=True) / 127
        rounded = (weight / scale).round().to(torch.int8)
        weights[f"{name}_packed"] = pack_to_int32(rounded, 8)
        weights[f"{name}_scale"] = scale
        weights[f"{name}_shape"] = torch.tensor(rounded.shape)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    scheme = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": scheme}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def check_all_ways(gen: BlendInGenerator) -> None:
    """Alone, in a list, with drafts, as base and as guide."""
    settings: Any = {"max_new_tokens": 10, "stop": ()}
    prompts = ["The fox jumps", "How many"]
    ids = torch.tensor([gen.base.encode_prompt(prompts[0])])
    out = gen.base.model.generate(  # type: ignore[union-attr]
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10
    )
    own = out[0, ids.shape[1] :].tolist()
    for speculate in ("off", 3, "lookup"):
        alone = gen.generate(
            base_prompt=prompts[0], policy=BaseOnly(), speculate=speculate, **settings
        )
        assert alone.token_ids == own[: len(alone.token_ids)] and alone.token_ids
    outs = gen.generate(base_prompt=prompts, policy=BaseOnly(), **settings)
    assert outs[0].token_ids == alone.token_ids and outs[1].error is None
    turned = BlendInGenerator(model(*OTHER), gen.base)
    as_guide = turned.generate(guide_prompt=prompts[0], policy=GuideOnly(), **settings)
    assert as_guide.token_ids == alone.token_ids
    assert turned.generate(prompts, policy=Blend(threshold=2), **settings)[1].steps


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_model_that_is_quantized_as_it_is_loaded(kind: str, saved: Path) -> None:
    package, settings, precision = QUANTIZED[kind]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    options = {"quantization_config": settings(), "dtype": "float32"}
    gen = BlendInGenerator(saved, model(*OTHER), base_kwargs=options)
    assert gen.base.precision == f"float32, weights in {precision}"
    check_all_ways(gen)


@pytest.mark.filterwarnings("ignore")
def test_a_compressed_tensors_checkpoint(saved: Path, tmp_path: Path) -> None:
    if find_spec("compressed_tensors") is None:
        pytest.skip("compressed_tensors is not installed")
    gen = BlendInGenerator(packed(saved, tmp_path / "packed"), model(*OTHER))
    assert gen.base.precision == "float32, weights in compressed-tensors pack-quantized"
    check_all_ways(gen)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "torchao", "compressed-tensors"])
def test_a_package_that_is_missing_is_named(method: str, saved: Path, tmp_path: Path) -> None:
    packages = {"compressed-tensors": "compressed_tensors", "gptq": "gptqmodel", "awq": "gptqmodel"}
    if find_spec(packages.get(method, method)) is not None:
        pytest.skip("it is installed")
    folder = tmp_path / "quantized"
    shutil.copytree(saved, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 64}
    if method == "bitsandbytes":
        config["quantization_config"] = {"quant_method": method, "load_in_8bit": True}
    if method == "torchao":
        config["quantization_config"] = {"quant_method": method, "quant_type": "int8_weight_only"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="guide=") as error:
        BlendInGenerator(model(*OTHER), folder)
    assert "\n" not in str(error.value)
    assert "takes a package that is not installed" in str(error.value)
