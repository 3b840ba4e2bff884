"""How often the intervals of `blendin.evaluation` hold the truth, by simulation.

Items are drawn from populations whose true value is known; beside each interval stands the
percentile bootstrap's over the same items. A second table has what is claimed wrongly where there
is nothing to claim: verdicts on a rate that is exactly at the 20 % line, and differences between
arms, or guides, that are alike. docs/statistics.md shows both.

    python benchmarks/coverage.py [--draws 2000] [--out coverage.png]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.random import Generator
from rich.console import Console
from rich.progress import Progress

from blendin.evaluation.comparison import (
    SIGNIFICANCE,
    Comparison,
    conclusions,
    paired_difference,
)
from blendin.evaluation.diagnosis.verdict import judged
from blendin.evaluation.runs.results import markdown
from blendin.evaluation.statistics import (
    Interval,
    mean,
    mean_of_rates,
    pearson,
    pooled_rate,
    wilson,
)
from blendin.trace import RATE_LIMIT

ITEMS = (5, 10, 30, 100)
RESAMPLES = 1000
LENGTH = 100  # steps of an answer, on average
ICC = (0.02, 0.1, 0.2)  # how alike the steps of an answer are
ARMS, GUIDES = 4, 4

Sample = tuple[Any, ...]
Population = Callable[[Generator, int], Sample]


class Statistic(NamedTuple):
    """An interval, the populations to draw `n` items from with their true values, and the items'
    sums and totals for the bootstrap, where it was used."""

    interval: Callable[..., Interval]
    populations: Sequence[tuple[Population, float]]
    ratio: Callable[..., tuple[Any, Any]] | None = None


class Coverage(NamedTuple):
    """Shares of the samples whose interval holds the truth, [populations]."""

    ours: np.ndarray
    bootstrap: np.ndarray | None


def answers(rate: float, icc: float, lengths: str) -> tuple[Population, float]:
    """Interventions and steps of answers whose own rates are beta distributed."""
    alike = 1 / icc - 1

    def draw(rng: Generator, n: int) -> Sample:
        own = rng.beta(rate * alike, (1 - rate) * alike, size=n)
        expected = LENGTH * (1 - own) / (1 - rate) if lengths == "shorter with a rate" else LENGTH
        steps = (
            np.full(n, LENGTH)
            if lengths == "the same"
            else rng.geometric(1 / np.maximum(1, np.broadcast_to(expected, n)))
        )
        return rng.binomial(steps, own), steps

    # E(r (1 − r)) / E(1 − r) where an answer's length goes with 1 − r.
    return draw, rate * (1 - icc) if lengths == "shorter with a rate" else rate


def shares(a: float, b: float) -> tuple[Population, float]:
    return lambda rng, n: (rng.beta(a, b, size=n),), a / (a + b)


def outcomes(both: float, a_only: float, b_only: float) -> tuple[Population, float]:
    """Two arms' outcomes 0 or 1 on the same items."""

    def draw(rng: Generator, n: int) -> Sample:
        kinds = rng.choice(4, size=n, p=[both, a_only, b_only, 1 - both - a_only - b_only])
        return np.isin(kinds, (0, 1)).astype(float), np.isin(kinds, (0, 2)).astype(float)

    return draw, a_only - b_only


def scores(changed: float, better: float) -> tuple[Population, float]:
    """Two arms' scores in 0..1; a share of the items is scored anew, with another mean."""

    def draw(rng: Generator, n: int) -> Sample:
        a = rng.beta(0.5, 0.5, size=n)
        return np.where(rng.random(n) < changed, rng.beta(better, 1 - better, size=n), a), a

    return draw, changed * (better - 0.5)


def refusals(safe: float, unsafe: float) -> tuple[Population, float]:
    """Of n safe and n unsafe prompts, those that are answered as they should be."""
    return lambda rng, n: (n, *rng.binomial(n, (safe, unsafe))), (safe + unsafe) / 2


