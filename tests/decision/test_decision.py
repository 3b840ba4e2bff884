"""One step's mathematics against a plain reading of docs/contract.md, over small random shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blendin import Blend
from blendin.decision.blend import mixing_weight
from blendin.decision.mixture import Mixture
from blendin.decision.prediction import DensePrediction
from blendin.decision.symbols import ModelSymbols, SymbolTables


@dataclass
class Case:
    base_logits: torch.Tensor
    guide_logits: torch.Tensor
    tables: SymbolTables

    def base(self, rows: slice = slice(None)) -> DensePrediction:
        return DensePrediction(self.base_logits[rows], self.tables.base)

    def guide(self, rows: slice = slice(None)) -> DensePrediction:
        return DensePrediction(self.guide_logits[rows], self.tables.guide, candidates_only=True)


def dense(mixture: Mixture, end: int) -> torch.Tensor:
    """The normalised mixture over all symbols."""
    probs = mixture.dense()
    return torch.nn.functional.pad(probs, (0, end + 1 - probs.shape[1]))


@st.composite
def cases(draw: Any) -> Case:
    """Two small vocabularies, partly shared, with end, special and duplicate tokens."""
    rows, base_size, guide_size = (draw(st.integers(1, 4)), *draw(st.tuples(sizes, sizes)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.bfloat16)))
    scale = draw(st.sampled_from((0.5, 3.0)))

    def half(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        ends = torch.randperm(size, generator=generator)[: draw(st.integers(1, 2))].sort().values
        candidates = torch.rand(size, generator=generator) < 0.8
        candidates[ends] = False
        return ends, candidates

    base_ends, base_candidates = half(base_size)
    guide_ends, guide_candidates = half(guide_size)
    symbols = torch.arange(guide_size) + base_size
    shared = min(base_size, guide_size) // 2
    partners = torch.randperm(base_size, generator=generator)[:shared]
    owners = torch.randperm(guide_size, generator=generator)[:shared]
    known = base_candidates[partners] & guide_candidates[owners]
    symbols[owners[known]] = partners[known]
    logits = [
        (scale * torch.randn(rows, size, generator=generator)).to(dtype)
        for size in (base_size, guide_size)
    ]
    return Case(
        *logits, SymbolTables(base_ends, guide_ends, base_candidates, guide_candidates, symbols)
    )


sizes = st.integers(4, 40)


@st.composite
def wide_cases(draw: Any) -> Case:
    """Vocabularies too large for the lists: peaked, flat, with few candidates, with ties."""
    rows, base_size, guide_size = draw(
        st.tuples(st.integers(1, 3), st.integers(520, 900), st.integers(520, 900))
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    share = draw(st.sampled_from((0.05, 0.9)))
    base_ends, guide_ends = torch.tensor([1, 7]), torch.tensor([3])
    of_base, of_guide = (
        torch.rand(size, generator=generator) < share for size in (base_size, guide_size)
    )
    of_base[base_ends], of_guide[guide_ends] = False, False
    symbols = torch.arange(guide_size) + base_size
    both = torch.arange(10, min(base_size, guide_size))
    both = both[of_base[both] & of_guide[both]]
    symbols[both] = both
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.bfloat16)))
    scale = draw(st.sampled_from((0.01, 0.5, 3.0)))
    logits = [
        (scale * torch.randn(rows, size, generator=generator)).to(dtype)
        for size in (base_size, guide_size)
    ]
    return Case(*logits, SymbolTables(base_ends, guide_ends, of_base, of_guide, symbols))


def by_symbol(
    logits: torch.Tensor, candidates: torch.Tensor, ends: torch.Tensor, symbols: Any, end: int
) -> dict[int, float]:
    """One row's distribution over candidate symbols and END."""
    probs = torch.softmax(logits.double(), -1).tolist()
    distribution = {int(symbols[id]): probs[id] for id in range(len(probs)) if bool(candidates[id])}
    distribution[end] = sum(probs[id] for id in ends.tolist())
    return distribution


def top(distribution: dict[int, float], end: int, k: int | None) -> dict[int, float]:
    ranked = sorted(distribution, key=lambda s: -distribution[s])[:k]
    return {symbol: distribution[symbol] for symbol in {*ranked, end}}


