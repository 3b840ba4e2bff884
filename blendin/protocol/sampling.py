"""How long a text may be, and how its tokens are taken: greedily where no draw is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..values import Flag, Integer, Real
from .errors import refused

LIMITS = ("max_completion_tokens", "max_tokens")

COMPLETION_TOKENS = 16
"""The default of OpenAI's completions."""

RANGES = ("repetition_penalty_range", "repeat_last_n")

CHAT_TOKENS = 1024
"""That of chats, unless the server has another."""


def read_limit(given: Mapping[str, Any]) -> Any:
    """The limit that a request names; None where it names none.

    Raises:
        ApiError: it names two.
    """
    limits = [given[name] for name in LIMITS if given.get(name) is not None]
    if limits[1:] and limits[0] != limits[1]:
        raise refused(f"{' and '.join(LIMITS)} differ: give one of them", "max_tokens")
    return limits[0] if limits else None


def read_sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `Sampling`, but for `do_sample`.

    The temperature is 0 where nothing asks for a draw, unlike OpenAI's: neither itself nor
    `top_p`, `min_p`, `top_k`, `seed` or `n` above 1.

    Raises:
        ApiError: do_sample says one thing and temperature another.
        ValueError: for a value of the wrong type.
    """
    top_k, top_p = given.get("top_k"), given.get("top_p")
    top_k = None if top_k in (0, -1) and not isinstance(top_k, bool) else top_k
    top_p = 1.0 if top_p is None else top_p
    min_p = 0.0 if given.get("min_p") is None else given["min_p"]
    seed, n = given.get("seed"), given.get("n")
    acting = top_p != 1 or min_p != 0 or top_k is not None
    is_drawn = n not in (None, 1) or acting or seed is not None
    temperature = given.get("temperature")
    is_told = temperature is not None
    temperature = Real(0)("temperature", temperature if is_told else float(is_drawn))
    if Flag()("do_sample", True if (flag := given.get("do_sample")) is None else flag) is False:
        if is_told and temperature:
            raise refused("do_sample is false and temperature is not 0: give one", "do_sample")
        temperature = 0.0
    return {
        "temperature": temperature,
        "top_p": top_p,
        "min_p": min_p,
        "sampling_top_k": top_k,
        **_read_penalty(given),
        "seed": seed,
    }


def _read_penalty(given: Mapping[str, Any]) -> dict[str, Any]:
    """The repetition penalty, and what of a text it looks at.

    Raises:
        ApiError: two fields say how much that is, and not the same.
        ValueError: for a value of the wrong type.
    """
    penalty, counts_lines = given.get("repetition_penalty"), given.get("penalize_nl")
    told = {name: given[name] for name in RANGES if given.get(name) is not None}
    ranges = {name: Integer(-1)(name, value) for name, value in told.items()}
    # 0 is all of the text to one of them, and nothing of it to the other.
    if ranges.get("repetition_penalty_range") == 0:
        ranges["repetition_penalty_range"] = -1
    if len(set(ranges.values())) > 1:
        raise refused(f"{' and '.join(RANGES)} differ: give one of them", "repeat_last_n")
    length = next(iter(ranges.values()), -1)
    return {
        "repetition_penalty": 1.0 if penalty is None or length == 0 else penalty,
        "repetition_penalty_range": None if length in (-1, 0) else length,
        "penalize_nl": True if counts_lines is None else counts_lines,
    }
