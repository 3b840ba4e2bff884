"""What a caller passes as base or guide: told apart, unwrapped, or refused with what to pass."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .local import LanguageModel, without_wrappers
from .remote.loading import is_url
from .remote.model import RemoteModel

OF_TOKENIZERS = (
    *("trust_remote_code", "revision", "token", "cache_dir", "subfolder"),
    *("local_files_only", "force_download", "proxies"),
)
"""`from_pretrained` arguments that concern a tokenizer read by its name, too."""


@dataclass(frozen=True)
class Source:
    """A model that is to be had, in one form whatever was passed.

    Attributes:
        name: of a checkpoint or the URL of a server; None for what is loaded.
        model: a transformers model that is loaded, or a `LanguageModel` or `RemoteModel`.
        tokenizer: one that came along, or its name; None where the model's own is meant.
    """

    name: str | None = None
    model: Any = None
    tokenizer: Any = None

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for two sources of one model with one tokenizer."""
        where: object = id(self.model)
        if self.name is not None:
            path = Path(os.path.expanduser(self.name))
            where = self.name if is_url(self.name) or not path.exists() else os.path.realpath(path)
        tokenizer = self.tokenizer
        return where, tokenizer if isinstance(tokenizer, str | None) else id(tokenizer)


def as_source(given: Any, role: str) -> Source:
    """Tells what a caller passed.

    Args:
        given: a name (text or path), a model, a pair of model and tokenizer in either order, a
            pipeline, a `LanguageModel` or `RemoteModel`. Wrappers for several devices are taken
            off; PEFT's and torch.compile's stay.
        role: "base" or "guide", for messages.

    Raises:
        TypeError: for anything else, with what to pass.
        ValueError: for a model that does not write text from left to right, or an empty name.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, LanguageModel | RemoteModel):
        return Source(model=given)
    if isinstance(given, str | os.PathLike):
        return Source(name=_name(given, role))
    if isinstance(given, tuple | list):
        return _pair(given, role)
    if _is_pipeline(given):
        return Source(model=_checked_model(given.model, role), tokenizer=given.tokenizer)
    if isinstance(given, nn.Module):
        return Source(model=_checked_model(given, role))
    raise TypeError(f"{role} is {_described(given)}: {_what_to_pass(role)}")


def check_options(source: Source, role: str, options: Mapping[str, Any]) -> None:
    """Refuses loading options that could have no effect on what is loaded already.

    Raises:
        ValueError: naming them.
    """
    if source.model is None:
        return
    taken: tuple[str, ...] = ()
    if not isinstance(source.model, LanguageModel | RemoteModel) and source.tokenizer is None:
        by_name = isinstance(options.get("tokenizer"), str | os.PathLike | None)
        taken = ("tokenizer", *(OF_TOKENIZERS if by_name else ()))
    if idle := {name: options[name] for name in given_options(options) if name not in taken}:
        told = ", ".join(f"{name}={value!r}" for name, value in idle.items())
        other = "guide" if role == "base" else "base"
        raise ValueError(
            f"the {role} is loaded already, so {told} would have no effect on it: leave it out, "
            f"load the {role} with it, or give it to the {other} alone in {other}_kwargs="
        )


def given_options(options: Mapping[str, Any]) -> list[str]:
    """The names of those that differ from the defaults."""
    defaults = {"dtype": "auto", "trust_remote_code": False}
    return [
        name
        for name, value in options.items()
        if value is not None and not (name in defaults and defaults[name] == value)
    ]


def own_name(model: Any) -> str | None:
    """What a loaded model says it was loaded from; of an adapter, what its base was."""
    if name := getattr(without_wrappers(model), "name_or_path", None):
        return str(name)
    adapters = getattr(model, "peft_config", None) or {}
    named = (getattr(each, "base_model_name_or_path", None) for each in adapters.values())
    return next((str(name) for name in named if name), None)


def _name(given: str | os.PathLike[Any], role: str) -> str:
    name = os.fsdecode(given)
    if not name.strip():
        raise ValueError(f"{role} is an empty name: {_what_to_pass(role)}")
    return name


def _pair(given: tuple[Any, ...] | list[Any], role: str) -> Source:
    """A model (or its name) and a tokenizer (or its name), in either order."""
    models = [each for each in given if isinstance(each, nn.Module)]
    names = [each for each in given if isinstance(each, str | os.PathLike)]
    tokenizers = [own for each in given if (own := tokenizer_of(each)) is not None]
    absent = [each for each in given if each is None]
    understood = len(models) + len(names) + len(tokenizers) + len(absent) == len(given)
    counts = len(models), len(names), len(tokenizers)
    if understood and len(given) <= 2:
        if counts in ((1, 0, 0), (1, 0, 1)):
            return Source(
                model=_checked_model(models[0], role), tokenizer=next(iter(tokenizers), None)
            )
        if counts == (1, 1, 0):
            return Source(model=_checked_model(models[0], role), tokenizer=_name(names[0], role))
        if counts == (0, 1, 1):
            return Source(name=_name(names[0], role), tokenizer=tokenizers[0])
    if counts == (0, 2, 0) and len(given) == 2:
        raise TypeError(
            f"{role} is two names, {str(names[0])!r} and {str(names[1])!r}: pass the model's, and "
            f"the tokenizer's in {role}_kwargs={{'tokenizer': ...}}"
        )
    held = ", ".join(_described(each) for each in given)
    kind = "tuple" if isinstance(given, tuple) else "list"
    raise TypeError(f"{role} is a {kind} of {held or 'nothing'}: {_what_to_pass(role)}")


def tokenizer_of(given: Any) -> PreTrainedTokenizerBase | None:
    """A tokenizer, or a processor's."""
    if isinstance(given, PreTrainedTokenizerBase):
        return given
    if isinstance(given, nn.Module | LanguageModel | RemoteModel) or _is_pipeline(given):
        return None
    own = getattr(given, "tokenizer", None)
    return own if isinstance(own, PreTrainedTokenizerBase) else None