@settings(deadline=None, max_examples=300)
@given(
    cases(),
    st.sampled_from((None, 1, 2, 5, 1000)),
    st.none() | st.floats(0, 1),
    st.floats(0, 2),
)
def test_blend_is_the_specs_formula(
    case: Case, top_k: int | None, fixed: float | None, bonus: float
) -> None:
    tables, end = case.tables, case.tables.end
    base, guide = case.base(), case.guide()
    result = Blend(agreement_bonus=bonus, top_k=top_k, alpha=fixed).mix(base, guide)
    assert result.agreement is not None
    for row in range(len(case.base_logits)):
        raw = torch.softmax(case.base_logits[row].double(), -1)
        ordinary = raw.clone()
        ordinary[tables.base_ends] = 0
        p_b = max(float(ordinary.max()), float(raw[tables.base_ends].sum()))
        of_base = by_symbol(
            case.base_logits[row],
            tables.base_candidates,
            tables.base_ends,
            range(len(raw)),
            end,
        )
        of_guide = by_symbol(
            case.guide_logits[row],
            tables.guide_candidates,
            tables.guide_ends,
            tables.guide_symbols,
            end,
        )
        p_g = max(of_guide.values())
        t_g = int(guide.choice[row])
        assert of_guide[t_g] == pytest.approx(p_g, rel=1e-5)
        agreed = of_base[t_g] if t_g in of_base else 0.0
        alpha = min(max(p_g / (p_b + p_g) + bonus * agreed, 0), 1) if fixed is None else fixed
        assert float(base.top_prob[row]) == pytest.approx(p_b, rel=1e-5)
        assert float(guide.top_prob[row]) == pytest.approx(p_g, rel=1e-5)
        assert float(result.agreement[row]) == pytest.approx(agreed, rel=1e-5)
        logits, expected_rank = case.base_logits[row].float(), 0
        if t_g in of_base:
            score = logits[tables.base_ends].logsumexp(-1) if t_g == end else logits[t_g]
            expected_rank = 1 + int((logits > score).sum())
        assert int(base.rank_of(guide.choice)[row]) == expected_rank
        assert float(result.alpha[row]) == pytest.approx(alpha, rel=1e-5)
        if has_tie(of_base, top_k) or has_tie(of_guide, top_k):
            continue
        mixed: dict[int, float] = {}
        for weight, distribution in ((1 - alpha, of_base), (alpha, of_guide)):
            for symbol, prob in top(distribution, end, top_k).items():
                mixed[symbol] = mixed.get(symbol, 0.0) + weight * prob
        expected = torch.zeros(end + 1, dtype=torch.float64)
        for symbol, prob in mixed.items():
            expected[symbol] = prob / sum(mixed.values())
        probs = dense(result, end)
        torch.testing.assert_close(probs[row].double(), expected, rtol=1e-4, atol=1e-6)
        choice = int(result.choice[row])
        assert float(expected[choice]) == pytest.approx(float(expected.max()), rel=1e-5)
        of_each = torch.stack(result.shares(result.choice))[:, row].double() / sum(mixed.values())
        assert float(of_each.sum()) == pytest.approx(float(expected[choice]), rel=1e-4)
        assert (
            bool(of_each[1] > 0) == (alpha > 0 and top(of_guide, end, top_k).get(choice, 0.0) > 0)
            or float(of_each[1]) < 1e-30
        )


def has_tie(distribution: dict[int, float], k: int | None) -> bool:
    """Whether which symbols are the top k is not determined (bfloat16 logits tie)."""
    if k is None or k >= len(distribution):
        return False
    ranked = sorted(distribution.values(), reverse=True)
    return math.isclose(ranked[k - 1], ranked[k], rel_tol=1e-5) or (
        k > 1 and math.isclose(ranked[k - 2], ranked[k - 1], rel_tol=1e-5)
    )


@settings(deadline=None, max_examples=60)
@given(wide_cases(), st.none() | st.floats(0, 1))
def test_the_whole_vocabularys_argmax_is_proven_from_lists_or_found_without(
    case: Case, fixed: float | None
) -> None:
    """Greedy, the lists decide as the dense mixture does, or leave it to that."""
    policy, base, guide = Blend(top_k=None, alpha=fixed), case.base(), case.guide()
    whole, quick = policy.mix(base, guide, greedy=False), policy.mix(base, guide, greedy=True)
    assert whole.is_dense
    assert quick.choice.equal(whole.choice)
    torch.testing.assert_close(quick.shares(quick.choice), whole.shares(quick.choice))


