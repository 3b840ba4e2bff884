"""What is passed as base or guide is understood, or refused with what to pass."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import model
from tiny import Around
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    TextGenerationPipeline,
    ViTConfig,
    ViTModel,
)

from blendin import BaseOnly, BlendInGenerator, GuideOnly
from blendin.models.local import LanguageModel
from blendin.models.source import as_source

GUIDE = ("llama", "sentencepiece", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with its tokenizer, saved."""
    place = tmp_path_factory.mktemp("saved")
    lm, tok = model("llama", "byte-level")
    lm.save_pretrained(place)
    tok.save_pretrained(place)
    return place


@pytest.fixture
def named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A loaded model that says which folder it comes from."""
    lm = model("llama", "byte-level")[0]
    monkeypatch.setattr(lm.config, "_name_or_path", str(folder))
    monkeypatch.setattr(lm, "name_or_path", str(folder))
    return lm


class OwnPath:
    """An os.PathLike that is no Path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def adapted(lm: Any) -> Any:
    around = Around(lm)
    around.peft_config = {"default": SimpleNamespace(base_model_name_or_path=lm.name_or_path)}
    return around


UNDERSTOOD: dict[str, Any] = {
    "tuple": lambda lm, tok, path: (lm, tok),
    "list": lambda lm, tok, path: [lm, tok],
    "the other order": lambda lm, tok, path: (tok, lm),
    "a list in the other order": lambda lm, tok, path: [tok, lm],
    "a processor": lambda lm, tok, path: (lm, SimpleNamespace(tokenizer=tok)),
    "a model alone": lambda lm, tok, path: lm,
    "a list of a model": lambda lm, tok, path: [lm],
    "a model and None": lambda lm, tok, path: (lm, None),
    "a model and its tokenizer's folder": lambda lm, tok, path: (lm, str(path)),
    "a model and its tokenizer's path": lambda lm, tok, path: (lm, path),
    "a folder and a tokenizer": lambda lm, tok, path: (str(path), tok),
    "a folder": lambda lm, tok, path: str(path),
    "a path": lambda lm, tok, path: path,
    "an own path": lambda lm, tok, path: OwnPath(path),
    "a pipeline": lambda lm, tok, path: TextGenerationPipeline(model=lm, tokenizer=tok),
    "PEFT": lambda lm, tok, path: adapted(lm),
    "PEFT in a tuple": lambda lm, tok, path: (adapted(lm), tok),
    "torch.compile": lambda lm, tok, path: torch.compile(lm, backend="eager"),
    "compiled PEFT": lambda lm, tok, path: torch.compile(adapted(lm), backend="eager"),
    "DataParallel": lambda lm, tok, path: torch.nn.DataParallel(lm),
    "DataParallel in a list": lambda lm, tok, path: [torch.nn.DataParallel(lm), tok],
    "compiled DataParallel": lambda lm, tok, path: torch.compile(
        torch.nn.DataParallel(lm), backend="eager"
    ),
    "what blendin has loaded": lambda lm, tok, path: LanguageModel(lm, tok, "x"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", UNDERSTOOD)
def test_it_is_understood(what: str, named: Any, folder: Path) -> None:
    tok, guide = model("llama", "byte-level")[1], model(*GUIDE)
    given = UNDERSTOOD[what](named, tok, folder)
    expected = BlendInGenerator((named, tok), guide)
    ids = [
        gen.generate(base_prompt="The fox", policy=BaseOnly(), max_new_tokens=6).token_ids
        for gen in (expected, BlendInGenerator(given, guide))
    ]
    turned = BlendInGenerator(guide, given)
    ids.append(
        turned.generate(guide_prompt="The fox", policy=GuideOnly(), max_new_tokens=6).token_ids
    )
    if isinstance(given, LanguageModel) or ("folder" not in what and "path" not in what):
        assert ids[0] == ids[1] == ids[2]
    assert all(ids)  # saved, a tiny model loses the hook that mutes some of its tokens


def test_a_pipeline_gives_the_tokenizer_that_it_has(named: Any, folder: Path) -> None:
    tok = model("llama", "byte-level")[1]
    source = as_source(TextGenerationPipeline(model=named, tokenizer=tok), "base")
    assert source.model is named and source.tokenizer is tok


def bert() -> Any:
    return BertModel(
        BertConfig(
            vocab_size=64,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
        )
    )


def t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )


def vit() -> Any:
    return ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    )


TINY = LlamaConfig(
    vocab_size=64,
    hidden_size=8,
    intermediate_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
)


