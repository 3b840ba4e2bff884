"""What transformers' `generate` is asked for, as settings of ours; what has no meaning is refused.

The `GenerationConfig` is the call's with the checkpoint's own beneath, as everywhere in
transformers: unlike in `BlendInGenerator` a checkpoint's temperature counts here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..models.generation_config import unheeded
from ..values import told

logger = logging.getLogger("blendin")

HONOURED = frozenset({"repetition_penalty", "max_time", "stop_strings"})
"""Of the settings that change greedy output; the latter two as criteria that transformers makes."""

CACHES = ("past_key_values", "cache", "cache_params")
"""What a call's cache is called, by the versions of transformers."""

WHY_NOT = {
    "num_beams": "a beam is searched in one model's probabilities",
    "output_scores": "a blend has no scores of the base's vocabulary; trace_top=n keeps the "
    "likeliest candidates of each step",
    "output_logits": "trace_top=n keeps the likeliest candidates of each step",
    "output_attentions": "they are not kept",
    "output_hidden_states": "they are not kept",
    "guidance_scale": "it is another way to blend",
    "logits_processor": "it would change the base's probabilities, by which is decided who speaks",
    "prefix_allowed_tokens_fn": "it would change the base's probabilities and not the guide's",
    "synced_gpus": "processes that share one model make unequal numbers of forwards here",
    "inputs_embeds": "pass input_ids: the trace tells the prompt",
    **dict.fromkeys(CACHES, "caches are blendin's own: pass all tokens as input_ids"),
}
OTHERWISE = "it has no part in a blend"

OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")

OF_DRAWS: Mapping[str, Collection[Any]] = {
    "top_h": (None,),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
}
"""Settings of sampling that there are not here, and the values at which they do nothing."""

OF_FORWARDS = frozenset(
    {"attention_mask", "position_ids", *CACHES, "token_type_ids", "cache_position"}
    | {"logits_to_keep", "num_logits_to_keep", "use_cache", "output_attentions"}
    | {"output_hidden_states", "return_dict"}
)
"""What transformers adds to every call, or `checked_model_kwargs` looks at."""

MADE_FROM: Mapping[type, tuple[str, str]] = {
    RepetitionPenaltyLogitsProcessor: ("penalty", "repetition_penalty"),
    TemperatureLogitsWarper: ("temperature", "temperature"),
    TopKLogitsWarper: ("top_k", "top_k"),
    TopPLogitsWarper: ("top_p", "top_p"),
    MinPLogitsWarper: ("min_p", "min_p"),
}
"""The processors that transformers makes of settings that count here: attribute and setting."""


def refuse(name: str, value: Any, advice: str = "leave it out") -> ValueError:
    """The error for something that cannot be done."""
    return ValueError(f"{name}={told(value)}: {WHY_NOT.get(name, OTHERWISE)}; {advice}")


def sampling_settings(config: GenerationConfig, own: GenerationConfig | None) -> dict[str, Any]:
    """What `BlendInGenerator.generate` is told of a `GenerationConfig`.

    Args:
        config: as transformers has prepared it, the checkpoint's own settings in it.
        own: the checkpoint's.

    Raises:
        ValueError: for what would change the output and cannot be done, by name.
    """
    asked = {name: value for name, value in unheeded(config).items() if name not in HONOURED}
    if "min_new_tokens" in asked:  # from which transformers has made the other
        asked.pop("min_length", None)
    asked |= {name: True for name in OUTPUTS if getattr(config, name, None)}
    if config.do_sample:
        values = {name: getattr(config, name, None) for name in OF_DRAWS}
        asked |= {name: value for name, value in values.items() if value not in OF_DRAWS[name]}
    for name, value in asked.items():
        advice = "leave it out"
        if own is not None and getattr(own, name, None) == value:
            advice = f"set model.generation_config.{name} = None"
        raise refuse(name, value, advice)
    settings: dict[str, Any] = {"repetition_penalty": config.repetition_penalty or 1.0}
    if config.do_sample:
        settings["do_sample"] = True
        if config.temperature is not None:
            settings["temperature"] = config.temperature
        if config.top_p is not None:
            settings["top_p"] = config.top_p
        if config.min_p is not None:
            settings["min_p"] = config.min_p
        if config.top_k:
            settings["sampling_top_k"] = config.top_k
    return settings


