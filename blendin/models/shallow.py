"""A model's first layers over the same weights: what a trial of its code needs of it.

Layers of one class with the same settings run the same code, so that a trial over the first of each
kind tells of all of them, in a fraction of a forward's time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from .devices import is_offloaded
from .precision import quantization_of

ROWS = 1024
"""Of the output embedding that are kept."""

SIMPLE = (bool, int, float, str, tuple, type(None))


def shallow(model: Any) -> tuple[PreTrainedModel, int] | None:
    """A model of the first layers, up to one of each kind, that shares weights and config.

    Returns:
        The model, whose output embedding is cut as well, and how many layers it has. None where it
        would save nothing or might tell another story: wrapped, compiled, hooked, offloaded or
        quantized models, and such as keep their layers otherwise.
    """
    if not isinstance(model, PreTrainedModel) or "forward" in vars(model):
        return None
    if (
        getattr(model, "_compiled_call_impl", None) is not None
        or quantization_of(model) is not None
    ):
        return None
    if is_offloaded(model) or any(is_hooked(module) for module in model.modules()):
        return None
    path = layers_of(model)
    head = model.get_output_embeddings()
    if path is None or type(head) is not nn.Linear or head.bias is not None:
        return None
    layers = model.get_submodule(path)
    count = _needed(list(layers))
    if 2 * count > len(layers) and head.out_features <= 2 * ROWS:
        return None
    cut = twin(model, without=layers[count:])
    kept = nn.ModuleList(list(cut.get_submodule(path))[:count])
    parent, _, name = path.rpartition(".")
    setattr(cut.get_submodule(parent), name, kept)
    rows = nn.Linear(head.in_features, min(ROWS, head.out_features), bias=False, device="meta")
    rows.weight = nn.Parameter(head.weight[: rows.out_features], requires_grad=False)
    cut.set_output_embeddings(rows)
    return cut, count


def twin(model: PreTrainedModel, without: Iterable[nn.Module] = ()) -> PreTrainedModel:
    """Modules of their own over a model's weights, buffers and configs.

    Args:
        model: which stays as it is.
        without: those of its modules in whose place there is None, and that are not even copied.
    """
    shared: dict[int, Any] = {id(each): each for each in (*model.parameters(), *model.buffers())}
    shared |= {id(each): each for each in _configs(model)}
    shared |= dict.fromkeys(id(each) for each in without)
    return copy.deepcopy(model, shared)


def layers_of(model: PreTrainedModel) -> str | None:
    """The path of the only list of layers that is as long as the config says."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    return found[0] if len(found) == 1 else None


def _needed(layers: list[nn.Module]) -> int:
    """How many of the first layers have one of each kind among them."""
    kinds = [_kind(layer) for layer in layers]
    return 1 + max(kinds.index(kind) for kind in set(kinds))


def _kind(layer: nn.Module) -> str:
    """What a layer's code depends on: classes, settings and shapes, but not its number."""
    return repr(
        [
            (
                name,
                type(module).__qualname__,
                sorted(
                    (key, value)
                    for key, value in vars(module).items()
                    if isinstance(value, SIMPLE) and key[0] != "_" and key != "layer_idx"
                ),
                [(key, tuple(each.shape)) for key, each in module.named_parameters(recurse=False)],
            )
            for name, module in layer.named_modules()
        ]
    )


def is_hooked(module: nn.Module) -> bool:
    """Whether something else than a module's own forward runs when it is called."""
    hooks = (module._forward_hooks, module._forward_pre_hooks)
    return any(hooks) or hasattr(module, "_hf_hook") or "forward" in vars(module)


def _configs(model: nn.Module) -> list[Any]:
    return [config for module in model.modules() if (config := getattr(module, "config", None))]
