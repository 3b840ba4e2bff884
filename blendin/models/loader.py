"""From what a user names (a hub id, a folder, a GGUF file, a loaded model) to a `LanguageModel`."""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
)

from ..spelling import did_you_mean
from . import default_pair as pairs
from . import vllm_engine
from .checkpoint import (
    ROLE,
    check_folder,
    check_gguf,
    check_kernels,
    first_line,
    refuse_other_file,
    tokenizer_place,
)
from .local import LanguageModel
from .protocol import Model
from .remote import loading as remote_loading
from .remote.model import RemoteModel
from .source import Source, as_source, check_options, own_name
from .tokenizer import load_tokenizer

logger = logging.getLogger("blendin")

ModelSource: TypeAlias = (
    str
    | os.PathLike[str]
    | PreTrainedModel
    | torch.nn.Module
    | tuple[Any, Any]
    | list[Any]
    | LanguageModel
    | RemoteModel
)
"""A name, a model (with PEFT, torch.compile or DataParallel around it), a pair of a model and its
tokenizer, or a transformers pipeline; see `source.as_source`."""

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
ABBREVIATED = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}


@dataclass(frozen=True)
class Location:
    """Where transformers finds a model.

    Attributes:
        name: what the user calls it.
        path: a folder or a hub id.
        gguf_file: the GGUF file's name in that folder; None for safetensors.
        tokenizer: another than the checkpoint's own; None for that.
    """

    name: str
    path: str
    gguf_file: str | None = None
    tokenizer: Any = None


def same_source(base: ModelSource, guide: ModelSource) -> bool:
    """Whether two sources are one model with one tokenizer, however they are named."""
    return as_source(base, "base").identity == as_source(guide, "guide").identity


def is_named(given: ModelSource) -> bool:
    """Whether a source is a name, whose model is still to be loaded."""
    return as_source(given, "base").name is not None


def check(given: ModelSource, role: str, **kwargs: Any) -> None:
    """Refuses what cannot be loaded, as far as a look at it and at its files can tell.

    Args:
        given: as for `load`.
        role: "base" or "guide", for messages.
        **kwargs: as for `load`.

    Raises:
        TypeError: for what is no model and names none.
        ValueError: for an option that is misspelt or has no effect, or a checkpoint that is
            incomplete, damaged or of another kind.
    """
    source = as_source(given, role)
    kwargs = _renamed(kwargs)
    check_options(source, role, kwargs)
    if source.name is None:
        return
    if remote_loading.is_url(source.name):
        remote_loading.check(source.name, role, kwargs)
        return
    if vllm_engine.is_vllm(source.name):
        vllm_engine.check(source.name, role, _of_engine(source, kwargs))
        return
    remote_loading.refuse_what_should_be_a_url(source.name, role)
    _checked_dtype(source.name, role, kwargs.get("dtype"))
    if kwargs.get("use_safetensors") not in (None, True):
        raise ValueError(
            f"{role}={source.name!r}: use_safetensors={kwargs['use_safetensors']!r} asks for "
            "pickled weights, which could run code when they are read: leave it out"
        )
    path = Path(os.path.expanduser(source.name))
    options = {"tokenizer": source.tokenizer, **kwargs}
    try:
        if kwargs.get("use_kernels"):
            check_kernels()
        if path.is_dir():
            check_folder(path, options)
        elif path.is_file() and path.suffix.lower() == ".gguf":
            check_gguf(path)
        elif path.is_file():
            refuse_other_file(path)
    except ValueError as error:
        raise ValueError(f"{role}={source.name!r}: {str(error).replace(ROLE, role)}") from error


def locate(given: ModelSource, role: str) -> Source | Location:
    """Finds a model by its name; an embedded one is verified, and converted if need be.

    Args:
        given: as for `load`; what is not the name of a checkpoint is only unwrapped.
        role: "base" or "guide", for messages.

    Raises:
        ValueError: where there is no such file, or an embedded model is not installed.
    """
    source = as_source(given, role)
    name = source.name
    if name is None or remote_loading.is_url(name) or vllm_engine.is_vllm(name):
        return source
    path = Path(os.path.expanduser(name))
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ValueError(f"{role}={name!r}: there is no such GGUF file{_neighbour(path)}")
        return Location(name, str(path.parent), path.name, source.tokenizer)
    if path.is_dir():
        return Location(name, str(path), tokenizer=source.tokenizer)
    found = str(pairs.folder(name)) if name in pairs.EMBEDDED else name
    return Location(name, found, tokenizer=source.tokenizer)


def runs_here(found: Source | Location) -> bool:
    """Whether blendin itself runs what `locate` found, no server and no other engine."""
    return isinstance(found, Location) or (
        found.name is None and not isinstance(found.model, RemoteModel)
    )