def with_a_learned_prompt() -> Any:
    lm = adapted(model("llama", "byte-level")[0])
    lm.peft_config["default"].is_prompt_learning = True
    return lm


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "None": (lambda lm, tok: None, TypeError, "base is None: pass base="),
    "a number": (lambda lm, tok: 3, TypeError, "base is of type int: pass base="),
    "a dict": (lambda lm, tok: {"model": lm}, TypeError, "base is of type dict"),
    "a set": (lambda lm, tok: {lm, tok}, TypeError, "base is of type set"),
    "bytes": (lambda lm, tok: b"gpt2", TypeError, r"base is bytes \(a name is text\)"),
    "an empty name": (lambda lm, tok: "", ValueError, "base is an empty name: pass"),
    "a blank name": (lambda lm, tok: "  ", ValueError, "base is an empty name: pass"),
    "a tokenizer": (lambda lm, tok: tok, TypeError, "base is a tokenizer .*pass base="),
    "a class": (lambda lm, tok: LlamaForCausalLM, TypeError, "class LlamaForCausalLM .*from_pre"),
    "a configuration": (lambda lm, tok: TINY, TypeError, "configuration .*has no weights"),
    "an empty tuple": (lambda lm, tok: (), TypeError, "base is a tuple of nothing: pass"),
    "an empty list": (lambda lm, tok: [], TypeError, "base is a list of nothing: pass"),
    "three": (lambda lm, tok: (lm, tok, tok), TypeError, "base is a tuple of .*: pass"),
    "two models": (lambda lm, tok: (lm, lm), TypeError, "base is a tuple of .*Llama.*: pass"),
    "two tokenizers": (lambda lm, tok: [tok, tok], TypeError, "a list of a tokenizer .*: pass"),
    "two names": (lambda lm, tok: ("a", "b"), TypeError, "two names, 'a' and 'b'.*base_kwargs"),
    "a model and a number": (lambda lm, tok: (lm, 3), TypeError, "tuple of .*type int: pass"),
    "a class and a tokenizer": (
        lambda lm, tok: (LlamaForCausalLM, tok),
        TypeError,
        "the class LlamaForCausalLM",
    ),
    "loaded and a tokenizer": (
        lambda lm, tok: (LanguageModel(lm, tok, "x"), tok),
        TypeError,
        "LanguageModel .*pass it alone",
    ),
    "a layer": (lambda lm, tok: lm.lm_head, TypeError, "Linear, a torch module that is no transf"),
    "a backbone": (lambda lm, tok: lm.model, ValueError, "LlamaModel, which does not write text"),
    "a backbone in a tuple": (lambda lm, tok: (lm.model, tok), ValueError, "does not write text"),
    "a wrapped backbone": (
        lambda lm, tok: torch.nn.DataParallel(lm.model),
        ValueError,
        "does not write text",
    ),
    "a classifier": (
        lambda lm, tok: (LlamaForSequenceClassification(TINY), tok),
        ValueError,
        "does not write text",
    ),
    "an encoder": (lambda lm, tok: (bert(), tok), ValueError, "BertModel, which does not write"),
    "an image model": (lambda lm, tok: (vit(), tok), ValueError, "ViTModel, which does not"),
    "an encoder-decoder": (lambda lm, tok: (t5(), tok), ValueError, "an encoder-decoder"),
    "a learned prompt": (
        lambda lm, tok: (with_a_learned_prompt(), tok),
        ValueError,
        "learned prompt .*LoRA",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("role", ["base", "guide"])
def test_it_is_refused_with_what_to_pass(what: str, role: str) -> None:
    make, kind, message = REFUSED[what]
    lm, tok = model("llama", "byte-level")
    pair: dict[str, Any] = {"base": model(*GUIDE), "guide": model(*GUIDE)}
    pair[role] = make(lm, tok)
    with pytest.raises(kind, match=message.replace("base", role)) as error:
        BlendInGenerator(**pair)
    assert "\n" not in str(error.value)


def test_a_loaded_model_whose_tokenizer_is_not_where_it_says(monkeypatch: Any) -> None:
    lm = copy.deepcopy(model("llama", "byte-level")[0])
    lm.name_or_path = "/absent/model"
    message = r"tokenizer cannot be had from '/absent/model'.*pass base="
    with pytest.raises(ValueError, match=message):
        BlendInGenerator(lm, model(*GUIDE))


FOR_LOADED: dict[str, Any] = {
    "tuple": lambda lm, tok: (lm, tok),
    "list": lambda lm, tok: [lm, tok],
    "alone": lambda lm, tok: lm,
    "pipeline": lambda lm, tok: TextGenerationPipeline(model=lm, tokenizer=tok),
    "LanguageModel": lambda lm, tok: LanguageModel(lm, tok, "x"),
}


@pytest.mark.parametrize("what", FOR_LOADED)
@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.float32},
        {"dtype": "bfloat16"},
        {"device_map": "auto"},
        {"base_kwargs": {"dtype": "float32"}},
        {"base_kwargs": {"torch_dtype": "float32"}},
        {"base_kwargs": {"attn_implementation": "eager"}},
        {"base_kwargs": {"quantization_config": {"quant_method": "gptq"}}},
        {"base_kwargs": {"max_memory": {0: "1GB"}, "dtype": "float32"}},
    ],
    ids=str,
)
def test_options_without_an_effect_on_a_loaded_model_are_named(
    what: str, options: dict[str, Any], named: Any
) -> None:
    given = FOR_LOADED[what](named, model("llama", "byte-level")[1])
    with pytest.raises(ValueError, match="the base is loaded already, so ") as error:
        BlendInGenerator(given, model(*GUIDE), **options)
    for name in options.get("base_kwargs", options):
        assert f"{name.removeprefix('torch_')}=" in str(error.value)


