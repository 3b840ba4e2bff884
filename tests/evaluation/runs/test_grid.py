"""A run's arms make a grid where they differ in τ and α alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blendin import Blend
from blendin.evaluation.runs.arms import arms, sweep
from blendin.evaluation.runs.grid import grid_of
from blendin.policy import Policy, described


def settings(policies: dict[str, Policy]) -> dict[str, dict[str, object]]:
    return {name: dict(described(policy)) for name, policy in policies.items()}


def test_a_sweep_is_a_grid_and_is_compared_with_its_defaults() -> None:
    swept = sweep([0.6, 0.2, 0.4], [1.0, None], top_k=50, unit="token")
    assert swept["t0.2-a1"] == Blend(threshold=0.2, top_k=50, alpha=1.0)
    grid = grid_of(settings(swept))
    assert grid is not None
    assert (grid.thresholds, grid.alphas) == ([0.2, 0.4, 0.6], [None, 1.0])
    assert grid.arms[0.6, None] == "t0.6-adaptive" and grid.reference == "t0.4-adaptive"
    assert len(grid.pairs) == 5 and all(other == grid.reference for _, other in grid.pairs)
    without = grid_of(settings(sweep([0.1, 0.2], [0.5, 0.7])))
    assert without is not None and without.reference == "t0.1-a0.5"


def test_an_unfinished_grid_is_one_and_other_arms_are_none() -> None:
    swept = settings(sweep([0.2, 0.4], [None, 0.5]))
    assert grid_of(dict(list(swept.items())[:3])) is not None
    assert grid_of(dict(list(swept.items())[:2])) is None
    assert grid_of(settings(arms())) is None
    assert grid_of(swept | settings(arms(("nudge",)))) is None
    assert grid_of(swept | settings(arms(("base", "guide")))) is not None
    other = settings({"x": replace(Blend(), threshold=0.9, top_k=3)})
    assert grid_of(swept | other) is None


def test_what_no_policy_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        sweep([40], [None])
