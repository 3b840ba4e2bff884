"""How long a text may be, and how its tokens are taken: greedily where no draw is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..values import Flag, Real
from .errors import refused

LIMITS = ("max_completion_tokens", "max_tokens")

COMPLETION_TOKENS = 16
"""The default of OpenAI's completions."""

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
    """`temperature`, `top_p`, `sampling_top_k`, `repetition_penalty` and `seed`, as settings.

    The temperature is 0 where nothing asks for a draw, unlike OpenAI's: neither itself nor
    `top_p`, `top_k`, `seed` or `n` above 1.

    Raises:
        ApiError: do_sample says one thing and temperature another.
        ValueError: for a value of the wrong type.
    """
    top_k, top_p = given.get("top_k"), given.get("top_p")
    top_k = None if top_k in (0, -1) and not isinstance(top_k, bool) else top_k
    top_p = 1.0 if top_p is None else top_p
    seed, n = given.get("seed"), given.get("n")
    is_drawn = n not in (None, 1) or top_p != 1 or top_k is not None or seed is not None
    temperature = given.get("temperature")
    is_told = temperature is not None
    temperature = Real(0)("temperature", temperature if is_told else float(is_drawn))
    if Flag()("do_sample", True if (flag := given.get("do_sample")) is None else flag) is False:
        if is_told and temperature:
            raise refused("do_sample is false and temperature is not 0: give one", "do_sample")
        temperature = 0.0
    penalty = given.get("repetition_penalty")
    return {
        "temperature": temperature,
        "top_p": top_p,
        "sampling_top_k": top_k,
        "repetition_penalty": 1.0 if penalty is None else penalty,
        "seed": seed,
    }