def pairs(r: float) -> tuple[Population, float]:
    cov = [[1, r], [r, 1]]
    return lambda rng, n: tuple(rng.multivariate_normal([0, 0], cov, size=n).T), r


STATISTICS = {
    "pooled rate": Statistic(
        pooled_rate,
        [
            answers(*each)
            for each in product(
                (0.05, 0.1, 0.2, 0.4), ICC, ("any", "the same", "shorter with a rate")
            )
        ],
        ratio=lambda counts, totals: (counts, totals),
    ),
    "mean of scores in 0..1": Statistic(
        mean,
        [shares(0.5, 0.7), shares(2, 6), shares(1, 1), shares(0.3, 3)],
        ratio=lambda values: (values, np.ones_like(values)),
    ),
    "difference of outcomes 0 or 1": Statistic(
        paired_difference,
        [
            outcomes(*each)
            for each in (
                (0.3, 0.1, 0.1),
                (0.1, 0.02, 0.02),
                (0.4, 0.3, 0.1),
                (0.05, 0.05, 0),
                (0.8, 0.15, 0.03),
                (0, 0.5, 0.2),
            )
        ],
        ratio=lambda a, b: (a - b, np.ones_like(a)),
    ),
    "difference of scores in 0..1": Statistic(
        paired_difference,
        [scores(1, 0.5), scores(1, 0.8), scores(0.4, 0.8), scores(0.2, 0.5)],
        ratio=lambda a, b: (a - b, np.ones_like(a)),
    ),
    "balanced score": Statistic(
        lambda n, safe, unsafe: mean_of_rates(wilson(int(safe), n), wilson(int(unsafe), n)),
        [refusals(0.9, 0.8), refusals(0.5, 0.97), refusals(0.3, 0.6)],
    ),
    "Pearson's r": Statistic(pearson, [pairs(0), pairs(-0.6), pairs(0.9)]),
}


def coverage(statistic: Statistic, n: int, draws: int, seed: int = 0) -> Coverage:
    """Of `draws` samples of n items from each population."""
    rng = np.random.default_rng([seed, n])
    weights = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    ours, bootstrap = [], []
    for draw, truth in statistic.populations:
        samples = [draw(rng, n) for _ in range(draws)]
        found = [statistic.interval(*sample) for sample in samples]
        ours.append(np.mean([each.low <= truth <= each.high for each in found]))
        if statistic.ratio is not None:
            sums, totals = np.stack([statistic.ratio(*s) for s in samples]).transpose(1, 2, 0)
            low, high = np.quantile(weights @ sums / (weights @ totals), [0.025, 0.975], axis=0)
            bootstrap.append(np.mean((low <= truth) & (truth <= high)))
    return Coverage(np.array(ours), np.array(bootstrap) if bootstrap else None)


def verdict_errors(n: int, draws: int, rng: Generator) -> float:
    """Of answers whose true rate is at the line, how often they are said to be on a side of it;
    the worst of the populations. A rate on one side is said to be on the other less often."""
    worst = 0.0
    for icc, lengths in product(ICC, ("any", "the same")):
        draw, _ = answers(RATE_LIMIT, icc, lengths)
        words = [judged(pooled_rate(*draw(rng, n)), n).word for _ in range(draws)]
        worst = max(worst, float(np.mean([word != "undecided" for word in words])))
    return worst


def false_findings(n: int, draws: int, rng: Generator) -> tuple[float, float]:
    """How often any two of `ARMS` arms, alike, are told apart: corrected, and each alone."""
    together, alone = 0, 0
    for _ in range(draws):
        own = rng.beta(1, 1, size=n)  # items are easy or hard for every arm
        arms = (rng.random((ARMS, n)) < own).astype(float)
        compared = [Comparison("a", arms[i], "b", arms[j]) for i in range(ARMS) for j in range(i)]
        together += any("scores higher" in told for told in conclusions(compared))
        alone += any("scores higher" in conclusions([each])[0] for each in compared)
    return together / draws, alone / draws