def test_lists_prove_a_peaked_blend_and_not_one_of_opposites() -> None:
    generator = torch.Generator().manual_seed(0)
    ends, candidates = torch.tensor([699]), torch.arange(700) != 699
    tables = SymbolTables(ends, ends, candidates, candidates, torch.arange(700))
    peaked = [4 * torch.randn(3, 700, generator=generator) for _ in range(2)]
    slope = torch.linspace(0, 1, 700)[None]
    for logits, is_proven in ((peaked, True), ([slope, slope.flip(-1)], False)):
        case = Case(*logits, tables)
        mixture = Blend(top_k=None, alpha=0.5).mix(case.base(), case.guide())
        assert mixture.is_dense != is_proven


@settings(deadline=None, max_examples=100)
@given(cases())
def test_rows_are_independent(case: Case) -> None:
    policy, end = Blend(top_k=3), case.tables.end
    together = dense(policy.mix(case.base(), case.guide()), end)
    for row in range(len(case.base_logits)):
        one = slice(row, row + 1)
        alone = dense(policy.mix(case.base(one), case.guide(one)), end)
        torch.testing.assert_close(together[row], alone[0])
        picked = dense(policy.mix(case.base().rows([row]), case.guide().rows([row])), end)
        assert picked.equal(alone)


@given(st.floats(1e-6, 1), st.floats(1e-6, 1), st.floats(0, 1), st.floats(0, 100))
def test_alpha_stays_in_the_unit_interval(
    p_b: float, p_g: float, agreed: float, bonus: float
) -> None:
    alpha = mixing_weight(*(torch.tensor([value]) for value in (p_b, p_g, agreed)), bonus)
    assert 0 <= float(alpha) <= 1


def test_end_tokens_count_together() -> None:
    """Two end tokens at 0.3 each beat an ordinary token at 0.4: END is one symbol."""
    logits = torch.tensor([[0.4, 0.3, 0.3]]).log()
    for ends, choice in (([1, 2], 9), ([1], 0)):
        candidates = torch.ones(3, dtype=torch.bool).index_fill(0, torch.tensor(ends), False)
        model = ModelSymbols.of(torch.tensor(ends), candidates, torch.arange(3), end=9)
        assert int(DensePrediction(logits, model).choice) == choice


def test_a_special_token_counts_for_the_gate_and_is_no_candidate() -> None:
    tables = SymbolTables(
        base_ends=torch.tensor([3]),
        guide_ends=torch.tensor([3]),
        base_candidates=torch.tensor([True, True, False, False]),
        guide_candidates=torch.tensor([True, True, False, False]),
        guide_symbols=torch.tensor([0, 1, 6, 7]),
    )
    logits = torch.tensor([[0.2, 0.1, 0.6, 0.1]]).log()
    base = DensePrediction(logits, tables.base)
    guide = DensePrediction(logits, tables.guide, candidates_only=True)
    assert float(base.top_prob) == pytest.approx(0.6)
    assert int(base.choice) == 2
    assert int(guide.choice) == 0
    assert float(guide.top_prob) == pytest.approx(0.2)
    probs = base.top(2).dense()
    assert float(probs[0, 2]) == 0
    assert float(probs[0, tables.end]) == pytest.approx(0.1)


def test_not_a_number_stays_visible() -> None:
    tables = SymbolTables(
        *[torch.tensor([0])] * 2, *[torch.tensor([False, True])] * 2, torch.arange(2)
    )
    logits = torch.tensor([[0.0, float("nan")]])
    assert math.isnan(float(DensePrediction(logits, tables.base).top_prob))


def test_end_has_one_probability_wherever_it_is_read() -> None:
    """Of three end tokens, to the bit: a gate and a list must not differ on it."""
    ids, ends = torch.arange(60), torch.tensor([3, 9, 20])
    candidates = torch.ones(60, dtype=torch.bool).index_fill(0, ends, False)
    model = ModelSymbols.of(ends, candidates, ids, end=60)
    logits = 2 * torch.randn(64, 60, generator=torch.Generator().manual_seed(0))
    logits[:, ends] += 9
    prediction = DensePrediction(logits, model)
    assert prediction.choice.eq(60).all()
    for k in (5, None):
        assert prediction.top(k).probs[:, -1].equal(prediction.top_prob)
