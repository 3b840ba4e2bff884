"""Both ways in which transformers' `generate` hands a call over: to a callable, or to a folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, StoppingCriteriaList
from transformers.generation import StopStringCriteria

from ..engine.request import requests
from ..forks import settle
from ..models.loader import ModelSource
from ..policy import Blend, Policy, as_policy
from ..trace import Generation
from ..values import told
from .decoding import decode
from .dropped import dropped
from .output import BlendInOutput
from .pairs import evaluating, pair_of
from .prompts import base_prompts, guide_prompts
from .settings import (
    checked_model_kwargs,
    refuse,
    refuse_caches,
    refuse_processors,
    sampling_settings,
    say_which_ends,
)

ALIASES = {
    "assistant_model": "guide",
    "assistant_tokenizer": "guide_tokenizer",
    "tokenizer": "base_tokenizer",
}
"""Names that people know from assisted decoding."""


def generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    guide: ModelSource | None = None,
    guide_tokenizer: Any = None,
    base_tokenizer: Any = None,
    messages: Any = None,
    guide_input_ids: Any = None,
    guide_attention_mask: Any = None,
    policy: Policy | str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    speculate: Any = "auto",
    trace_top: int = 0,
    streamer: Any = None,
    **model_kwargs: Any,
) -> Tensor | BlendInOutput:
    """The decoding loop for `base.generate(**inputs, custom_generate=blendin.hf.generate, ...)`.

    transformers calls it with the arguments up to `generation_config`, prepared; the others are
    passed to `base.generate` by name.

    Args:
        model: the base.
        input_ids: `[B, L]`, its prompts, padded on the left.
        logits_processor: as transformers makes it of the settings; others are refused.
        stopping_criteria: asked after each token, about `[B, L]` tokens, with scores None.
        generation_config: `max_new_tokens`, `max_length`, `max_time`, `do_sample`, `temperature`,
            `top_k`, `top_p`, `min_p`, `repetition_penalty`, `eos_token_id` (further tokens that
            end a text), `pad_token_id`, `num_return_sequences` and `return_dict_in_generate`
            count; what else would change the output is refused by name.
        guide: the aligned model, or whatever `BlendInGenerator` takes; `assistant_model` is
            another name of it. May be left out where the policy asks none.
        guide_tokenizer: the guide's; `assistant_tokenizer` is another name of it.
        base_tokenizer: the base's; `tokenizer` is another name of it. By default the one that the
            model's `name_or_path` names.
        messages: what the guide reads: chat messages or a text for its chat template; a list of
            such with one for each row.
        guide_input_ids: or its whole prompts as tokens, `[B, L]`.
        guide_attention_mask: `[B, L]`, where these are padded (on the left).
        policy: a policy or its name; `Blend()` where None.
        chat_template_kwargs: what the guide's chat template can be told besides.
        speculate: as `BlendInGenerator.stream` has it.
        trace_top: likewise.
        streamer: gets each token by `put`, and `end` however the call ends.
        **model_kwargs: `attention_mask`, and what transformers adds to every call.

    Returns:
        `[B, L]` int64 in the base's vocabulary, prompts included; with `return_dict_in_generate` a
        `BlendInOutput`.

    Raises:
        ValueError: for what cannot be done, by name, before anything is decoded.
        Interrupted: at Ctrl-C; it has a `Generation` for each row as its `outputs`, as every other
            error of the decoding has.
    """
    given = {
        "guide": guide,
        "guide_tokenizer": guide_tokenizer,
        "base_tokenizer": base_tokenizer,
        "streamer": streamer,
    }
    called = dropped(model)
    streamer = called.get("streamer", streamer)
    try:
        refuse_caches(called)
        found = _renamed(called | {k: v for k, v in given.items() if v is not None})
        return _decoded(
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            messages=messages,
            guide_input_ids=guide_input_ids,
            guide_attention_mask=guide_attention_mask,
            policy=policy,
            chat_template_kwargs=chat_template_kwargs,
            speculate=speculate,
            trace_top=trace_top,
            **found,
            **model_kwargs,
        )
    finally:
        if streamer is not None:
            streamer.end()


OURS = frozenset(
    {"guide", "guide_tokenizer", "base_tokenizer", "messages", "guide_input_ids"}
    | {"guide_attention_mask", "policy", "chat_template_kwargs", "speculate", "trace_top"}
)


def custom_generate(model: Any, **arguments: Any) -> Tensor | BlendInOutput:
    """What `custom_generate/generate.py` calls, with all arguments of `model.generate` as they are.

    Input preparation is transformers' own: it is asked once more, for a callable.

    Args:
        model: the base.
        **arguments: as `generate` of transformers and `generate` here take them; `tokenizer`,
            `assistant_model` and `assistant_tokenizer` are further names. `stop_strings` end a
            text after them, as in transformers.

    Raises:
        ValueError: as `generate`.
    """
    streamer = arguments.get("streamer")
    try:
        refuse_caches(arguments)
        ours = _renamed({name: value for name, value in arguments.items() if value is not None})
        bound = {name: ours[name] for name in OURS if name in ours}
        rest = {k: v for k, v in arguments.items() if k not in OURS and k not in ALIASES}
        if rest.pop("synced_gpus", None):
            raise refuse("synced_gpus", True)
        rest = _with_stop_strings(model, rest, bound.get("base_tokenizer"))
        decoding = partial(_decoded, streamer=streamer, **bound)
        # Not model.generate: a repository with weights and this folder makes that this function.
        return GenerationMixin.generate(model, **rest, custom_generate=decoding)
    finally:
        if streamer is not None:
            streamer.end()


def _decoded(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: GenerationConfig | None,
    *,
    guide: Any = None,
    guide_tokenizer: Any = None,
    base_tokenizer: Any = None,
    messages: Any = None,
    guide_input_ids: Any = None,
    guide_attention_mask: Any = None,
    policy: Policy | str | None = None,
    chat_template_kwargs: Any = None,
    speculate: Any = "auto",
    trace_top: int = 0,
    streamer: Any = None,
    synced_gpus: Any = None,
    **model_kwargs: Any,
) -> Tensor | BlendInOutput:
    settle()
    config = generation_config or copy.deepcopy(model.generation_config)
    if synced_gpus:
        raise refuse("synced_gpus", synced_gpus)
    settings = sampling_settings(config, model.generation_config)
    refuse_processors(logits_processor or (), config)
    is_read = checked_model_kwargs(model_kwargs, input_ids)
    chosen = Blend() if policy is None else as_policy(policy)
    if guide is None and chosen.reads_guide:
        raise ValueError("there is no guide: pass guide=, a model, with guide_tokenizer=")
    with evaluating(model):
        gen = pair_of(model, base_tokenizer, guide, guide_tokenizer)
        if not (chosen.reads_base or gen.pair.alignment.same):
            raise ValueError(
                f"policy={told(policy)} writes the guide's tokens, which are no tokens of the "
                "base: call the guide's own generate"
            )
        ends = set(gen.base.end_ids)
        say_which_ends(config, model.generation_config, ends)
        count, copies = len(input_ids), config.num_return_sequences or 1
        guides = guide_prompts(
            count,
            copies,
            gen.guide,
            messages=messages,
            guide_input_ids=guide_input_ids,
            guide_attention_mask=guide_attention_mask,
        )
        if chosen.reads_guide and guides["prompt"] is guides["guide_prompt"]:
            raise ValueError(
                "the guide has nothing to read: pass messages= for its chat template, or "
                "guide_input_ids="
            )
        most = _room(config, input_ids)
        rows = requests(
            guides["prompt"],
            base_prompts(input_ids, is_read, gen.base.tokenizer),
            guides["guide_prompt"],
            default_policy=chosen,
            max_new_tokens=most,
            stop=(),
            chat_template_kwargs=chat_template_kwargs,
            speculate=speculate,
            trace_top=trace_top,
            **settings,
        )
        sequences = [row.read(gen.pair) for row in rows]
        tokens, trace = decode(
            gen.pair,
            sequences,
            input_ids,
            pad_id=_pad_id(config, ends),
            max_new_tokens=most,
            criteria=stopping_criteria or StoppingCriteriaList(),
            streamer=streamer,
        )
    return _output(tokens, trace) if config.return_dict_in_generate else tokens


def _output(tokens: Tensor, trace: list[Generation]) -> BlendInOutput:
    rates = torch.tensor([each.intervention_rate for each in trace])
    return BlendInOutput(sequences=tokens, intervention_rate=rates, trace=tuple(trace))  # type: ignore[arg-type]


def _room(config: GenerationConfig, input_ids: Tensor) -> int:
    """How many tokens a row may gain; 20 by default, as everywhere in transformers."""
    if config.max_new_tokens is not None:
        return int(config.max_new_tokens)
    return 20 if config.max_length is None else int(config.max_length) - input_ids.shape[1]


def _pad_id(config: GenerationConfig, ends: set[int]) -> int:
    return int(min(ends) if config.pad_token_id is None else config.pad_token_id)


def _renamed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by their names here.

    Raises:
        ValueError: one is given under both of its names.
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        own = ALIASES.get(name, name)
        if own in found and found[own] is not value:
            other = next(alias for alias, meant in ALIASES.items() if meant == own)
            raise ValueError(f"{other} is another name of {own}: give one of them")
        found[own] = value
    return found


def _with_stop_strings(model: Any, arguments: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """With `stop_strings` as a criterion: transformers would ask a callable's call for a tokenizer
    that it has just dropped.

    Raises:
        ValueError: there is no tokenizer to read them with.
    """
    given = arguments.get("generation_config") or model.generation_config
    texts = arguments.get("stop_strings", getattr(given, "stop_strings", None))
    if texts is None:
        texts = getattr(model.generation_config, "stop_strings", None)
    if texts is None:
        return arguments
    if tokenizer is None or isinstance(tokenizer, str):
        raise ValueError(f"stop_strings={told(texts)}: pass tokenizer=, the base's, to read them")
    criteria = StoppingCriteriaList(arguments.get("stopping_criteria") or ())
    criteria.append(StopStringCriteria(stop_strings=texts, tokenizer=tokenizer))
    return arguments | {"stop_strings": None, "stopping_criteria": criteria}