def load(given: ModelSource | Location, role: str, **kwargs: Any) -> Model:
    """Loads one model with its tokenizer.

    Args:
        given: a name of the embedded pair (`blendin models` lists them), a hub id, a folder, a
            GGUF file, a loaded model (its tokenizer is taken from `model.name_or_path`), a
            (model, tokenizer) pair, a transformers pipeline, the URL of a completions server
            (`http://host:8000/v1#model`, replicas with commas between), or what this returned
            before.
        role: "base" or "guide", for messages.
        **kwargs: for transformers' `from_pretrained` (`dtype`, `device_map`, `trust_remote_code`,
            `quantization_config`, `revision`, ...); `tokenizer` names or is another tokenizer. Of
            a server: as `remote.loading.load` takes them.

    Raises:
        TypeError: for what is no model and names none.
        ValueError: there is no such model, its tokenizer cannot be aligned, or an option has no
            effect on a model that is loaded already.
        remote.completions.ServerError: where a server does not answer or refuses.
    """
    if not isinstance(given, Location):
        check(given, role, **kwargs)
        given = locate(given, role)
    if isinstance(given, Location):
        return _from_checkpoint(given, role, kwargs)
    if vllm_engine.is_vllm(given.name):
        return vllm_engine.load(str(given.name), role, **_of_engine(given, _renamed(kwargs)))
    if given.name is not None:
        if given.tokenizer is not None:
            kwargs.setdefault("tokenizer", given.tokenizer)
        return remote_loading.load(given.name, role, **kwargs)
    if isinstance(given.model, LanguageModel | RemoteModel):
        return given.model
    return _from_loaded(given, role, kwargs)


def _from_loaded(source: Source, role: str, kwargs: Mapping[str, Any]) -> LanguageModel:
    """A model that the caller has loaded, with the tokenizer that came along or its own."""
    name = own_name(source.model)
    tokenizer = source.tokenizer or kwargs.get("tokenizer") or name
    if tokenizer is None:
        raise ValueError(
            f"the {role} is a loaded model that does not name its tokenizer; pass "
            f"{role}=(model, tokenizer)"
        )
    try:
        tokenizer = load_tokenizer(tokenizer, kwargs)
    except Exception as error:
        raise ValueError(
            f"the {role} is a loaded model whose tokenizer cannot be had from {str(tokenizer)!r} "
            f"({first_line(error)}); pass {role}=(model, tokenizer)"
        ) from error
    return LanguageModel(source.model, tokenizer, name or role)


def _from_checkpoint(place: Location, role: str, kwargs: dict[str, Any]) -> LanguageModel:
    options = _renamed(kwargs)
    options.pop("use_safetensors", None)
    other = options.pop("tokenizer", None) or place.tokenizer
    if "dtype" in options:
        options["dtype"] = _checked_dtype(place.name, role, options["dtype"])
    if place.gguf_file is not None and not place.gguf_file.endswith(".gguf"):
        with _spelt_small(place) as place:
            return _from_checkpoint(place, role, kwargs)
    if place.gguf_file is not None:
        options["gguf_file"] = place.gguf_file
    is_local = Path(place.path).is_dir()
    try:
        if other is not None:
            tokenizer = load_tokenizer(other, options | {"gguf_file": None})
        else:
            tokenizer = load_tokenizer(tokenizer_place(Path(place.path)), options)
    except Exception as error:
        if other is None and not is_local and isinstance(error, OSError):
            return _instead(place, role, kwargs, error)
        _raise_unless_explained(error)
        if other is None and place.gguf_file is not None:
            raise ValueError(_explained(place, role, error)) from error
        raise ValueError(
            f"{role}={place.name!r}: its tokenizer cannot be read ({first_line(error)}); pass "
            f"another in {role}_kwargs={{'tokenizer': ...}}"
        ) from error
    try:
        model = _model(place, options)
    except OSError as error:
        if is_local:
            raise ValueError(_explained(place, role, error)) from error
        return _instead(place, role, kwargs, error)
    except Exception as error:
        _raise_unless_explained(error)
        raise ValueError(_explained(place, role, error)) from error
    return LanguageModel(model, tokenizer, place.name)


