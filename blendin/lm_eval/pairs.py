"""A pair of `blendin.toml` among the harness' model_args: `pair=NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..configuration import named_pair
from ..models import default_pair
from ..models.remote.address import is_url
from ..models.remote.credentials import options_of

DEFAULTS = {"base": default_pair.DEFAULT_BASE, "guide": default_pair.DEFAULT_GUIDE}


def pair_arguments(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Which pair, and how it is loaded, as `BlendInGenerator` takes it.

    Args:
        name: a named pair; None for none.
        given: the arguments beside it (`base`, `guide`, `dtype`, `device_map`, `compile_layers`);
            None where they are not given.

    Returns:
        `base`, `guide`, `base_kwargs` and `guide_kwargs`, and what is known of `dtype`,
        `device_map` and `compile_layers`.

    Raises:
        ValueError: as `configuration.named_pair`; an argument beside the pair says otherwise than
            it, or would have no effect.
        OSError: the file of pairs cannot be read.
    """
    beside = {key: value for key, value in given.items() if value is not None}
    settings = {} if name is None else named_pair(name)
    if stray := [key for key in beside if key in settings]:
        raise ValueError(
            f"pair={name} has its own {stray[0]} in blendin.toml, and {stray[0]}= is given beside "
            "it: leave one of both out"
        )
    chosen: dict[str, Any] = DEFAULTS | settings | beside
    top = chosen.pop("top_logprobs", None)
    for role in DEFAULTS:
        tokenizer, header, verify = (
            chosen.pop(f"{role}_{key}", None) for key in ("tokenizer", "header", "verify")
        )
        source = chosen[role]
        served = isinstance(source, str) and is_url(source)
        options = {"tokenizer": tokenizer, "top_logprobs": top if served else None}
        options |= options_of(role, [source] if isinstance(source, str) else [], header, verify)
        chosen[f"{role}_kwargs"] = {key: each for key, each in options.items() if each is not None}
    return chosen
