"""Several guides of one base, ranked by how rarely they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from ..comparison import SIGNIFICANCE, paired_difference
from ..records import plain
from ..statistics import Interval
from .verdict import LEAST_ITEMS

if TYPE_CHECKING:
    from .diagnosis import Diagnosis


class Gap(NamedTuple):
    """Two guides that follow each other in a ranking.

    `difference` is the worse one's rate minus the better one's, a mean over the items that both
    answered; its interval allows for there being several gaps. `settled`: it lies above 0.
    """

    better: str
    worse: str
    items: int
    difference: Interval
    settled: bool
    sentence: str


class Ranking(NamedTuple):
    """Guides by their rate, the lowest first; `order` are places in the list that was ranked."""

    order: tuple[int, ...]
    guides: tuple[str, ...]
    gaps: tuple[Gap, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(plain(self))


def rank(diagnoses: Sequence[Diagnosis]) -> Ranking:
    """Guides of one base on one set of items, the lowest rate first, and where that is settled.

    The order is by the rate over all steps, a gap by the mean of the items' own rates, which weighs
    long answers no more than short ones: where the two disagree the gap is not settled.

    Raises:
        ValueError: fewer than two, other bases or tasks, or neighbours with fewer than two items
            in common.
    """
    if len(diagnoses) < 2:
        raise ValueError("one guide has no rank: give two or more")
    if len({(each.base, each.task) for each in diagnoses}) > 1:
        raise ValueError("guides are ranked on one base and one task: diagnose them on the same")
    order = sorted(range(len(diagnoses)), key=lambda place: diagnoses[place].rate.estimate)
    confidence = 1 - SIGNIFICANCE / (len(diagnoses) - 1)  # Bonferroni's, over the gaps
    ranked = [diagnoses[place] for place in order]
    gaps = tuple(_gap(better, worse, confidence) for better, worse in pairwise(ranked))
    return Ranking(tuple(order), tuple(each.guide for each in ranked), gaps)


def _gap(better: Diagnosis, worse: Diagnosis, confidence: float) -> Gap:
    common = [id for id in better.item_rates if id in worse.item_rates]
    if len(common) < 2:
        raise ValueError(
            f"{better.guide} and {worse.guide} have {len(common)} items in common: run them on the "
            "same, 2 or more"
        )
    difference = paired_difference(
        [worse.item_rates[id] for id in common],
        [better.item_rates[id] for id in common],
        confidence,
    )
    settled = difference.low > 0 and len(common) >= LEAST_ITEMS
    measured = f"difference {difference:+z.3f} over {len(common)} items"
    sentence = (
        f"{better.guide} intervenes less than {worse.guide}: {measured}."
        if settled
        else f"The order of {better.guide} and {worse.guide} is not settled: {measured}."
    )
    return Gap(better.guide, worse.guide, len(common), difference, settled, sentence)
