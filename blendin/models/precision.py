"""In what numbers a model keeps its weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn


def precision_of(model: Any) -> str:
    """The dtype that a model computes in, and how its weights are packed where they are.

    For example "bfloat16", "bfloat16, weights in bitsandbytes 4 bits" or "float32, weights in
    torch.ao qint8".
    """
    dtype = next((each.dtype for each in model.parameters() if each.is_floating_point()), None)
    if dtype is None:
        dtype = getattr(model.config, "dtype", None) or torch.get_default_dtype()
    computed = str(dtype).removeprefix("torch.")
    packed = quantization_of(model)
    return computed if packed is None else f"{computed}, weights in {packed}"


def quantization_of(model: Any) -> str | None:
    """How a model's weights are packed; None where they are not."""
    declared, found = _declared(model.config), _found(model)
    if declared == "gguf" and found is None:  # transformers has unpacked it
        return None
    return declared or found


def _declared(config: Any) -> str | None:
    """What the configuration says of a quantization."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    values = settings if isinstance(settings, dict) else settings.to_dict()
    if values.get("dequantize"):
        return None
    method = values.get("quant_method") or type(settings).__name__
    method = str(getattr(method, "value", method))
    bits = values.get("bits") or values.get("nbits")
    if values.get("load_in_4bit") or values.get("_load_in_4bit"):
        bits = 4
    elif values.get("load_in_8bit") or values.get("_load_in_8bit"):
        bits = 8
    if bits is not None:
        return f"{method} {bits} bits"
    kind = values.get("quant_type") or values.get("weights") or values.get("format")
    if isinstance(kind, dict):  # torchao writes {"default": {"_type": "Int8WeightOnlyConfig", ...}}
        kind = next((each["_type"] for each in kind.values() if "_type" in each), None)
    return method if kind is None else f"{method} {kind}"


def _found(model: nn.Module) -> str | None:
    """What the modules and weights themselves say, of a model that was quantized in place."""
    kinds: Counter[str] = Counter()
    for module in model.modules():
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            weight = getattr(module, "weight", None)
            if callable(weight):
                kinds[f"torch.ao {str(weight().dtype).removeprefix('torch.')}"] += 1
    for weight in model.parameters():
        family = type(weight).__module__.partition(".")[0]
        if family not in ("torch", "builtins"):
            kinds[f"{family} {type(weight).__name__}"] += 1
        elif not weight.is_floating_point():
            kinds[str(weight.dtype).removeprefix("torch.")] += 1
    return kinds.most_common(1)[0][0] if kinds else None
