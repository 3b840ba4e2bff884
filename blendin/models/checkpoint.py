"""Checks of a checkpoint's files before transformers reads them, with what to do about them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import __version__ as transformers_version
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import is_kernels_available

from ..spelling import did_you_mean

logger = logging.getLogger("blendin")

ROLE = "{role}"
"""Stands in the messages for "base" or "guide", which whoever shows them knows."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LONGEST_POINTER = 1024

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
OTHER_FRAMEWORKS = (".h5", ".msgpack", ".onnx", ".mlmodel")

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"),
    *("sentencepiece.bpe.model", "tekken.json", "spm.model"),
)
WITH_TOKENIZER_CODE = "tokenizer_config.json"


def check_folder(folder: Path, options: Mapping[str, Any]) -> None:
    """Whether a folder holds a causal language model in safetensors with its tokenizer.

    Args:
        folder: as transformers is to read it; `subfolder` of the options is looked into.
        options: for `from_pretrained`.

    Raises:
        ValueError: where it does not; the message goes on from "base='folder': ".
    """
    folder = folder / str(options.get("subfolder") or "")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    names = sorted(each.name for each in folder.iterdir())
    if not names:
        raise ValueError("the folder is empty: download the model's files into it")
    _check_pointers(folder, names)
    if options.get("gguf_file"):
        return
    if "config.json" in names:
        _check_config(_read_json(folder / "config.json"), names, options)
    else:
        _refuse_without_config(folder, names)
    for name in names:
        if name.endswith(".json") and ("config" in name or name.endswith(".index.json")):
            _read_json(folder / name)
    if "adapter_config.json" not in names or "config.json" in names:
        _check_weights(folder, names, options)
    if options.get("tokenizer") is None and tokenizer_place(folder) == str(folder):
        _check_tokenizer_files(folder, names)


def check_gguf(path: Path) -> None:
    """Whether a file begins as a GGUF does.

    Raises:
        ValueError: where it does not; the message goes on from "base='file': ".
    """
    with path.open("rb") as file:
        head = file.read(len(LFS_POINTER))
    if head == LFS_POINTER:
        raise ValueError(f"{path.name} {_IS_POINTER}")
    if head[:4] != b"GGUF":
        raise ValueError(f"{path.name} is no GGUF file, or a damaged one: download it again")
    if find_spec("gguf") is None:
        raise ValueError("reading a GGUF file takes a package: `pip install gguf`")


