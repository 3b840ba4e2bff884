"""`blendin calibrate` finds what is miscalibrated, and nothing where there is nothing."""

from __future__ import annotations

import math
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from blendin import Blend, Calibration
from blendin.decision.symbols import SymbolTables
from blendin.evaluation.calibrate.arms import FLOOR, outcome
from blendin.evaluation.calibrate.collect import _table
from blendin.evaluation.calibrate.comparison import compare
from blendin.evaluation.calibrate.curves import HIGHEST, LOWEST, curve, log_total
from blendin.evaluation.calibrate.fits import (
    best_threshold,
    conformal_threshold,
    temperature,
    threshold_of_rate,
    unlabelled_temperature,
)
from blendin.evaluation.calibrate.fitted import RAW, WHOLE, Wanted, fit
from blendin.evaluation.calibrate.metrics import (
    clustered_mean,
    equal_mass_ece,
    reliability,
    smooth_ece,
)
from blendin.evaluation.calibrate.positions import Positions

RELPLOT = {1.0: 0.021758, 1.5: 0.099640, 3.0: 0.251045}
"""Exponents of p by which tokens are right, and the smooth ECE that relplot finds."""

WORDS = 40
"""Of the simulated vocabulary; the last is the end token."""

everything = torch.ones(WORDS, dtype=torch.bool)
everything[-1] = False
tables = SymbolTables(
    torch.tensor([WORDS - 1]),
    torch.tensor([WORDS - 1]),
    everything,
    everything,
    torch.arange(WORDS),
)
PAIR: Any = SimpleNamespace(tables=tables, device=torch.device("cpu"))


def simulated(
    seed: int,
    prompts: int = 60,
    length: int = 40,
    base_factor: float = 1.0,
    guide_factor: float = 1.0,
    tokens_of: str = "base",
) -> Positions:
    """Prompts whose given tokens are drawn from a model, or from the raw blend of both.

    Args:
        seed: of all of it.
        prompts, length: how many, and tokens of each.
        base_factor, guide_factor: what each model's logits are multiplied by, after the draw.
        tokens_of: "base", "guide" (in turn "both": half from each), or "blend".
    """
    generator = torch.Generator().manual_seed(seed)
    count = prompts * length
    shape = (count, WORDS)
    sharpness = 0.5 + 3 * torch.rand(count, 1, generator=generator)
    common = torch.randn(shape, generator=generator)
    base, guide = (
        sharpness * (common + 0.7 * torch.randn(shape, generator=generator)) for _ in range(2)
    )
    for logits in (base, guide):
        logits[:, -1] = -12
    p_base, p_guide = torch.softmax(base, -1), torch.softmax(guide, -1)
    if tokens_of == "blend":
        p_b, p_g = p_base.amax(-1), p_guide.amax(-1)
        agreement = p_base.gather(-1, p_guide.argmax(-1)[:, None])[:, 0]
        alpha = (p_g / (p_b + p_g) + 0.1 * agreement).clamp(0, 1) * (p_b < 0.4)
        source = (1 - alpha)[:, None] * p_base + alpha[:, None] * p_guide
    else:
        from_guide = torch.arange(count) % 2 == 1 if tokens_of == "both" else torch.tensor(False)
        source = torch.where(from_guide.expand(count)[:, None], p_guide, p_base)
    source[:, -1] = 0
    given = torch.multinomial(source, 1, generator=generator)[:, 0]
    table = _table(PAIR, base_factor * base, guide_factor * guide, given)
    return Positions.of(table.arrays() | {"item": np.repeat(np.arange(prompts), length)})


def parts(whole: Positions) -> tuple[Positions, Positions, Positions]:
    """For the fit, the choice and the test: two, one and two of five prompts."""
    fifth = whole.item % 5
    return whole.where(fifth < 2), whole.where(fifth == 2), whole.where(fifth > 2)


