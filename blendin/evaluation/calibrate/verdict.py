"""What a study says in words: the headline first, and what it alone would hide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...trace import RATE_LIMIT
from ..statistics import Interval
from .comparison import Compared, sentences
from .fitted import RAW, WHOLE, Fitted


def verdict(
    fitted: Fitted,
    rows: Sequence[Compared],
    rivals: Mapping[str, Compared],
    matched: Sequence[Compared],
    prompts: int,
    raw_rate: float,
) -> list[str]:
    """Sentences.

    Args:
        fitted: what was fitted.
        rows: the arms against the raw blend.
        rivals: α and τ together against what is simpler, by its name.
        matched: the arms at the raw blend's rate against it.
        prompts: how many were held back.
        raw_rate: the raw blend's intervention rate.
    """
    by_name = {each.name: each for each in rows}
    whole = by_name[WHOLE]
    headline = {
        "better": "Calibrated beats raw on such answers",
        "worse": "Calibrated is worse than raw on such answers",
        "untold": "Calibrated is not told apart from raw",
        "same": "Calibrated is the same as raw",
    }[whole.verdict]
    found = [f"{headline} ({whole.difference:+z.4f} nats a token)."]
    for role in ("base", "guide"):
        found.append(_temperature_sentence(role, fitted.temperatures[role]))
    # What the first sentence alone would hide: what is simpler, and what asking more often does.
    for name, each in rivals.items():
        found += sentences([each], name, prompts)
    rates = f"It asks the guide at {whole.rate:.0%} of the tokens, raw at {raw_rate:.0%}"
    if whole.rate > RATE_LIMIT:
        rates += f" (pairs above {RATE_LIMIT:.0%} tend not to work; --rate chooses τ by it)"
    found.append(rates + ". At raw's own rate:")
    found += sentences([each for each in matched if each.name == "calibrated α"], RAW, prompts)
    return found + sentences(rows, RAW, prompts)


def _temperature_sentence(role: str, fitted: Interval) -> str:
    numbers = f"T = {format(fitted, '.2f')}"
    if fitted.low > 1:
        return f"The {role} is surer than it is right ({numbers})."
    if fitted.high < 1:
        return f"The {role} is less sure than it is right ({numbers})."
    return f"That the {role} is miscalibrated is not shown ({numbers})."
