"""Weights that cannot be used in torch's inference mode, in which everything here runs."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .devices import input_device
from .precision import quantization_of

_tracked: MutableMapping[Any, bool] = WeakKeyDictionary()


@contextmanager
def forward_mode(model: Any) -> Iterator[None]:
    """The mode for a forward of a model: no gradients, and where it must be, version counters."""
    if not needs_version_counters(model):
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def needs_version_counters(model: Any) -> bool:
    """Whether packed weights have operations that inference mode forbids (quanto's int4).

    They are tried once a model.
    """
    if model not in _tracked:
        _tracked[model] = quantization_of(model) is not None and _fails_in_inference_mode(model)
    return _tracked[model]


@torch.inference_mode()
def _fails_in_inference_mode(model: Any) -> bool:
    try:
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=input_device(model)))
    except RuntimeError as error:
        return "inference tensor" in str(error).lower()
    return False