@pytest.mark.parametrize("option", ["trust_remote_code", "revision", "tokenizer"])
def test_options_for_the_tokenizer_are_named_where_it_came_along(option: str, named: Any) -> None:
    tok = model("llama", "byte-level")[1]
    value = True if option == "trust_remote_code" else "main"
    with pytest.raises(ValueError, match=f"so {option}="):
        BlendInGenerator((named, tok), model(*GUIDE), base_kwargs={option: value})
    with pytest.raises(ValueError, match=f"the guide is loaded already, so {option}="):
        BlendInGenerator(model(*GUIDE), (named, tok), guide_kwargs={option: value})


def test_options_that_have_an_effect_are_taken(named: Any, folder: Path) -> None:
    tok, guide = model("llama", "byte-level")[1], model(*GUIDE)
    assert BlendInGenerator(named, guide, base_kwargs={"trust_remote_code": True}).base
    assert BlendInGenerator(named, guide, base_kwargs={"tokenizer": tok}).base.tokenizer is tok
    assert BlendInGenerator(named, guide, base_kwargs={"tokenizer": str(folder)}).base
    assert BlendInGenerator((named, tok), guide, dtype="auto", trust_remote_code=False).base
    assert BlendInGenerator((named, tok), guide, dtype=None, base_kwargs={"revision": None}).base
    one = BlendInGenerator((named, tok), folder, guide_kwargs={"dtype": torch.float32})
    assert (one.base.precision, one.guide.precision) == ("float64", "float32")
    former = BlendInGenerator((named, tok), folder, guide_kwargs={"torch_dtype": "bfloat16"})
    assert former.guide.precision == "bfloat16"


def ways_to_name(folder: Path) -> dict[str, Any]:
    link = folder.parent / "link"
    if not link.exists():
        link.symlink_to(folder)
    return {
        "text": str(folder),
        "a slash": f"{folder}/",
        "two slashes": f"{folder}//",
        "a Path": Path(folder),
        "another Path": Path(str(folder)),
        "an own path": OwnPath(folder),
        "relative": os.path.relpath(folder),
        "a dot": f"./{os.path.relpath(folder)}",
        "a detour": str(folder / ".." / folder.name),
        "a link": str(link),
        "home": f"~/{folder.name}",
        "a Path with ~": Path(f"~/{folder.name}"),
    }


WAYS = [*ways_to_name(Path(tempfile.mkdtemp()))]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("other", ["text", "a Path"])
def test_one_folder_is_loaded_once_however_it_is_named(
    way: str, other: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    names = ways_to_name(folder)
    gen = BlendInGenerator(names[way], names[other])
    assert gen.base is gen.guide


def test_one_loaded_model_is_one_however_it_is_passed(named: Any) -> None:
    lm, tok = model("llama", "byte-level")
    ways = [(lm, tok), [lm, tok], (tok, lm), TextGenerationPipeline(model=lm, tokenizer=tok)]
    for base in ways:
        for guide in ways:
            gen = BlendInGenerator(base, guide)
            assert gen.base is gen.guide
    assert (alone := BlendInGenerator(lm, lm)).base is alone.guide
    assert (own := BlendInGenerator(alone.base, alone.base)).base is own.guide


def test_what_is_not_the_same_is_loaded_twice(folder: Path, tmp_path: Path) -> None:
    lm, tok = model("llama", "byte-level")
    other = copy.deepcopy(tok)
    assert (gen := BlendInGenerator((lm, tok), (lm, other))).base is not gen.guide
    gen = BlendInGenerator(folder, folder, guide_kwargs={"dtype": "float32"})
    assert gen.base is not gen.guide
    lm.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    assert (gen := BlendInGenerator(folder, tmp_path)).base is not gen.guide
