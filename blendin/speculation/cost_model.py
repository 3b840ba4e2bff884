"""What steps cost here and how often guesses are right: measured while decoding, to choose by."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from statistics import median

from ..models.lookahead import MOST

WORTH = 1.03
"""Reading ahead must promise to be so many times as fast as not to."""

LOSS = 0.02
"""Of the time spent, what may be lost to guesses that turned out badly."""

FADING = 0.99
"""Of what was spent and lost, so much still counts a step later."""

CREDIT = 5
"""Gains of so many plain steps may be lost again, and no more."""

FIRST_TRIES = 3
"""Plain steps that are timed before any guess."""

Kind = str


class Pace:
    """The costs of one pair's steps, and its guesses' luck.

    Attributes:
        spent: seconds of base steps, those long past faded.
        lost: of those, what plain steps for the same tokens would have saved; negative for a gain.
    """

    def __init__(self) -> None:
        self.spent = self.lost = 0.0
        self._base: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=15))
        self._guide: deque[float] = deque(maxlen=15)
        self._tried: dict[Kind, list[float]] = defaultdict(lambda: [2.0] * MOST)
        self._right: dict[Kind, list[float]] = defaultdict(lambda: [1.0] * MOST)

    def base_took(self, seconds: float, read: int, tokens: int) -> None:
        """The base part of a step: `read` tokens in one forward (0: recalled), `tokens` emitted."""
        self.spent = FADING * self.spent + seconds
        self.lost *= FADING
        if read:
            self._base[read].append(seconds)
        if len(self._base[1]) >= FIRST_TRIES:
            plain = median(self._base[1])
            self.lost = max(self.lost + seconds - plain * tokens, -CREDIT * plain)

    def guide_took(self, seconds: float) -> None:
        """A forward of the guide over one token."""
        self._guide.append(seconds)

    def guess_was(self, kind: Kind, right: int, known: int) -> None:
        """The first `right` tokens of a guess came; of `known` tokens it is known."""
        for place in range(known):
            # Older luck counts less: texts change.
            self._tried[kind][place] = 0.98 * self._tried[kind][place] + 1
            self._right[kind][place] = 0.98 * self._right[kind][place] + (place < right)

    def length(self, kind: Kind, most: int, guide_steps: bool = False) -> int:
        """How many tokens of a guess are worth reading; 0 for none.

        Args:
            kind: of the guess.
            most: tokens that there are.
            guide_steps: whether each costs a step of the guide.
        """
        if len(self._base[1]) < FIRST_TRIES or self.lost > LOSS * self.spent:
            return 0
        each = median(self._guide) if guide_steps and self._guide else 0.0
        if guide_steps and not each:
            return 0
        known = {width: median(times) for width, times in self._base.items()}
        best, chosen, expected, chance = WORTH / known[1], 0, 1.0, 1.0
        for count in range(1, min(most, MOST) + 1):
            chance *= self._right[kind][count - 1] / self._tried[kind][count - 1]
            expected += chance
            speed = expected / (cost(known, 1 + count) + count * each)
            if speed > best:
                best, chosen = speed, count
        return chosen


def cost(known: Mapping[int, float], width: int) -> float:
    """Seconds of a base step that reads so many tokens, as measured or between what was.

    Args:
        known: seconds by width, that of 1 among them.
        width: in tokens.
    """
    if width in known:
        return known[width]
    below = max(w for w in known if w < width)
    above = min((w for w in known if w > width), default=None)
    if above is not None:
        share = (width - below) / (above - below)
        return known[below] + share * (known[above] - known[below])
    if below == 1:  # nothing wider is known yet: a guess at this too
        return known[1] * (1 + 0.1 * (width - 1))
    slope = max(0.0, (known[below] - known[1]) / (below - 1))
    return known[below] + slope * (width - below)
