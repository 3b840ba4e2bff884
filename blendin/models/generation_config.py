"""What a checkpoint's own generation settings ask for beyond end tokens, which is not done.

By docs/contract.md the end tokens of `generation_config` count. Sampling settings (`temperature`,
`top_p` ...) change nothing that is greedy; what does, is named in one warning at loading.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig

logger = logging.getLogger("blendin")


def _is_set(value: Any) -> bool:
    return bool(value)


def _above_zero(value: Any) -> bool:
    return value is not None and value > 0


def _above_one(value: Any) -> bool:
    return value is not None and value > 1


def _is_no_neutral_factor(value: Any) -> bool:
    return value is not None and value != 1


def _is_given(value: Any) -> bool:
    return value is not None


def _is_lossy(value: Any) -> bool:
    return value == "quantized"


CHANGES_GREEDY_OUTPUT: Mapping[str, Callable[[Any], bool]] = {
    # penalties and biases
    "repetition_penalty": _is_no_neutral_factor,
    "encoder_repetition_penalty": _is_no_neutral_factor,
    "no_repeat_ngram_size": _above_zero,
    "encoder_no_repeat_ngram_size": _above_zero,
    "sequence_bias": _is_set,
    "exponential_decay_length_penalty": _is_set,
    "watermarking_config": _is_set,
    # banned, suppressed and forced tokens
    "bad_words_ids": _is_set,
    "suppress_tokens": _is_set,
    "begin_suppress_tokens": _is_set,
    "forced_bos_token_id": _is_given,
    "forced_eos_token_id": _is_given,
    "remove_invalid_values": _is_set,
    # when a text may end
    "min_length": _above_zero,
    "min_new_tokens": _above_zero,
    "stop_strings": _is_set,
    "max_time": _is_given,
    # another search, another distribution, another prompt
    "num_beams": _above_one,
    "num_beam_groups": _above_one,
    "constraints": _is_set,
    "force_words_ids": _is_set,
    "penalty_alpha": _above_zero,
    "dola_layers": _is_set,
    "guidance_scale": _is_no_neutral_factor,
    "token_healing": _is_set,
    "cache_implementation": _is_lossy,
}
"""Settings that change greedy output, and at which values."""

CHANGES_NO_GREEDY_OUTPUT = frozenset(
    {
        # sampling
        *("do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"),
        *("epsilon_cutoff", "eta_cutoff", "renormalize_logits"),
        # the caller's own `max_new_tokens` counts
        *("max_length", "max_new_tokens"),
        # of beams, which `num_beams` stands for
        *("early_stopping", "length_penalty", "diversity_penalty"),
        # what is returned
        *("num_return_sequences", "output_attentions", "output_hidden_states", "output_scores"),
        *("output_logits", "return_dict_in_generate"),
        # tokens: the end tokens count, the others stand in the prompt
        *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
        # speed and memory
        *("use_cache", "cache_config", "max_cache_len", "low_memory", "prefill_chunk_size"),
        *("compile_config", "disable_compile", "continuous_batching_config", "use_mtp"),
        # drafts, verified without loss; the ensemble is of an assistant, which none is here
        *("is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind"),
        *("assistant_ensemble_weight", "target_lookbehind", "speculation_type"),
        *("prompt_lookup_num_tokens", "max_matching_ngram_size"),
        # about the file
        "transformers_version",
    }
)

ASKED_FOR_BY: Mapping[str, Callable[[Any], str]] = {
    "repetition_penalty": lambda value: f"repetition_penalty={value!r}",
    "stop_strings": lambda value: f"stop={[value] if isinstance(value, str) else list(value)!r}",
}
"""How `generate` is asked for a setting; of the others blendin has none."""

LONGEST_VALUE = 60


def unheeded(config: Any) -> dict[str, Any]:
    """The settings of a `GenerationConfig` that `generate` would follow and blendin does not.

    Args:
        config: None for a model that has none.

    Returns:
        Their values by name. A setting of a later transformers, of which this does not know what
        it does, counts too.
    """
    if config is None:
        return {}
    defaults, found = vars(GenerationConfig()), {}
    for name, value in vars(config).items():
        if name.startswith("_") or name in CHANGES_NO_GREEDY_OUTPUT:
            continue
        if name in CHANGES_GREEDY_OUTPUT:
            matters = CHANGES_GREEDY_OUTPUT[name](value)
        else:
            matters = name in defaults and value != defaults[name]
        if matters:
            found[name] = value
    return found


def warn_of_unheeded(config: Any, name: str) -> None:
    """Logs one warning that names them, with their values and how to ask for them.

    Args:
        config: the model's `generation_config`.
        name: the model's.
    """
    settings = unheeded(config)
    if not settings:
        return
    asked = [ASKED_FOR_BY[each](value) for each, value in settings.items() if each in ASKED_FOR_BY]
    remedies = []
    if asked:
        remedies.append(f"for the like pass {', '.join(asked)} to generate")
    if rest := [each for each in settings if each not in ASKED_FOR_BY]:
        remedies.append(f"there is no such setting here: {', '.join(rest)}")
    logger.warning(
        "%s: its generation_config asks for %s, which blendin does not follow, though its own "
        "generate would; %s",
        name,
        ", ".join(f"{each}={_shortened(value)}" for each, value in settings.items()),
        "; ".join(remedies),
    )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
