"""A sweep of τ and α: the arms of a run that differ in these two alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...policy import DEFAULT_THRESHOLD
from .arms import FEWEST_OF_A_SWEEP


class Grid(NamedTuple):
    """A sweep.

    Attributes:
        thresholds: τ, ascending.
        alphas: α, ascending, and first None where it adapts.
        arms: by τ and α; a sweep that is not finished may lack some.
        reference: the arm that the others are compared with: the defaults', or the first.
    """

    thresholds: list[float]
    alphas: list[float | None]
    arms: dict[tuple[float, float | None], str]
    reference: str

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each arm but the reference, with it."""
        return [(arm, self.reference) for arm in self.arms.values() if arm != self.reference]


def grid_of(arms: Mapping[str, Mapping[str, Any]]) -> Grid | None:
    """The grid that a run's arms make; None where they make none.

    Args:
        arms: settings by name, as a run's manifest has them.
    """
    blends = {name: own for name, own in arms.items() if own.get("name") == "Blend"}
    rests = [
        {key: value for key, value in own.items() if key not in ("threshold", "alpha")}
        for own in blends.values()
    ]
    others = [
        own for own in arms.values() if own.get("name") not in ("Blend", "BaseOnly", "GuideOnly")
    ]
    found: dict[tuple[float, float | None], str] = {
        (own["threshold"], own["alpha"]): name for name, own in blends.items()
    }
    is_one = not others and all(rest == rests[0] for rest in rests)
    if not is_one or len(found) < max(FEWEST_OF_A_SWEEP, len(blends)):
        return None
    alphas = {alpha for _, alpha in found}
    adaptive = [None] if None in alphas else []
    return Grid(
        sorted({threshold for threshold, _ in found}),
        [*adaptive, *sorted(alpha for alpha in alphas if alpha is not None)],
        found,
        found.get((DEFAULT_THRESHOLD, None), next(iter(found.values()))),
    )