def false_gaps(n: int, draws: int, rng: Generator) -> float:
    """How often `rank` would settle any gap between `GUIDES` guides that are alike."""
    settled = 0
    for _ in range(draws):
        own = rng.beta(2, 8, size=n)
        rates = rng.binomial(LENGTH, rng.beta(20 * own, 20 * (1 - own), (GUIDES, n))) / LENGTH
        ordered = sorted(rates, key=np.mean)
        settled += any(
            paired_difference(worse, better, 1 - SIGNIFICANCE / (GUIDES - 1)).low > 0
            for better, worse in pairwise(ordered)
        )
    return settled / draws


def main(
    draws: Annotated[int, typer.Option(help="Samples of each population.", min=100)] = 2000,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="A picture of the first table.")] = None,
) -> None:
    """Print both tables in Markdown."""
    with Progress(console=Console(stderr=True)) as progress:
        at = progress.add_task("simulating", total=(len(STATISTICS) + 3) * len(ITEMS))

        def each(work: Callable[[int], Any]) -> Iterator[Any]:
            for n in ITEMS:
                yield work(n)
                progress.advance(at)

        found = {
            name: list(each(lambda n, s=statistic: coverage(s, n, draws, seed)))
            for name, statistic in STATISTICS.items()
        }
        rng = np.random.default_rng(seed)
        few = max(100, draws // 4)
        verdicts = list(each(lambda n: verdict_errors(n, draws, rng)))
        findings = list(each(lambda n: false_findings(n, few, rng)))
        gaps = list(each(lambda n: false_gaps(n, few, rng)))
    print(markdown((["95 % intervals hold the truth", *map(_items, ITEMS)], [*_rows(found)])))
    rows = [
        ["a verdict at a true rate of 20 %", *(f"{v:.3f}" for v in verdicts)],
        [f"any finding between {ARMS} equal arms", *(f"{f[0]:.3f}" for f in findings)],
        ["the same, uncorrected", *(f"{f[1]:.3f}" for f in findings)],
        [f"any gap settled between {GUIDES} equal guides", *(f"{g:.3f}" for g in gaps)],
    ]
    print(markdown((["wrong claims", *map(_items, ITEMS)], rows)))
    if out is not None:
        draw_coverage(found, out)


def _items(n: int) -> str:
    return f"{n} items"


def _rows(found: dict[str, list[Coverage]]) -> Iterator[list[str]]:
    for name, by_items in found.items():
        yield [name, *(_cell(each.ours) for each in by_items)]
        if by_items[0].bootstrap is not None:
            yield ["– by the bootstrap", *(_cell(each.bootstrap) for each in by_items)]


def _cell(shares: Any) -> str:
    return f"{shares.mean():.3f} ({shares.min():.3f})"


def draw_coverage(found: dict[str, list[Coverage]], path: Path) -> None:
    """Coverage over the number of items; bars reach down to the worst population."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for axes, (name, by_items) in zip(panels, found.items(), strict=True):
        for label, column, shift in (("interval", 0, 0.97), ("bootstrap", 1, 1.03)):
            if by_items[0][column] is None:
                continue
            values = np.array([each[column] for each in by_items])
            middle = values.mean(axis=1)
            below = [middle - values.min(axis=1), 0 * middle]
            axes.errorbar(
                shift * np.array(ITEMS), middle, below, marker="o", capsize=3, label=label
            )
        axes.axhline(0.95, color="gray", linewidth=1, linestyle="--")
        axes.set(title=name, xscale="log", xticks=ITEMS, xticklabels=ITEMS)
        axes.minorticks_off()
    figure.supxlabel("items")
    figure.supylabel("share of 95 % intervals that hold the truth")
    next(iter(figure.axes)).legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)
