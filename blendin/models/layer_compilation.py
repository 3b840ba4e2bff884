"""Of which models the layers are compiled: those whose forwards are captured as CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..values import shown
from .devices import input_device
from .loader import Location
from .local import LanguageModel
from .source import Source


def check_captures(found: Iterable[tuple[Source | Location, Any]]) -> None:
    """Checks before anything is loaded that some model may run where forwards are captured.

    Args:
        found: of each model what `locate` gave, and the device_map that it is loaded with.

    Raises:
        ValueError: none does.
    """
    if not any(_may_capture(*each) for each in found):
        raise _nothing_to_compile()


def compile_layers(models: Iterable[Any]) -> None:
    """Compiles the layers of those models whose forwards are captured.

    Raises:
        ValueError: there is none.
    """
    captured = [each for each in models if isinstance(each, LanguageModel) and each.captures]
    if not captured:
        raise _nothing_to_compile()
    for each in captured:
        each.compile_layers()


def _may_capture(found: Source | Location, device_map: Any) -> bool:
    if isinstance(found, Location):  # without a map transformers loads to the default device
        placed = device_map is not None or torch.get_default_device().type == "cuda"
        return placed and torch.cuda.is_available()
    if isinstance(found.model, LanguageModel):
        return found.model.captures
    return isinstance(found.model, torch.nn.Module) and input_device(found.model).type == "cuda"


def _nothing_to_compile() -> ValueError:
    return ValueError(
        f"{shown('compile_layers')} is for forwards that are captured as CUDA graphs, and neither "
        f"model's are: load them to a CUDA device with {shown('device_map')} cuda, or leave it out"
    )