def tokenizer_place(folder: Path) -> str:
    """Where a checkpoint's tokenizer is read from: of an adapter that has none, its base's."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file() and not any((folder / name).exists() for name in TOKENIZER_FILES):
        return str(_read_json(adapter).get("base_model_name_or_path") or folder)
    return str(folder)


def refuse_other_file(path: Path) -> None:
    """A file is named that is not a GGUF.

    Raises:
        ValueError: always; the message goes on from "base='file': ".
    """
    if path.suffix in PICKLED:
        raise ValueError(f"{_PICKLED}; name a folder with safetensors weights")
    raise ValueError(
        f"it is a file and no GGUF: name the folder that it is in, {str(path.parent)!r}"
    )


_IS_POINTER = (
    "is a git-LFS pointer, which stands for the file itself: run `git lfs pull` there, or download "
    "the file"
)
_PICKLED = (
    "its weights are pickled, which could run code when they are read, so that blendin does not "
    "read them"
)


def _check_pointers(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        if not path.is_file() or path.stat().st_size > LONGEST_POINTER:
            continue
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ValueError(f"{name} {_IS_POINTER}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged: it is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is damaged: it holds no JSON object")
    return found


def _refuse_without_config(folder: Path, names: list[str]) -> None:
    if "adapter_config.json" in names:
        _check_adapter(_read_json(folder / "adapter_config.json"))
        return
    if ggufs := [name for name in names if name.lower().endswith(".gguf")]:
        raise ValueError(f"the folder holds GGUF files: name one, {str(folder / ggufs[0])!r}")
    if "model_index.json" in names:
        raise ValueError("it is a diffusers pipeline, which makes images: name a language model")
    below = [name for name in names if (folder / name / "config.json").is_file()]
    if below:
        raise ValueError(
            f"the folder has no config.json, but {', '.join(below[:3])} in it has one: name "
            f"{str(folder / below[-1])!r}"
        )
    if "snapshots" in names:
        raise ValueError(
            "it is the hub's cache of a model: name the hub id, or a folder in its snapshots/"
        )
    if "params.json" in names:
        raise ValueError(
            "it is a checkpoint in its maker's own format: convert it, or take the one for "
            "transformers, which has a config.json"
        )
    raise ValueError(
        "the folder has no config.json, so it is no checkpoint for transformers: name one that "
        "model.save_pretrained wrote"
    )


def _check_adapter(config: Mapping[str, Any]) -> None:
    """An adapter alone: transformers puts it on its base, with peft."""
    if find_spec("peft") is not None:
        return
    of = config.get("base_model_name_or_path") or "its base model"
    raise ValueError(
        f"it is a PEFT adapter of {of}, without the model: `pip install peft` and name it again, "
        "pass (PeftModel.from_pretrained(model, folder), tokenizer), or name a folder into which "
        "merge_and_unload().save_pretrained() wrote both as one"
    )


def _check_config(config: Mapping[str, Any], names: list[str], options: Mapping[str, Any]) -> None:
    kind, code = config.get("model_type"), config.get("auto_map") or {}
    made_of = ", ".join(config.get("architectures") or ()) or str(kind)
    trusted = bool(options.get("trust_remote_code"))
    if "modules.json" in names or "config_sentence_transformers.json" in names:
        raise ValueError(
            f"it is a sentence-transformers checkpoint ({made_of}), which embeds texts and writes "
            "none: name a causal language model"
        )
    if kind not in CONFIG_MAPPING:
        if trusted and "AutoConfig" in code:
            return
        if "AutoConfig" in code:
            raise ValueError(
                f"its model_type {kind!r} comes with code of its own: pass trust_remote_code=True "
                "if you trust it"
            )
        if kind is None:
            raise ValueError("config.json names no model_type, so nobody knows what model it is")
        raise ValueError(
            f"transformers {transformers_version} knows no model_type {kind!r}: upgrade "
            f"transformers, or correct config.json{did_you_mean(str(kind), CONFIG_MAPPING)}"
        )
    if config.get("is_encoder_decoder"):
        raise ValueError(
            f"it is an encoder-decoder ({made_of}), which has no one text to continue: name a "
            "causal language model"
        )
    own_class = trusted and "AutoModelForCausalLM" in code
    if CONFIG_MAPPING[kind] not in MODEL_FOR_CAUSAL_LM_MAPPING and not own_class:
        raise ValueError(f"it is no causal language model but {made_of}, of the kind {kind!r}")


def _check_weights(folder: Path, names: list[str], options: Mapping[str, Any]) -> None:
    if options.get("variant"):
        return
    index = "model.safetensors.index.json"
    if "model.safetensors" in names:
        shards = ["model.safetensors"]
    elif index in names:
        shards = sorted(set((_read_json(folder / index).get("weight_map") or {}).values()))
        if absent := [each for each in shards if not (folder / each).is_file()]:
            raise ValueError(
                f"{len(absent)} of {len(shards)} weight files are missing, the first "
                f"{absent[0]}: download the rest"
            )
    else:
        _refuse_without_safetensors(names)
        return
    for shard in shards:
        try:
            with safe_open(folder / shard, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{shard} is truncated or damaged: download it again ({first_line(error)})"
            ) from error


def _refuse_without_safetensors(names: list[str]) -> None:
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        raise ValueError(
            f"it has no model.safetensors, but {', '.join(others[:3])}: name the file "
            "model.safetensors, or add model.safetensors.index.json"
        )
    if any(name.endswith(PICKLED) and "training_args" not in name for name in names):
        raise ValueError(
            f"{_PICKLED}: convert them, model.save_pretrained(folder) writes safetensors"
        )
    if any(name.endswith(OTHER_FRAMEWORKS) for name in names):
        raise ValueError(
            "its weights are another framework's: save them with PyTorch, "
            "model.save_pretrained(folder) writes safetensors"
        )
    raise ValueError("the folder has no weights: download its model.safetensors")


def _check_tokenizer_files(folder: Path, names: list[str]) -> None:
    if any(name in names for name in TOKENIZER_FILES):
        return
    if any(name.endswith((".tiktoken", ".model", ".vocab")) for name in names):
        return
    if WITH_TOKENIZER_CODE in names and "auto_map" in _read_json(folder / WITH_TOKENIZER_CODE):
        return
    raise ValueError(
        "the folder has no tokenizer (no tokenizer.json): save the model's own into it, or pass "
        f"it in {ROLE}_kwargs={{'tokenizer': ...}}"
    )


def check_kernels() -> None:
    """Checks that `use_kernels` can be had, which transformers says once all weights are read.

    Raises:
        ValueError: the package is not there, or of another version than transformers knows.
    """
    if not is_kernels_available():
        raise ValueError(
            f"{ROLE}_kwargs has use_kernels, and transformers {transformers_version} finds no "
            "package kernels that it knows: pip install 'transformers[kernels]', or leave it out"
        )
    if not torch.accelerator.is_available():
        logger.warning(
            "use_kernels: there is no GPU here, and for CPUs the Hub has next to no kernels; "
            "whatever has none stays as it is"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)
