"""The fields of OpenAI's requests, of its own and of those that other servers add."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..spelling import did_you_mean
from ..values import told
from .errors import refused

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

COMMON: Mapping[str, str] = {
    "model": "The pair's name, or `NAME:POLICY` (`pair:nudge`, `pair:base`, `pair:guide`, ...).",
    "stream": "Server-sent events, one as text becomes certain; `[DONE]` ends them.",
    "stream_options": "`include_usage`: a last event has the usage.",
    "max_tokens": "Steps at most: 16 of completions, as OpenAI's, and the server's of chats.",
    "temperature": "0 is greedy. **Greedy is the default**, unlike OpenAI's, for a request that "
    "asks for no draw; with any of top_p, top_k, seed or n > 1 it is 1.",
    "do_sample": "false is temperature 0.",
    "top_p": "Of the distribution that is drawn from; the gate and α never see it.",
    "top_k": "Likewise; -1 or 0 is none. (The policy's own `top_k` stands in `blendin`.)",
    "min_p": "Likewise, as transformers' setting.",
    "repetition_penalty": "As transformers' setting.",
    "repetition_penalty_range": "How many of the last tokens the penalty looks at; 0 is all. "
    "`repeat_last_n` says the same (-1 is all, 0 no penalty).",
    "repeat_last_n": "As llama.cpp's setting.",
    "penalize_nl": "false: the penalty does not count line feeds.",
    "seed": "The i-th choice draws with seed + i; `blendin.seed` of an answer repeats it.",
    "stop": "A text or several; of chats `\\nQuestion:` where none is given, `[]` is none.",
    "n": "Texts for each prompt.",
    "blendin": "`policy` and its settings (`threshold`, `agreement_bonus`, `top_k`, `alpha`, "
    "`rule`, `max_rate`, `grace_steps`), `trace` (true: every step; a number: with as many "
    "candidates), what the guide reads instead (`guide_prompt`, `guide_prompt_ids`, `messages`) "
    "and `chat_template_kwargs`. false: the base alone.",
    "chat_template_kwargs": "Settings for the guide's chat template.",
}
CHAT_FIELDS: Mapping[str, str] = {
    "messages": "system, then user and assistant in turns; a last message of the assistant is "
    "continued.",
    **COMMON,
    "max_completion_tokens": "As max_tokens.",
    "logprobs": "Whether each token comes with its log-probability, in the distribution that was "
    "emitted from.",
    "top_logprobs": "How many alternatives.",
    "add_generation_prompt": "Only as it is: true unless the last message is the assistant's.",
    "continue_final_message": "Likewise the opposite.",
}
COMPLETION_FIELDS: Mapping[str, str] = {
    "prompt": "What the base reads: a text, texts, token ids, or lists of them. The guide reads "
    "the text as a user's turn, unless `blendin` says what it reads.",
    **COMMON,
    "echo": "The prompt before the text; with logprobs of `NAME:base` alone.",
    "logprobs": "How many alternatives of each token.",
}

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": (),
    "top_a": (0,),
    "typical_p": (0, 1),
    "typical": (0, 1),
    "tfs": (0, 1),
    "tfs_z": (0, 1),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "dynatemp_range": (0,),
    "dynamic_temperature": (),
    "smoothing_factor": (0,),
    "xtc_probability": (0,),
    "dry_multiplier": (0,),
    "penalty_alpha": (0,),
    "guidance_scale": (0, 1),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (0, 1),
    "repeat_penalty": (0, 1),
    "length_penalty": (0, 1),
    "num_beams": (0, 1),
    "temperature_last": (),
    "sampler_priority": (),
    "sampler_order": (),
    "samplers": (),
    "return_token_ids": (),
    "n": (1,),
    "best_of": (1,),
    "suffix": (),
    "use_beam_search": (),
    "min_tokens": (0,),
    "min_length": (0,),
    "ignore_eos": (),
    "ban_eos_token": (),
    "bad_words": (),
    "banned_tokens": (),
    "stop_token_ids": (),
    "allowed_token_ids": (),
    "logits_processors": (),
    "prompt_logprobs": (),
    "truncate_prompt_tokens": (),
    "skip_special_tokens": (True,),
    "add_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_stop_str_in_output": (),
    "tools": (),
    "functions": (),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "grammar": (),
    "grammar_string": (),
    "json_schema": (),
    "negative_prompt": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "reasoning": (),
    "verbosity": ("medium",),
    "web_search_options": (),
    "chat_template": (),
    "documents": (),
}
"""What there is no such thing for, and the values at which it would change nothing; besides these
null, false and whatever is empty do not, but for what is true of itself."""

IDLE = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention "
    "priority request_id cache_prompt cache_salt parallel_tool_calls "
    "mirostat_tau mirostat_eta dry_base dry_allowed_length dry_sequence_breakers "
    "dry_penalty_last_n xtc_threshold dynatemp_low dynatemp_high dynatemp_exponent "
    "smoothing_curve truncation_length early_stopping".split()
)
"""What changes no text: of accounts and caches, or about something that is off."""


ECHOED = (
    "echo with logprobs: a prompt's log-probabilities are the base's own, for nothing of it was "
    "emitted; leave one out, or ask {}:base"
)
"""Why a blended text has none, of a server's name."""


def check(body: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields that say something, null ones left out.

    Raises:
        ApiError: for a field that would change the answer and cannot.
    """
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name in known or name in IDLE:
            continue
        if name not in NEUTRAL:
            raise refused(
                f"{name} is no field of this request: leave it out{did_you_mean(name, known)}",
                name,
            )
        if not changes_nothing(name, value):
            raise refused(f"{name} is {told(value)}, which blendin has not: leave it out", name)
    return {name: value for name, value in given.items() if name in known}


def changes_nothing(name: str, value: Any) -> bool:
    """Whether a field of `NEUTRAL`, or one that is unknown there, is as if it were left out."""
    neutral = NEUTRAL.get(name, ())
    if not (neutral and neutral[0] is True):
        neutral = (*neutral, False, "", [], {})
    return value is None or any(_same(value, each) for each in neutral)


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def schema(fields: Mapping[str, str], required: str) -> dict[str, Any]:
    """The fields for the API's documentation."""
    properties = {name: {"description": text} for name, text in fields.items()}
    content = {"schema": {"type": "object", "required": [required], "properties": properties}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}