def refuse_caches(given: Mapping[str, Any]) -> None:
    """Refuses a caller's cache, which nothing here would read or fill.

    Raises:
        ValueError: there is one.
    """
    for name in CACHES:
        if given.get(name) is not None:
            raise refuse(name, given[name])


def refuse_processors(processors: Sequence[Any], config: GenerationConfig) -> None:
    """Refuses logits processors, but for those that transformers makes of settings that count.

    Raises:
        ValueError: naming the first.
    """
    for each in processors:
        kind = type(each).__name__
        if kind == "PrefixConstrainedLogitsProcessor":
            raise refuse("prefix_allowed_tokens_fn", each)
        attribute, setting = MADE_FROM.get(type(each), ("", ""))
        if not attribute or getattr(each, attribute, None) != getattr(config, setting, None):
            raise ValueError(f"logits_processor has a {kind}: {WHY_NOT['logits_processor']}")


def checked_model_kwargs(given: Mapping[str, Any], input_ids: Tensor) -> Tensor:
    """Looks through what is meant for the model's forward.

    Args:
        given: by name; what transformers adds to every call among it.
        input_ids: `[B, L]`.

    Returns:
        `[B, L]` bool, which tokens are read: False is padding.

    Raises:
        ValueError: for what has no part in the decoding here, or padding that is not on the left.
    """
    for name, value in given.items():
        if name not in OF_FORWARDS and value is not None:
            raise refuse(name, value)
    if not input_ids.shape[1]:
        raise refuse("inputs_embeds", given.get("inputs_embeds"))
    if (types := given.get("token_type_ids")) is not None and bool(torch.as_tensor(types).any()):
        raise refuse("token_type_ids", types)
    mask = given.get("attention_mask")
    is_read = torch.ones_like(input_ids) if mask is None else torch.as_tensor(mask)
    is_read = left_padded("attention_mask", is_read, input_ids)
    positions = given.get("position_ids")
    if positions is not None:
        usual = (is_read.long().cumsum(-1) - 1).clamp(min=0)
        if positions.shape[-1] != usual.shape[1] or bool(
            ((positions.to(usual.device) != usual) & is_read).any()
        ):
            raise refuse("position_ids", positions)
    return is_read


def left_padded(name: str, mask: Tensor, ids: Tensor) -> Tensor:
    """An attention mask, `[B, L]` bool, all of whose padding is on the left.

    Raises:
        ValueError: it is of another shape, or some padding is elsewhere.
    """
    if mask.shape != ids.shape:
        raise ValueError(
            f"{name} is of shape {tuple(mask.shape)} and the tokens of {tuple(ids.shape)}: give "
            "one value for each"
        )
    is_read = mask.to(ids.device) != 0
    gaps = (is_read[:, :-1] & ~is_read[:, 1:]).any(dim=1)
    if bool(gaps.any()):
        raise ValueError(
            f"{name} of row {int(gaps.nonzero()[0])} has zeros after its first one: pad on the "
            'left (tokenizer.padding_side = "left")'
        )
    return is_read


def say_which_ends(config: GenerationConfig, own: GenerationConfig | None, ends: set[int]) -> None:
    """Warns of end tokens that `eos_token_id` leaves out and that end a text all the same."""
    asked = config.eos_token_id
    if asked is None or asked == getattr(own, "eos_token_id", None):
        return
    left_out = ends - set(torch.as_tensor(asked).flatten().tolist())
    if left_out:
        logger.warning(
            "eos_token_id=%s leaves out %s, which end a blend's texts too: the tokenizer, its chat "
            "template or the checkpoint have them as end tokens",
            asked,
            ", ".join(map(str, sorted(left_out))),
        )
