"""Of a checkpoint's generation settings the end tokens count; what else would, is named once."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from conftest import model
from transformers import GenerationConfig

from blendin import BlendInGenerator
from blendin.models.generation_config import (
    CHANGES_GREEDY_OUTPUT,
    CHANGES_NO_GREEDY_OUTPUT,
    unheeded,
)

ASKING: dict[str, Any] = {
    "repetition_penalty": 1.1,
    "encoder_repetition_penalty": 1.2,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 3,
    "sequence_bias": [[[5], -10.0]],
    "exponential_decay_length_penalty": (4, 1.5),
    "watermarking_config": {"bias": 2.5, "seeding_scheme": "selfhash"},
    "bad_words_ids": [[5]],
    "suppress_tokens": [0, 5],
    "begin_suppress_tokens": [5],
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 0,
    "remove_invalid_values": True,
    "min_length": 200,
    "min_new_tokens": 5,
    "stop_strings": ["\n\n"],
    "max_time": 0.5,
    "num_beams": 4,
    "num_beam_groups": 2,
    "constraints": ["x"],
    "force_words_ids": [[1]],
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "guidance_scale": 1.5,
    "token_healing": True,
    "cache_implementation": "quantized",
}

IDLE: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "remove_invalid_values": False,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": 0.0,
    "guidance_scale": 1.0,
    "token_healing": False,
    "cache_implementation": "static",
}


def config(**settings: Any) -> GenerationConfig:
    """With settings as a file may have them, whatever the class would refuse."""
    made = GenerationConfig()
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def warnings_of(settings: dict[str, Any], caplog: Any) -> list[str]:
    lm, tok = model("llama", "byte-level")
    lm = copy.deepcopy(lm)
    for name, value in settings.items():
        setattr(lm.generation_config, name, value)
    with caplog.at_level(logging.WARNING, "blendin"):
        BlendInGenerator((lm, tok), model("llama", "sentencepiece", 1))
    return [each.getMessage() for each in caplog.records if "generation_config" in each.message]


def test_every_field_of_the_installed_transformers_is_decided() -> None:
    fields = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert fields <= CHANGES_GREEDY_OUTPUT.keys() | CHANGES_NO_GREEDY_OUTPUT
    assert not CHANGES_GREEDY_OUTPUT.keys() & CHANGES_NO_GREEDY_OUTPUT
    assert ASKING.keys() == CHANGES_GREEDY_OUTPUT.keys()


@pytest.mark.parametrize("name", ASKING)
def test_what_changes_greedy_output_is_named_once_with_its_value(name: str, caplog: Any) -> None:
    (warning,) = warnings_of({name: ASKING[name]}, caplog)
    assert f"{name}={ASKING[name]!r}" in warning
    remedy = {
        "repetition_penalty": "pass repetition_penalty=1.1 to generate",
        "stop_strings": r"pass stop=['\n\n'] to generate",
    }.get(name, f"no such setting here: {name}")
    assert remedy in warning


def test_several_are_one_warning(caplog: Any) -> None:
    settings = {"repetition_penalty": 1.05, "suppress_tokens": list(range(500)), "top_p": 0.8}
    (warning,) = warnings_of(settings, caplog)
    assert "repetition_penalty=1.05, suppress_tokens=[0, 1," in warning
    assert "top_p" not in warning and len(warning) < 400


@pytest.mark.parametrize("name", IDLE)
def test_a_setting_at_its_neutral_value_asks_for_nothing(name: str) -> None:
    assert unheeded(config(**{name: IDLE[name]})) == {}


def test_sampling_and_the_like_is_not_warned_of(caplog: Any) -> None:
    settings = {name: 3 for name in CHANGES_NO_GREEDY_OUTPUT if not name.endswith("token_id")}
    assert warnings_of(settings, caplog) == []
    assert unheeded(None) == {}
    assert unheeded(config(chat_format="chatml", max_window_size=6144)) == {}  # Qwen's own


def test_a_field_of_a_later_transformers_is_named_too(monkeypatch: Any) -> None:
    before = GenerationConfig.__init__

    def later(self: Any, **kwargs: Any) -> None:
        before(self, **kwargs)
        self.mirostat = None

    monkeypatch.setattr(GenerationConfig, "__init__", later)
    assert unheeded(config(mirostat=2)) == {"mirostat": 2}
    assert unheeded(config()) == {}


CHANGE = ("repetition_penalty", "suppress_tokens", "no_repeat_ngram_size", "bad_words_ids")


@pytest.mark.parametrize("name", CHANGE)
def test_greedy_output_is_the_same_with_and_without(name: str) -> None:
    lm, tok = model("llama", "byte-level")
    guide = model("llama", "sentencepiece", 1)
    plain = BlendInGenerator((lm, tok), guide).generate("The fox", max_new_tokens=12)
    asking = copy.deepcopy(lm)
    asking.generation_config = copy.deepcopy(lm.generation_config)
    setattr(asking.generation_config, name, ASKING[name])
    out = BlendInGenerator((asking, tok), guide).generate("The fox", max_new_tokens=12)
    assert out.token_ids == plain.token_ids
    assert torch.equal(lm.lm_head.weight, asking.lm_head.weight)
