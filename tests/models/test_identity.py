"""What tells one model from another of its name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from conftest import generator, model
from fake_server import FakeServer

from blendin import BlendInGenerator
from blendin.models.identity import (
    config_digest,
    difference,
    digest,
    tokenizer_digest,
    weights_digest,
)

BASE, GUIDE = ("llama", "byte-level", 1), ("llama", "sentencepiece", 2)


@pytest.fixture
def lm() -> Any:
    return deepcopy(model(*BASE)[0])


def down(lm: Any) -> torch.Tensor:
    found: torch.Tensor = lm.model.layers[1].mlp.down_proj.weight.data
    return found


def swap(lm: Any) -> None:
    down(lm)[[0, 1]] = down(lm)[[1, 0]]


def exchange(lm: Any) -> None:
    attention = lm.model.layers[0].self_attn
    attention.k_proj, attention.v_proj = attention.v_proj, attention.k_proj


def one_bit(lm: Any) -> None:
    down(lm).view(torch.int64)[-1, -1] ^= 1


OTHER: dict[str, Callable[[Any], Any]] = {
    "the last bit of the last weight": one_bit,
    "a sign": lambda lm: down(lm)[0, 0].neg_(),
    "two rows swapped": swap,
    "two weights of one shape exchanged": exchange,
    "another dtype": lambda lm: lm.float(),
    "a layer less": lambda lm: lm.model.layers.__delitem__(-1),
    "quantized in place": lambda lm: torch.ao.quantization.quantize_dynamic(
        lm.float(), {torch.nn.Linear}, inplace=True
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("change", OTHER.values(), ids=[*OTHER])
def test_any_other_weight_is_seen(change: Callable[[Any], Any], lm: Any) -> None:
    before = weights_digest(lm)
    assert weights_digest(lm) == before
    change(lm)
    assert weights_digest(lm) != before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantized_weights_are_told_apart(lm: Any) -> None:
    quantized = torch.ao.quantization.quantize_dynamic(lm.float(), {torch.nn.Linear})
    same, other = deepcopy(quantized), deepcopy(quantized)
    scale, bias = other.lm_head.weight().q_scale(), other.lm_head.bias()
    whole = torch.quantize_per_tensor(
        other.lm_head.weight().dequantize() + scale, scale, 0, torch.qint8
    )
    other.lm_head.set_weight_bias(whole, bias)
    assert weights_digest(same) == weights_digest(quantized) != weights_digest(other)


def transposed(lm: Any) -> None:
    down(lm).set_(down(lm).t().contiguous().t())


SAME: dict[str, Callable[[Any, Path], Any]] = {
    "saved and loaded": lambda lm, folder: (
        lm.save_pretrained(folder) or type(lm).from_pretrained(folder, dtype="auto")
    ),
    "on the CPU, offloaded": lambda lm, _: cpu_offload(lm, "cpu"),
    "on the disk, offloaded": lambda lm, folder: disk_offload(lm, str(folder), "cpu"),
    "compiled": lambda lm, _: torch.compile(lm),
    "lying otherwise in memory": lambda lm, _: transposed(lm),
    "read by another attention": lambda lm, _: lm.set_attn_implementation("eager"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=[*SAME])
def test_the_same_weights_elsewhere_are_the_same(
    change: Callable[[Any, Path], Any], lm: Any, tmp_path: Path
) -> None:
    before = weights_digest(lm), config_digest(lm)
    changed = change(lm, tmp_path)
    lm = lm if changed is None else changed
    assert (weights_digest(lm), config_digest(lm)) == before


def test_a_configuration_and_a_tokenizer_are_told_by_what_they_do(lm: Any) -> None:
    before = config_digest(lm)
    lm.config.name_or_path, lm.config.transformers_version = "elsewhere", "9"
    assert config_digest(lm) == before
    lm.config.rms_norm_eps *= 2
    assert config_digest(lm) != before
    tokenizer = deepcopy(model(*GUIDE)[1])
    told = tokenizer_digest(tokenizer)
    tokenizer(["a", "a b"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(tokenizer) == told
    tokenizer.add_tokens(["<new>"])
    assert tokenizer_digest(tokenizer) != told


def test_a_digest_is_the_same_in_every_process() -> None:
    value = "{'modules': {'q', 'k', 'v', 'o'}, 'of': object, 'x': [object()]}"
    code = f"from blendin.models.identity import digest\nprint(digest({value}))"
    own = digest({"modules": {"q", "k", "v", "o"}, "of": object, "x": [object()]})
    seed = str(1 + int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0")))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == own
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("served")
    for part in model(*BASE):
        part.save_pretrained(folder)
    yield folder
    shutil.rmtree(folder)


def test_a_server_is_known_by_its_card_and_its_answers(folder: Path) -> None:
    def identity(lm: Any, **settings: Any) -> dict[str, Any]:
        with FakeServer((lm, model(*BASE)[1]), root=str(folder), **settings) as server:
            gen = BlendInGenerator(server.url, model(*GUIDE))
            found: dict[str, Any] = gen.pair.identity["base"]
            return found

    lm = model(*BASE)[0]
    first = identity(lm)
    assert difference("base", first, identity(lm)) is None
    assert "answer" in str(difference("base", first, identity(model("llama", "byte-level", 7)[0])))
    longer = identity(lm, max_model_len=99)
    assert "max_length" in str(difference("base", first, longer))
    noisy = deepcopy(first)
    noisy["answer"] = [[token, value + 0.05] for token, value in first["answer"]]
    assert difference("base", first, noisy) is None


def test_a_guide_has_its_chat_template_and_a_base_none() -> None:
    gen = generator(BASE, GUIDE)
    identity = gen.pair.identity
    assert "chat_template" in identity["guide"] and "chat_template" not in identity["base"]
    assert identity["guide"]["end_ids"] == sorted(gen.guide.end_ids)
