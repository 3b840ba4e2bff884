"""Where a model runs, which is not always where its weights lie.

accelerate keeps weights on the meta device, in memory or on disk, and brings them in for each
forward; packed weights are no tensors that could be asked; a model may be spread over devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def input_device(model: Any) -> torch.device:
    """Where the token ids of a transformers model's forward belong.

    Args:
        model: plain, wrapped (PEFT, torch.compile) or with accelerate's hooks.
    """
    return _device_of(_embeddings(model, "input"), model) or _main_device(model)


def output_device(model: Any) -> torch.device:
    """Where the logits of a transformers model's forward are, its ids being on `input_device`."""
    if any(getattr(hook, "io_same_device", False) for hook in _hooks(model)):
        return input_device(model)
    return _device_of(_embeddings(model, "output"), model) or _main_device(model)


def run_devices(model: Any) -> set[torch.device]:
    """Every device that some part of a model runs on."""
    modules: list[Any] = list(model.modules())
    hooked = {device for each in modules if (device := _execution_device(each)) is not None}
    plain = {tensor.device for tensor in _tensors(model) if tensor.device.type != "meta"}
    return hooked | (set() if is_offloaded(model) else plain)


def is_offloaded(model: Any) -> bool:
    """Whether weights are brought to where they run for each forward, by accelerate's hooks."""
    return any(
        getattr(hook, "offload", False) or hasattr(hook, "prev_module_hook")
        for each in model.modules()
        for hook in _hooks(each)
    )


def _device_of(module: Any, model: Any) -> torch.device | None:
    """Where a module of a model runs; None where nothing says so."""
    if module is None:
        return None
    for part in (module, getattr(module, "base_layer", None)):  # PEFT's layer around a hooked one
        if part is not None and (device := _execution_device(part)) is not None:
            return device
    stored = _stored_on(module)
    if stored is not None and not _hooks(model):
        return stored
    # A hook further up moves the weights of all that is below it. One that only takes care of
    # inputs and outputs does not.
    moved = (
        device
        for each in _ancestors(module, model)
        if not any(getattr(hook, "io_same_device", False) for hook in _hooks(each))
        and (device := _execution_device(each)) is not None
    )
    return next(moved, stored)


def _stored_on(module: Any) -> torch.device | None:
    """Where a module's weights lie; None where they are brought in from elsewhere."""
    weight = getattr(module, "weight", None)
    if callable(weight) and not isinstance(weight, Tensor):  # packed: torch.ao's unpacks it
        weight = weight()
    own = [weight] if isinstance(weight, Tensor) else []
    for tensor in chain(own, _tensors(module)):
        if tensor.device.type != "meta":
            return tensor.device
    return None


def _main_device(model: Any) -> torch.device:
    """Where a model runs whose embeddings do not say it."""
    if (device := _execution_device(model)) is not None:
        return device
    for place in (getattr(model, "hf_device_map", None) or {}).values():
        if place != "disk":
            return torch.device(place)
    if (stored := _stored_on(model)) is not None:
        return stored
    hooked = (_execution_device(each) for each in model.modules())
    return next((device for device in hooked if device is not None), torch.device("cpu"))


def _embeddings(model: Any, kind: str) -> Any:
    try:
        return getattr(model, f"get_{kind}_embeddings")()
    except (AttributeError, NotImplementedError):
        return None


def _ancestors(module: Any, model: Any) -> Iterator[Any]:
    """The modules around one of a model's, the innermost first."""
    path = next((name for name, each in model.named_modules() if each is module), "")
    while path:
        path = path.rpartition(".")[0]
        yield model.get_submodule(path)


def _hooks(module: Any) -> list[Any]:
    """accelerate's hooks on a module, chained ones apart."""
    hook = getattr(module, "_hf_hook", None)
    return [] if hook is None else list(getattr(hook, "hooks", None) or [hook])


def _execution_device(module: Any) -> torch.device | None:
    """The device that accelerate's hooks run a module on, if they say one."""
    for hook in reversed(_hooks(module)):
        device = getattr(hook, "execution_device", None)
        if device is not None and torch.device(device).type != "meta":
            return torch.device(device)
    return None


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short; a capture that fails for it ends with an error of its own."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device; the host does not wait, as it would for memory that may move."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetched(tensor: Tensor) -> Tensor:
    """A tensor on the host, which waits for it once."""
    if not tensor.is_cuda:
        return tensor.cpu()
    here = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return here