@pytest.mark.parametrize("vocabulary", [30, 3000, 50_000])
def test_the_softmax_at_any_temperature_follows_from_the_kept_numbers(vocabulary: int) -> None:
    rows = 3 * torch.randn(10, vocabulary, generator=torch.Generator().manual_seed(vocabulary))
    rows[0] *= 4
    rows[1] *= 0.01
    rows[2, 7] = 60
    rows[3, :20] = rows[3].max() + 3
    rows[4, vocabulary // 2 :] = -torch.inf
    kept = curve(rows).numpy()
    below = (rows.amax(dim=-1, keepdim=True) - rows).double()
    for t in (LOWEST, 0.27, 0.5, 0.83, 1.0, 1.37, 2.2, 4.1, HIGHEST):
        exact = torch.logsumexp(-below / t, dim=-1).numpy()
        assert np.abs(exact - log_total(kept, t)).max() < 1e-4
    for t in (0.9 * LOWEST, 1.1 * HIGHEST):
        with pytest.raises(ValueError, match="outside"):
            log_total(kept, t)


def test_the_table_has_the_probabilities_of_the_logits() -> None:
    logits = 2 * torch.randn(20, WORDS, generator=torch.Generator().manual_seed(1))
    given = torch.arange(20) % (WORDS - 1)
    table = _table(PAIR, logits, logits.flip(1), given)
    for t in (0.5, 1.0, 3.0):
        probs = torch.softmax(logits.double() / t, -1)
        assert table.base.top_prob(t) == pytest.approx(probs.amax(-1).numpy(), abs=1e-4)
        own = probs.gather(-1, given[:, None])[:, 0].log().numpy()
        assert table.base.given_log_prob(t) == pytest.approx(own, abs=2e-4)
        choice = torch.from_numpy(table.guide.choice)
        there = probs.gather(-1, choice.clamp(max=WORDS - 1)[:, None])[:, 0].numpy()
        ends = choice.numpy() == 2 * WORDS
        there[ends] = probs[ends, -1].numpy()
        assert table.agreement(t) == pytest.approx(there, abs=1e-4)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.6, 2.5])
def test_a_factor_put_into_the_logits_is_found_within_five_per_cent(factor: float) -> None:
    table = simulated(1, prompts=150, base_factor=factor)
    found = temperature(table.base, table.item, np.ones(len(table), dtype=bool))
    assert found.estimate == pytest.approx(factor, rel=0.05)
    assert found.low < factor < found.high
    assert (found.low > 1) == (factor > 1) and (found.high < 1) == (factor < 1)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.8])
def test_without_labels_the_guide_is_brought_to_the_bases_confidence(factor: float) -> None:
    even = simulated(2, prompts=150)
    table = simulated(2, prompts=150, guide_factor=factor)
    ratio = unlabelled_temperature(table).estimate / unlabelled_temperature(even).estimate
    assert ratio == pytest.approx(factor, rel=0.01)


