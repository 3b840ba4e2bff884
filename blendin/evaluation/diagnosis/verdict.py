"""Where an intervention rate stands against the paper's line, and what in the run affects it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from ...trace import RATE_LIMIT
from ..comparison import paired_difference
from ..records import Record
from ..statistics import Interval

CAUTION = (
    f"The {100 * RATE_LIMIT:.0f} % line is a tendency seen over the paper's 15 pairs, not a law: "
    "on GSM8K one of them at 23 % scored 0.54 and one at 13 % scored 0.12. The rate depends on the "
    "threshold τ, on the task and on where in the answer it is taken; compare it only where these "
    "are the same."
)
LEAST_ITEMS = 10
"""With fewer items there is no verdict; positions that fewer answers reach share a span."""
BEGINNING = 16
"""Steps that count as the beginning of an answer, to be compared with the rest."""
Word = Literal["below", "above", "undecided"]


class Verdict(NamedTuple):
    """Where the rate stands against `RATE_LIMIT`, judged by the whole interval.

    `items_needed` estimates how many items would decide, where these do not and an estimate is
    possible; `notes` say what else in this run affects the rate.
    """

    word: Word
    sentence: str
    items_needed: int | None
    notes: tuple[str, ...]


def judged(rate: Interval, items: int) -> Verdict:
    line = f"the {100 * RATE_LIMIT:.0f} % line"
    shown = f"Rate {rate:.3f}"
    if items < LEAST_ITEMS:
        sentence = (
            f"{shown}: undecided. {items} item{'s' * (items != 1)} cannot stand for others; use "
            f"100 or more, and at least {LEAST_ITEMS}."
        )
        return Verdict("undecided", sentence, None, ())
    if rate.high < RATE_LIMIT:
        sentence = (
            f"{shown}: below {line}. The rate gives no reason to expect this pair to fail on this "
            "task; whether it works only its scores can tell."
        )
        return Verdict("below", sentence, None, ())
    if rate.low > RATE_LIMIT:
        sentence = (
            f"{shown}: above {line}. In the paper pairs like this tended to fail; try another "
            "guide, and do not rely on this one before its scores say otherwise."
        )
        return Verdict("above", sentence, None, ())
    needed = _items_needed(rate, items)
    more = (
        f"If the rate stays where it is, about {needed:,} items would."
        if needed is not None
        else "It is so close to the line that more items will hardly help."
    )
    sentence = f"{shown}: undecided. {line.capitalize()} lies within; {items} items do not decide. "
    return Verdict("undecided", sentence + more, needed, ())


def _items_needed(rate: Interval, items: int) -> int | None:
    """How many would bring the bound to the line: an interval narrows as 1 / √n."""
    above = rate.estimate > RATE_LIMIT
    reach = rate.estimate - rate.low if above else rate.high - rate.estimate
    distance = abs(rate.estimate - RATE_LIMIT)
    if distance < 0.001:
        return None
    needed = max(items + 1, items * (reach / distance) ** 2)
    unit = int(10 ** max(0, math.floor(math.log10(needed)) - 1))
    return math.ceil(needed / unit) * unit


def notes_on(kept: list[Record], failed: int, withheld: int) -> Iterator[str]:
    if failed:
        yield f"Failed and left out: {failed} of {failed + len(kept)} items."
    if withheld:
        yield (
            f"At {withheld} steps the base was as unsure as where the guide was asked, and went on "
            "alone (a cap, or bytes that the guide lacks): without that the rate would be higher."
        )
    cut = sum(each.stop_reason == "length" for each in kept)
    if cut:
        yield f"{cut} of {len(kept)} answers were cut off at the length limit."
    long = [each.steps.intervened for each in kept if len(each.steps) > BEGINNING]
    if len(long) < LEAST_ITEMS:
        return
    early = [float(np.mean(flags[:BEGINNING])) for flags in long]
    late = [float(np.mean(flags[BEGINNING:])) for flags in long]
    difference = paired_difference(early, late)
    if difference.low > 0 or difference.high < 0:
        change = (
            f"{np.mean(early):.2f} in the first {BEGINNING} steps and {np.mean(late):.2f} after"
        )
        effect = "over" if difference.low > 0 else "under"
        more = f": cut off, they probably {effect}state the rate of whole answers" if cut else ""
        yield f"The rate changes within an answer, {change}{more}."
