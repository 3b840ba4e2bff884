"""What forwards cost here, and how often drafts are right: measured while decoding, to choose by.

A draft is read where it promises to save time by what was measured. Widths that were never measured
count as if every token cost a forward of its own; to learn better, a draft is tried now and then,
within a budget: what could be lost if all of its tokens were wrong, added to what was lost before,
stays below a small share of the time spent. So "auto" costs at most that share on any machine, also
where a forward over w tokens takes w times as long as one over a single token.
"""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, TypeVar, cast

from ..forks import Lock
from ..models.lookahead import MAX_DRAFT_TOKENS

WORTH = 1.03
"""Reading a draft must promise this speed-up at least."""

LOSS = 0.01
"""The share of the time spent that may be lost to drafts."""

OPENING = 1
"""Plain steps that may be lost beyond it at first, or short texts would never be sped up."""

CREDIT = 5
"""Gains of this many plain steps may be lost again, and no more."""

FADING = 0.99
"""The weight that time spent, lost and gained keeps with every step."""

FIRST_STEPS = 3
"""Plain steps that are timed before any draft."""

TRIALS = 3
"""Measurements of a width that are needed to give it up."""

Kind = str

Method = TypeVar("Method", bound=Callable[..., Any])


def locked(method: Method) -> Method:
    """Lets one thread at a time into an object's methods."""

    @functools.wraps(method)
    def entered(self: CostModel, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(Method, entered)


class CostModel:
    """The costs of one pair's forwards, and the acceptance of its drafts.

    Attributes:
        spent: seconds of steps that began with the target model; those long past fade.
        lost: seconds that plain steps for the same tokens would have saved; negative for a gain.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self.spent = self.lost = 0.0
        self._prompt = 0.0  # seconds for each token of a prompt, the fastest so far
        self._target: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=15))
        self._medians: dict[int, float] = {}
        self._guide: deque[float] = deque(maxlen=15)
        self._drafted: dict[Kind, list[float]] = defaultdict(lambda: [2.0] * MAX_DRAFT_TOKENS)
        self._accepted: dict[Kind, list[float]] = defaultdict(lambda: [1.0] * MAX_DRAFT_TOKENS)

    @locked
    def prompt_read(self, seconds: float, tokens: int) -> None:
        """A prompt's forward, which bounds from below what a further token can cost."""
        each = seconds / tokens
        self._prompt = min(self._prompt, each) if self._prompt else each

    @locked
    def target_read(self, seconds: float, tokens: int, drafted: int, drafting: float = 0.0) -> None:
        """The target model's part in a step.

        Args:
            seconds: of its forward and the decision.
            tokens: that were new to it; 0 where its prediction was cached.
            drafted: draft tokens read with them.
            drafting: seconds that finding a draft took.
        """
        self.spent = FADING * self.spent + seconds + drafting
        self.lost *= FADING
        if tokens:
            times = self._target[tokens + drafted]
            times.append(seconds)
            self._medians[tokens + drafted] = median(times)
            if len(times) == FIRST_STEPS and tokens + drafted == 1:
                self.lost -= OPENING * self._medians[1]
        if self.is_timed:
            extra = drafting
            if drafted or not tokens:
                extra += seconds - self.seconds(max(tokens, 1))
            self.lost = max(self.lost + extra, -CREDIT * self._medians[1])

    @locked
    def guide_read(self, seconds: float) -> None:
        """The guide's part in a step, over what it had missed."""
        self._guide.append(seconds)

    @locked
    def draft_judged(self, kind: Kind, accepted: int, judged: int) -> None:
        """Of the first `judged` tokens of a draft the text has `accepted`."""
        for place in range(judged):
            # Drafts of long ago count less: texts change.
            self._drafted[kind][place] = 0.98 * self._drafted[kind][place] + 1
            self._accepted[kind][place] = 0.98 * self._accepted[kind][place] + (place < accepted)

    @property
    def is_timed(self) -> bool:
        """Whether plain steps have been timed."""
        return len(self._target[1]) >= FIRST_STEPS

    @property
    def budget(self) -> float:
        """Seconds that may be lost to the next draft."""
        if not self.is_timed:
            return 0.0
        return LOSS * self.spent - self.lost

    @locked
    def length(self, kind: Kind, most: int, by_guide: bool = False) -> int:
        """How many tokens of a draft are worth reading; 0 for none.

        Args:
            kind: of the draft.
            most: tokens that there are.
            by_guide: each token costs a step of the guide.
        """
        budget = self.budget
        if budget <= 0 or (by_guide and not self._guide):
            return 0
        each = median(self._guide) if by_guide else 0.0
        plain = self._medians[1]
        best, chosen, tried, expected, chance = WORTH / plain, 0, 0, 1.0, 1.0
        for count in range(1, min(most, MAX_DRAFT_TOKENS) + 1):
            chance *= self._accepted[kind][count - 1] / self._drafted[kind][count - 1]
            expected += chance
            seconds = self.seconds(1 + count) + count * each
            if seconds - plain > budget * (1 + 1e-9):
                break
            if expected / seconds > best:
                best, chosen = expected / seconds, count
            hopeful = max(plain, (1 + count) * self._prompt) + count * each
            unsure = len(self._target.get(1 + count, ())) < TRIALS
            if unsure and expected * plain > WORTH * hopeful:
                tried = count
        return chosen or tried

    def seconds(self, width: int) -> float:
        """Of a target forward that reads `width` tokens, its decision included."""
        return seconds_of_width(self._medians, width)


def seconds_of_width(known: Mapping[int, float], width: int) -> float:
    """Seconds of a forward: measured, between two that were, or beyond all of them.

    The slope of what was measured is trusted as far as twice the widest; from there on every token
    counts as a forward of its own.

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
    slope = known[1] if below == 1 else max(0.0, (known[below] - known[1]) / (below - 1))
    near = min(width, 2 * below)
    return known[below] + slope * (near - below) + known[1] * (width - near)
