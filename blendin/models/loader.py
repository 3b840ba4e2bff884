"""From what a user names (a hub id, a folder, a GGUF file, a loaded model) to a `LanguageModel`."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from . import default_pair as pairs
from .local import LanguageModel
from .protocol import Model
from .remote import loading as remote_loading
from .remote.model import RemoteModel

logger = logging.getLogger("blendin")

ModelSource: TypeAlias = (
    str
    | Path
    | PreTrainedModel
    | tuple[PreTrainedModel, PreTrainedTokenizerBase]
    | LanguageModel
    | RemoteModel
)


@dataclass(frozen=True)
class Location:
    """Where transformers finds a model.

    Attributes:
        name: what the user calls it.
        path: a folder or a hub id.
        gguf_file: the GGUF file's name in that folder; None for safetensors.
    """

    name: str
    path: str
    gguf_file: str | None = None


def locate(source: ModelSource, role: str) -> ModelSource | Location:
    """Finds a model by its name; an embedded one is verified, and converted if need be.

    Args:
        source: as for `load`; what is not a name is returned as it is.
        role: "base" or "guide", for messages.

    Raises:
        ValueError: where there is no such file, or an embedded model is not installed.
    """
    if not isinstance(source, str | Path) or remote_loading.is_url(source):
        return source
    name, path = str(source), Path(source).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"{role}={name!r}: there is no such GGUF file")
        return Location(name, str(path.parent), path.name)
    if path.is_dir():
        return Location(name, str(path))
    return Location(name, str(pairs.folder(name)) if name in pairs.EMBEDDED else name)


def load(source: ModelSource | Location, role: str, **kwargs: Any) -> Model:
    """Loads one model with its tokenizer.

    Args:
        source: a name of the embedded pair (`blendin models` lists them), a hub id, a folder, a
            GGUF file, a loaded model (its tokenizer is taken from `model.name_or_path`), a
            (model, tokenizer) tuple, the URL of a completions server (`http://host:8000/v1#model`,
            replicas with commas between), or what this returned before.
        role: "base" or "guide", for messages.
        **kwargs: for transformers' `from_pretrained` (`dtype`, `device_map`, `trust_remote_code`,
            `quantization_config`, `revision`, ...); `tokenizer` names or is another tokenizer. Of
            a server: as `remote.loading.load` takes them.

    Raises:
        ValueError: there is no such model, or its tokenizer cannot be aligned.
        remote.completions.ServerError: where a server does not answer or refuses.
    """
    source = source if isinstance(source, Location) else locate(source, role)
    if isinstance(source, LanguageModel | RemoteModel):
        return source
    if remote_loading.is_url(source):
        return remote_loading.load(str(source), role, **kwargs)
    tokenizer: Any = kwargs.pop("tokenizer", None)
    if isinstance(source, tuple):
        model, tokenizer = source
        return LanguageModel(model, tokenizer, model.name_or_path or role)
    if isinstance(source, PreTrainedModel):
        if tokenizer is None and not source.name_or_path:
            raise ValueError(
                f"the {role} is a loaded model that does not name its tokenizer; pass "
                f"{role}=(model, tokenizer)"
            )
        tokenizer = _tokenizer(tokenizer or str(source.name_or_path), kwargs)
        return LanguageModel(source, tokenizer, source.name_or_path or role)
    assert isinstance(source, Location)
    gguf = {} if source.gguf_file is None else {"gguf_file": source.gguf_file}
    try:
        tokenizer = _tokenizer(tokenizer or source.path, kwargs | gguf)
        model = AutoModelForCausalLM.from_pretrained(
            source.path, use_safetensors=None if gguf else True, **kwargs, **gguf
        )
    except OSError as error:
        if (embedded := pairs.named_by_hub_id(source.path)) is not None:
            logger.warning(
                "%s is not available from the hub: taking the embedded %s, whose weights were "
                "quantized to 4 bits",
                source.name,
                embedded,
            )
            return load(embedded, role, **kwargs)
        raise ValueError(
            f"{role}={source.name!r} cannot be loaded: it is neither a folder, nor a GGUF file, "
            f"nor one of {', '.join(pairs.EMBEDDED)}, nor available from the Hugging Face hub "
            f"with safetensors weights ({_first_line(error)})"
        ) from error
    return LanguageModel(model, tokenizer, source.name)


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Halves the time to read a large tokenizer: its JSON is many objects and no garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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