def _checked_model(given: Any, role: str) -> Any:
    """A causal language model, without the wrappers that spread batches over devices.

    Raises:
        TypeError: where it is not one of transformers'.
        ValueError: where it does not write text from left to right.
    """
    model = _without_replicas(given)
    core = without_wrappers(model)
    if not isinstance(core, PreTrainedModel):
        raise TypeError(
            f"{role} is a {type(core).__name__}, a torch module that is no transformers model: "
            f"{_what_to_pass(role)}"
        )
    kind = type(core).__name__
    if getattr(core.config, "is_encoder_decoder", False):
        raise ValueError(
            f"{role} is a {kind}, an encoder-decoder, which has no one text to continue: pass a "
            "causal language model (AutoModelForCausalLM)"
        )
    if not core.can_generate() and not kind.endswith("ForCausalLM"):
        raise ValueError(
            f"{role} is a {kind}, which does not write text: load its checkpoint with "
            "AutoModelForCausalLM, or pass another"
        )
    adapters: Iterable[Any] = (getattr(model, "peft_config", None) or {}).values()
    if any(getattr(each, "is_prompt_learning", False) for each in adapters):
        raise ValueError(
            f"{role} is a {kind} with a learned prompt (PEFT's prompt or prefix tuning), which "
            "cannot be read piece by piece: pass a model with weight adapters such as LoRA"
        )
    return model


def _without_replicas(model: Any) -> Any:
    """The model inside DataParallel; one sequence is read on one device."""
    replicated = nn.DataParallel | nn.parallel.DistributedDataParallel
    inner = getattr(model, "_orig_mod", model)
    while isinstance(inner, replicated):
        model = inner = inner.module
    return model


def _is_pipeline(given: Any) -> bool:
    # Not imported: whoever has one has imported it.
    module = sys.modules.get("transformers.pipelines.base")
    return module is not None and isinstance(given, module.Pipeline)


def _described(given: Any) -> str:
    """What a thing is that is no model, with how to go on from it."""
    if given is None:
        return "None"
    if isinstance(given, type):
        return f"the class {given.__name__} (its from_pretrained(...) gives a model)"
    if isinstance(given, bytes | bytearray):
        return "bytes (a name is text)"
    if tokenizer_of(given) is not None:
        return f"a tokenizer ({type(given).__name__})"
    if isinstance(given, PretrainedConfig):
        return f"a configuration ({type(given).__name__}), which has no weights"
    if isinstance(given, LanguageModel | RemoteModel):
        return f"a {type(given).__name__} (which has its tokenizer: pass it alone)"
    return f"of type {type(given).__name__}"


def _what_to_pass(role: str) -> str:
    return (
        f"pass {role}= a hub id, a folder, a GGUF file, a server's URL, a transformers model, or "
        "(model, tokenizer)"
    )