def test_a_miscalibrated_pair_gains_by_alpha_and_a_sound_one_is_not_called_better() -> None:
    """The guide is right as often as the base, and its logits were flattened and the base's not."""
    whole = simulated(3, prompts=150, guide_factor=0.4, tokens_of="both")
    part, select, test = parts(whole)
    fitted = fit(part, select, Wanted(0.6))
    assert fitted.arms["calibrated α"].calibration.fits_alpha  # type: ignore[attr-defined]
    arms = {name: fitted.arms[name] for name in ("calibrated α", WHOLE)}
    rows = {each.name: each for each in compare(fitted.arms[RAW], arms, test, 0.6)}
    assert rows["calibrated α"].verdict == rows[WHOLE].verdict == "better"


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict takes interval and p alike; a tenth of the draws moves neither by much."""
    monkeypatch.setattr("blendin.evaluation.calibrate.comparison.RESAMPLES", 1000)
    monkeypatch.setattr("blendin.evaluation.comparison.RESAMPLES", 1000)


def false_alarms(sets: int) -> tuple[int, int, int]:
    """How often something is found where there is nothing.

    (A temperature called off 1; any arm called better than raw, where raw is the truth; two arms
    told apart that mirror each other, where tokens are drawn from both models alike.)
    """
    off = better = apart = 0
    for seed in range(sets):
        table = simulated(100 + seed, prompts=50, length=20)
        found = temperature(table.base, table.item, np.ones(len(table), dtype=bool))
        off += not found.low <= 1 <= found.high
        part, select, test = parts(simulated(10_000 + seed, 50, 20, tokens_of="blend"))
        fitted = fit(part, select, Wanted())
        others = {name: each for name, each in fitted.arms.items() if name != RAW}
        rows = compare(fitted.arms[RAW], others, test, 0.4)
        better += any(each.verdict == "better" for each in rows)
        even = simulated(20_000 + seed, 30, 20, tokens_of="both")
        mirrored = compare(Blend(2.0, alpha=0.2), {"": Blend(2.0, alpha=0.8)}, even, 0.4)
        apart += mirrored[0].verdict != "untold"
    return off, better, apart


@pytest.mark.usefixtures("fewer_resamples")
def test_where_there_is_nothing_next_to_nothing_is_found() -> None:
    assert sum(false_alarms(5)) <= 4


SETS = int(os.environ.get("BLENDIN_SIMULATIONS", 50))
"""Simulated ones; docs/calibration.md has the figures of 200."""


@pytest.mark.slow
@pytest.mark.usefixtures("fewer_resamples")
def test_false_alarms_come_at_the_stated_rate() -> None:
    found = false_alarms(SETS)
    print(f"false alarms of {SETS}: {found}")
    for alarms in found:
        assert stats.binomtest(alarms, SETS, 0.05, alternative="greater").pvalue > 0.01


def test_the_bound_on_prompts_touched_at_all_holds_for_samples_of_any_size() -> None:
    rng = np.random.default_rng(0)
    for prompts, level in ((9, 0.1), (19, 0.1), (40, 0.2), (7, 0.05)):
        touched = []
        for _ in range(1000):
            p = rng.beta(2, 1, size=(prompts + 1, 5))
            items = np.repeat(np.arange(prompts), 5)
            threshold, n = conformal_threshold(p[:-1].ravel(), items, level)
            assert n == prompts
            touched.append((p[-1] < threshold).any())
        assert np.mean(touched) <= level + 3 * math.sqrt(level / 1000)
        if (prompts + 1) * level >= 1:
            assert np.mean(touched) >= level - 1 / (prompts + 1) - 3 * math.sqrt(level / 1000)
        else:
            assert not any(touched)


def test_tau_is_where_the_sum_of_gains_is_largest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, gain = rng.random(30).round(1), rng.normal(size=30)
        found = best_threshold(p, gain)
        grid = [gain[p < t].sum() for t in np.linspace(0, 1.01, 500)]
        assert gain[p < found].sum() == pytest.approx(max(grid))
    assert np.mean(p < threshold_of_rate(p, 0.3)) <= 0.3
    assert best_threshold(p, -np.ones(30)) == 0


def test_metrics_are_zero_for_the_calibrated_and_known_for_the_constant() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(40_000)
    right = rng.random(40_000) < p
    assert smooth_ece(p, right)[1] < 0.02
    assert equal_mass_ece(p, right) < 0.02
    half = np.full(4000, 0.9)
    wrong = rng.permutation(np.arange(4000) % 2 == 0)
    assert equal_mass_ece(half, wrong) == pytest.approx(0.4)
    assert smooth_ece(half, wrong)[1] == pytest.approx(0.4, abs=0.02)
    told = reliability(half, wrong, np.full(4000, -0.5), np.arange(4000) // 40)
    assert told is not None and told.answers == 100
    assert told.brier.estimate == pytest.approx(0.5 * (0.01 + 0.81))
    assert told.nll.estimate == 0.5 and told.smooth_ece.low > 0.3
    assert reliability(p[:0], right[:0], p[:0], np.arange(0)) is None


def test_the_smooth_error_is_relplots() -> None:
    """relplot 1.0.3 of PyPI, by the paper's authors, on the same numbers."""
    rng = np.random.default_rng(1)
    for power, theirs in RELPLOT.items():
        p = rng.random(3000)
        right = rng.random(3000) < p**power
        assert smooth_ece(p, right)[1] == pytest.approx(theirs, abs=1e-3)


def test_an_interval_over_answers_is_wider_where_their_tokens_are_alike() -> None:
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(30), 20)
    alike = np.repeat(rng.normal(size=30), 20)
    widths = [
        each.high - each.low
        for each in (clustered_mean(alike, items), clustered_mean(alike, np.arange(600)))
    ]
    assert widths[0] > 3 * widths[1]


def test_no_arm_may_rest_on_tokens_that_it_makes_impossible() -> None:
    table = simulated(5, prompts=5)
    lacking = table.arrays()
    lacking["guide.given"] = np.full(len(table), np.inf, dtype=np.float32)
    from blendin import Nudge

    told = outcome(Nudge(1.5, unit="token"), Positions.of(lacking))
    assert told.impossible == len(table) and set(told.log_prob) == {FLOOR}
    assert outcome(Blend(1.5, calibration=Calibration()), table).impossible == 0
