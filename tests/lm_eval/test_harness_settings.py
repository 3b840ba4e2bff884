"""The harness' generation arguments are checked as settings are, under the harness' names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from blendin.lm_eval.harness import batch_settings, generation_settings

GIVEN: dict[str, Any] = {"until": ["\n\n"], "max_gen_toks": 16}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_gen_toks": 5.5}, r"^max_gen_toks is 5\.5"),
        ({"max_gen_toks": 0}, r"^max_gen_toks is 0"),
        ({"max_gen_toks": True}, r"^max_gen_toks is True"),
        ({"until": ["a", 5]}, r"^until is \['a', 5\]"),
        ({"do_sample": True, "temperature": -1}, r"^temperature is -1"),
        ({"do_sample": True, "temperature": "hot"}, r"^temperature is 'hot'"),
        ({"do_sample": True, "top_k": 2.5}, r"^top_k is 2\.5"),
        ({"do_sample": True, "top_k": -2}, r"^top_k is -2"),
        ({"do_sample": "maybe"}, r"^do_sample is 'maybe'"),
        ({"do_sample": True, "seed": 2**64}, r"^seed is 18446744073709551616; use an integer"),
    ],
)
def test_errors_name_the_harness_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generation_settings(GIVEN | given)


def test_values_are_plain() -> None:
    given = {"max_gen_toks": np.int64(8), "do_sample": True, "temperature": np.float32(0.5)}
    settings = generation_settings(GIVEN | given)
    assert settings["max_new_tokens"] == 8 and type(settings["max_new_tokens"]) is int
    assert type(settings["temperature"]) is float
    assert settings["stop"] == ("\n\n",)
    assert generation_settings(GIVEN | {"until": []})["stop"] == ()  # none, and not the default


def test_batch_sizes_are_checked_by_their_names() -> None:
    assert batch_settings("8", None, "100") == {"max_batch_size": 8, "max_cached_tokens": 100}
    for size in (0, "-1", 2.5, "many"):
        with pytest.raises(ValueError, match=r"^batch_size is"):
            batch_settings(size, None, None)
    with pytest.raises(ValueError, match=r"^max_cached_tokens is 0"):
        batch_settings("auto", None, 0)