def _of_engine(source: Source, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Options as vLLM takes them, and a tokenizer that came along by its name."""
    options = dict(kwargs)
    if source.tokenizer is not None:
        options.setdefault("tokenizer", source.tokenizer)
    if not isinstance(options.get("tokenizer"), str | None):
        raise ValueError(f"{source.name!r}: vLLM reads its tokenizer by name: pass that")
    return options


@contextmanager
def _spelt_small(place: Location) -> Iterator[Location]:
    """A GGUF file under a name with .gguf, by which alone transformers knows it, for a while."""
    assert place.gguf_file is not None
    file = Path(place.path, place.gguf_file).absolute()
    with TemporaryDirectory() as folder:
        name = file.with_suffix(".gguf").name
        Path(folder, name).symlink_to(file)
        yield replace(place, path=folder, gguf_file=name)


def _model(place: Location, options: Mapping[str, Any]) -> Any:
    """The model, all of whose weights must come from the checkpoint.

    Raises:
        ValueError: where some would be random.
    """
    is_gguf = options.get("gguf_file") is not None
    model, read = AutoModelForCausalLM.from_pretrained(
        place.path, use_safetensors=None if is_gguf else True, output_loading_info=True, **options
    )
    parameters = dict(model.named_parameters())
    absent = sorted(name for name in read.get("missing_keys", ()) if name in parameters)
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise ValueError(
            f"the checkpoint has no weights for {absent[0]}{more}, which would be random: it is "
            f"incomplete, or not made for a {type(model).__name__}"
        )
    return model


def _instead(place: Location, role: str, kwargs: dict[str, Any], error: OSError) -> LanguageModel:
    """The embedded model that stands for a hub id which cannot be had."""
    if (embedded := pairs.named_by_hub_id(place.path)) is None:
        raise ValueError(
            f"{role}={place.name!r} cannot be loaded: it is neither a folder, nor a GGUF file, "
            f"nor one of {', '.join(pairs.EMBEDDED)}, nor available from the Hugging Face hub "
            f"with safetensors weights ({first_line(error)}){_neighbour(Path(place.name))}"
        ) from error
    logger.warning(
        "%s is not available from the hub: taking the embedded %s, whose weights were "
        "quantized to 4 bits",
        place.name,
        embedded,
    )
    found = replace(place, path=str(pairs.folder(embedded)), name=embedded)
    return _from_checkpoint(found, role, kwargs)


def _raise_unless_explained(error: Exception) -> None:
    """What is not the checkpoint's fault goes on as it is."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | pairs.PairError):
        raise error


def _renamed(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """With `torch_dtype`, the former name of `dtype`, which "auto" would otherwise overrule."""
    options = dict(kwargs)
    former = options.pop("torch_dtype", None)
    if former is not None and options.get("dtype") in (None, "auto"):
        options["dtype"] = former
    return options


def _explained(place: Location, role: str, error: Exception) -> str:
    """Why a checkpoint cannot be loaded, in one sentence."""
    start, reason = f"{role}={place.name!r}", first_line(error)
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if isinstance(error, TypeError) and unexpected is not None:
        known = (
            *("dtype", "device_map", "trust_remote_code", "tokenizer", "revision", "variant"),
            *("quantization_config", "attn_implementation", "max_memory", "offload_folder"),
            *("offload_buffers", "token", "cache_dir", "subfolder", "local_files_only"),
        )
        return (
            f"{start}: from_pretrained has no option {unexpected[1]}: leave it out of "
            f"{role}_kwargs{did_you_mean(unexpected[1], known)}"
        )
    if isinstance(error, ImportError):
        return f"{start} takes a package that is not installed ({reason})"
    if place.gguf_file is not None:
        return (
            f"{start} cannot be read: the GGUF file is truncated, or of a kind that this "
            f"transformers does not know ({reason})"
        )
    return f"{start} cannot be loaded ({reason})"


def _checked_dtype(name: str, role: str, dtype: Any) -> Any:
    """A dtype of weights; a text as torch names it.

    Raises:
        ValueError: for an unknown name, or one of whole numbers.
    """
    if dtype is None or dtype == "auto" or isinstance(dtype, Mapping):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        shown = repr(dtype)
        meant = ABBREVIATED.get(str(dtype))
        hint = f"; did you mean {meant!r}?" if meant else did_you_mean(str(dtype), DTYPES)
        raise ValueError(
            f"{role}={name!r}: dtype is {shown}; use {', '.join(map(repr, DTYPES))}, or a "
            f"torch.dtype{hint}"
        )
    if not found.is_floating_point:
        raise ValueError(
            f"{role}={name!r}: dtype is {dtype!r}, which holds no fractions: for quantized weights "
            f"pass {role}_kwargs={{'quantization_config': ...}}"
        )
    return found


def _neighbour(path: Path) -> str:
    """What lies beside a path that is not there, or is embedded, and has nearly its name."""
    near = did_you_mean(path.name, pairs.EMBEDDED) if path.name == str(path) else ""
    if not near and path.parent.is_dir():
        near = did_you_mean(path.name, (each.name for each in path.parent.iterdir()))
    return near


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
