"""From what a user names (a hub id, a folder, a GGUF file, a loaded model) to a `LanguageModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import pairs
from .model import LanguageModel

ModelSource = (
    str | Path | PreTrainedModel | tuple[PreTrainedModel, PreTrainedTokenizerBase] | LanguageModel
)


def load(source: ModelSource, role: str, **kwargs: Any) -> LanguageModel:
    """Loads one model with its tokenizer.

    Args:
        source: a name of the embedded pair (`blendin models` lists them), a hub id, a folder, a
            GGUF file, a loaded model (its tokenizer is taken from `model.name_or_path`), a
            (model, tokenizer) tuple, or a `LanguageModel`.
        role: "base" or "guide", for messages.
        **kwargs: for transformers' `from_pretrained` (`dtype`, `device_map`, `trust_remote_code`,
            `quantization_config`, `revision`, ...); `tokenizer` names or is another tokenizer.

    Raises:
        ValueError: where there is no such model, or its tokenizer cannot be aligned.
    """
    if isinstance(source, LanguageModel):
        return source
    tokenizer = kwargs.pop("tokenizer", None)
    if isinstance(source, tuple):
        model, tokenizer = source
        return LanguageModel(model, tokenizer, model.name_or_path or role)
    if isinstance(source, PreTrainedModel):
        if tokenizer is None and not source.name_or_path:
            raise ValueError(
                f"the {role} is a loaded model that does not name its tokenizer; pass "
                f"{role}=(model, tokenizer)"
            )
        tokenizer = _tokenizer(tokenizer or source.name_or_path, kwargs)
        return LanguageModel(source, tokenizer, source.name_or_path or role)
    location, gguf = _locate(str(source), role)
    try:
        tokenizer = _tokenizer(tokenizer or location, kwargs | gguf)
        model = AutoModelForCausalLM.from_pretrained(
            location, use_safetensors=None if gguf else True, **kwargs, **gguf
        )
    except OSError as error:
        raise ValueError(
            f"{role}={str(source)!r} cannot be loaded: it is neither a folder, nor a GGUF file, "
            f"nor one of {', '.join(pairs.EMBEDDED)}, nor to be had from the Hugging Face hub "
            f"with safetensors weights ({_first_line(error)})"
        ) from error
    return LanguageModel(model, tokenizer, str(source))


def _locate(source: str, role: str) -> tuple[str, dict[str, str]]:
    """Where transformers finds a model: (folder or hub id, further arguments)."""
    path = Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"{role}={source!r}: there is no such GGUF file")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        return str(path), {}
    if source in pairs.EMBEDDED:
        return str(pairs.folder(source)), {}
    return source, {}


def _tokenizer(
    source: str | PreTrainedTokenizerBase, kwargs: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    if not isinstance(source, str | Path):
        return source
    passed_on = ("trust_remote_code", "revision", "gguf_file", "token", "cache_dir", "subfolder")
    return AutoTokenizer.from_pretrained(
        source, **{name: kwargs[name] for name in passed_on if name in kwargs}
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
