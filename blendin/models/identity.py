"""What tells one model from another that has its name: digests of weights and tokenizers.

They are of what is loaded, not of files, so that an edited checkpoint, another adapter, dtype,
quantization or revision, and weights that were changed in memory all show; a folder that was moved
does not.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

THREADS = 8
"""That hash at once; each holds a weight in memory, where that lies elsewhere."""

NOT_OF_A_MODEL = frozenset(
    {"_name_or_path", "base_model_name_or_path", "_commit_hash", "revision", "architectures"}
    | {"transformers_version", "peft_version", "dtype", "torch_dtype", "use_cache"}
    | {"attn_implementation", "_attn_implementation", "experts_implementation"}
)
"""Of a configuration: where it comes from, and what has no part in what a model means."""

OF_ADAPTERS = ("active_adapters", "merged_adapters", "disable_adapters", "scaling")

LIKELIEST, TOLERANCE = 10, 0.25
"""How many of a server's tokens are compared, and how far their log-probabilities may differ on
average: those of one model differ by as much with its company in bfloat16."""


def digest(value: Any) -> str:
    """A short hash of a value of plain types, whatever the order of its keys."""
    text = json.dumps(_plain(value), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def difference(name: str, noted: Any, own: Any) -> str | None:
    """The first place in which two JSON values differ, and how; None where they do not.

    What servers have answered ("answer": tokens and their log-probabilities) is the same where it
    is nearly so.
    """
    if isinstance(noted, dict) and isinstance(own, dict):
        for key in sorted({*noted, *own}):
            if found := difference(f"{name}.{key}", noted.get(key), own.get(key)):
                return found
        return None
    if name.endswith(".answer") and noted and own:
        there, here = (dict(map(tuple, each)) for each in (noted, own))
        gaps = [abs(there[token] - here[token]) for token in there.keys() & here.keys()]
        if 2 * len(gaps) > len(here) and sum(gaps) / len(gaps) <= TOLERANCE:
            return None
        return f"{name} has other tokens or probabilities"
    return None if noted == own else f"{name} is {noted!r} there and {own!r} here"


def weights_digest(model: Any) -> str:
    """The SHA-256 of all weights with their names, shapes and dtypes; the same on every device.

    Args:
        model: a transformers model; weights that accelerate has offloaded are read from there.
    """
    once = dict[Any, Future[str]]()  # tied weights are two entries of one storage

    def hashed(name: str, value: Any) -> Future[str]:
        key: Any = name
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
            place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
            key = place if value.data_ptr() else name
        if key not in once:
            once[key] = pool.submit(_hashed, value)
        return once[key]

    with ThreadPoolExecutor(THREADS) as pool:
        found = [(name, hashed(name, value)) for name, value in _state(model)]
    return digest(sorted((name, done.result()) for name, done in found))


def config_digest(model: Any) -> str:
    """Of a model's class and configuration, and of the adapters that are on it."""
    model = getattr(model, "_orig_mod", model)  # torch.compile's
    # Without defaults, to which another version of transformers may add.
    return digest([type(model).__name__, model.config.to_diff_dict(), _adapters(model)])


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of how a tokenizer reads and writes text, its special tokens among it."""
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is None:
        table: Any = sorted(tokenizer.get_vocab().items())
    else:  # what comes before is how the last call padded and cut
        table = backend.to_str().partition('"added_tokens":')[2]
    return digest([table, tokenizer.encode("a"), tokenizer.special_tokens_map])


def template_digest(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Of a tokenizer's chat template; None where it has none."""
    return digest(tokenizer.chat_template) if tokenizer.chat_template else None


def _state(model: Any) -> Iterator[tuple[str, Any]]:
    """All entries of a model's state by name; those that were offloaded as what reads them."""
    offloaded = dict[str, Callable[[], Tensor]]()
    for place, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            if (values := getattr(each, "weights_map", None)) is None:
                continue
            for name, _ in module.named_parameters(recurse=False):
                offloaded[f"{place}.{name}".lstrip(".")] = partial(values.__getitem__, name)
    for name, value in model.state_dict().items():
        yield name.replace("_orig_mod.", ""), offloaded.get(name, value)


def _hashed(value: Any) -> str:
    whole = hashlib.sha256()
    for part in _parts(value() if callable(value) and not isinstance(value, Tensor) else value):
        whole.update(part)
    return whole.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    """What is hashed of one entry of a state, as bytes."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from _parts(each)
    elif not isinstance(value, Tensor):
        yield json.dumps(_plain(value)).encode()
    elif hasattr(value, "__tensor_flatten__"):  # of torchao, quanto and the like
        names, context = value.__tensor_flatten__()
        yield json.dumps(_plain([type(value).__name__, context])).encode()
        for name in names:
            yield from _parts(getattr(value, name))
    elif value.is_quantized or value.layout != torch.strided:
        file = io.BytesIO()
        torch.save(value, file)
        yield file.getvalue()
    else:
        yield f"{value.dtype} {tuple(value.shape)} ".encode()
        if not value.is_meta:
            yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _adapters(model: Any) -> list[Any]:
    """PEFT's adapters on a model, and which of them have a part in its logits."""
    adapters = getattr(model, "peft_config", None) or {}
    in_use = {
        json.dumps([_plain(getattr(module, name, None)) for name in OF_ADAPTERS])
        for module in model.modules()
        if hasattr(module, "merged_adapters")
    }
    return [{name: each.to_dict() for name, each in adapters.items()}, sorted(in_use)]


def _plain(value: Any) -> Any:
    """For JSON, the same in every process; of configurations, what is of the model."""
    if isinstance(value, Mapping):
        return {str(k): _plain(each) for k, each in value.items() if k not in NOT_OF_A_MODEL}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
