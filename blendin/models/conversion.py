"""Reads a GGUF through transformers and writes float32 safetensors with a compact tokenizer.

:mod:`blendin.models.default_pair` runs it in a process of its own: `conversion.py GGUF FOLDER`.
"""

import json
import os
import sys
from collections.abc import Callable
from copy import copy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf as gguf_package
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

OF_ADDED_TOKENS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


class PlainReader(gguf_package.GGUFReader):
    """Keeps the file as a plain array, of which the 1.5 million slices cost a third."""

    @property  # type: ignore[override]
    def data(self) -> np.ndarray:
        """All bytes of the file, mapped into memory."""
        return self._bytes

    @data.setter
    def data(self, mapped: np.memmap) -> None:
        self._bytes = np.asarray(mapped)


def convert(gguf: Path, destination: Path) -> None:
    """Writes the model and the tokenizer of `gguf` into `destination`; takes gigabytes."""
    _read_once()
    _save_model(gguf, destination)
    _save_tokenizer(gguf, destination)


def _read_once() -> None:
    """Lets this process read a GGUF's tables once, for which transformers asks three times.

    They hold the whole vocabulary, piece by piece, and took most of a conversion's time. What is
    read is the same; a transformers that reads otherwise goes on as it does.
    """
    package: Any = gguf_package
    package.GGUFReader = _once_per_file(PlainReader)
    package.get_tensor_name_map = cache(package.get_tensor_name_map)  # asked for by each module
    if find_spec("transformers.modeling_gguf_pytorch_utils") is None:
        return
    from transformers import modeling_gguf_pytorch_utils as reading

    load = reading.load_gguf_checkpoint
    tables = _once_per_file(load)

    def load_once(path: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        if arguments or any(named.values()):  # the weights, for a model
            return load(path, *arguments, **named)
        return {name: copy(table) for name, table in tables(path).items()}  # callers change them

    reading.load_gguf_checkpoint = load_once


def _once_per_file(read: Callable[[str], Any]) -> Callable[[Any], Any]:
    """`read`, which is not asked again for a file, however that is named."""
    known = cache(read)
    return lambda path: known(os.path.realpath(path))


def _save_model(gguf: Path, destination: Path) -> None:
    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # A model read from a GGUF refuses save_pretrained, so its tensors go into a plain one.
    del read.config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict(), assign=True)
    plain.generation_config = read.generation_config
    plain.save_pretrained(destination, max_shard_size="50GB")
    # safetensors writes for the owner alone; a cache may be shared.
    mode = (destination / "config.json").stat().st_mode
    (destination / "model.safetensors").chmod(mode)


def _save_tokenizer(gguf: Path, destination: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(destination)
    # Compact JSON and the general class load Gemma's 262,144 tokens in two thirds of the time.
    tokenizer.backend_tokenizer.save(str(destination / "tokenizer.json"), pretty=False)
    path = destination / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings["padding_side"] = tokenizer.padding_side  # GemmaTokenizer's own, else lost
    # Where these are missing, transformers parses all of tokenizer.json once more for them.
    settings["added_tokens_decoder"] = {
        str(id): {name: getattr(token, name) for name in OF_ADDED_TOKENS}
        for id, token in tokenizer.added_tokens_decoder.items()
    }
    for of_the_gguf in ("is_local", "local_files_only"):
        settings.pop(of_the_gguf, None)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
