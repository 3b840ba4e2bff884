"""`FusedPrediction` against `DensePrediction`, natively or under the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreted import DEVICE, HERE, INTERPRETED, NATIVE, SANITIZED, run_interpreted
from torch import Tensor

from blendin.decision.blend import blend
from blendin.decision.mixture import Candidates, Mixture
from blendin.decision.predict import predict
from blendin.decision.prediction import DensePrediction
from blendin.decision.symbols import ModelSymbols, SymbolTables
from blendin.decision.told import told

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402
from kernel_accesses import checked  # noqa: E402

from blendin.decision.fused import FusedMixture, FusedPrediction  # noqa: E402
from blendin.kernels.rows import chunks_per_program  # noqa: E402
from blendin.kernels.tables import MAX_LIST, Geometry, KernelTables, kernel_tables  # noqa: E402
from blendin.kernels.topk import largest_list  # noqa: E402

here = pytest.mark.skipif(not HERE, reason="runs in a process of its own")
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, at inf - inf
    *([pytest.mark.gpu] if DEVICE == "cuda" else []),
]

# Small enough that rows span chunks, and lists leave most of a row out.
SMALL = Geometry(64, 8)
TINY = Geometry(32, 4, 64)  # and selections span blocks


@pytest.fixture(scope="module", autouse=True)
def accesses() -> Iterator[None]:
    """No interpreted test reads or writes beyond its tensors, or races."""
    with checked() if INTERPRETED else nullcontext():
        yield


@pytest.mark.slow
@pytest.mark.skipif(HERE, reason="the tests run in this process")
def test_under_the_interpreter() -> None:
    run_interpreted(__file__)


@triton.jit
def shift(values, by, to):
    """Each of two programs copies a number."""
    place = tl.program_id(0)
    tl.store(values + place + to, tl.load(values + place + by))


@pytest.mark.skipif(not INTERPRETED, reason="checks what the interpreter does")
@pytest.mark.parametrize(
    ("by", "to", "said"),
    [
        (3, 0, "program 1 reads 1 elements out of bounds"),
        (0, -1, "program 0 writes 1 elements out of bounds"),
        (1, 0, "shift: a program reads what another writes"),
        (0, 2, None),
    ],
)
def test_an_access_of_what_is_not_a_programs_own_fails(by: int, to: int, said: str | None) -> None:
    values = torch.zeros(4)
    if said is None:
        shift[(2,)](values, by, to)
        return
    with pytest.raises(Exception, match=said):
        shift[(2,)](values, by, to)


@dataclass
class Side:
    """One model's logits, and its tokens plain and packed."""

    logits: Tensor
    model: ModelSymbols
    kernels: KernelTables

    def fused(self, candidates_only: bool = False) -> FusedPrediction:
        return FusedPrediction(self.logits, self.model, self.kernels, candidates_only)

    def dense(self, candidates_only: bool = False) -> DensePrediction:
        return DensePrediction(self.logits, self.model, candidates_only)

    def some(self, rows: list[int]) -> Side:
        return Side(self.logits[rows], self.model, self.kernels)


@dataclass
class Case:
    base: Side
    guide: Side

    @classmethod
    def of(
        cls, base: Tensor, guide: Tensor, tables: SymbolTables, geometry: Geometry | None = SMALL
    ) -> Case:
        tables = tables.to(DEVICE)
        pairs = ((base, tables.base), (guide, tables.guide))
        return cls(*(Side(x.to(DEVICE), m, kernel_tables(m, geometry)) for x, m in pairs))

    @property
    def end(self) -> int:
        return self.base.model.end


def alignment(
    base_size: int, guide_size: int, seed: int, *, ends: tuple[int, int] = (1, 2)
) -> SymbolTables:
    """Two partly shared vocabularies with special tokens, in their upper halves, and duplicates."""
    rng = torch.Generator().manual_seed(seed)

    def half(size: int, count: int) -> tuple[Tensor, Tensor]:
        ids = torch.randperm(size, generator=rng)[:count].sort().values
        candidates = (torch.rand(size, generator=rng) < 0.9) | (torch.arange(size) < size // 2)
        candidates[ids] = False
        return ids, candidates

    base_ends, base_candidates = half(base_size, ends[0])
    guide_ends, guide_candidates = half(guide_size, ends[1])
    shared = min(base_size, guide_size) * 2 // 3
    partners = torch.randperm(base_size, generator=rng)[:shared]
    owners = torch.randperm(guide_size, generator=rng)[:shared]
    known = base_candidates[partners] & guide_candidates[owners]
    symbols = torch.arange(guide_size) + base_size
    symbols[owners[known]] = partners[known]
    return SymbolTables(base_ends, guide_ends, base_candidates, guide_candidates, symbols)


def case(
    rows: int,
    base_size: int,
    guide_size: int,
    *,
    seed: int = 0,
    scale: float = 2.0,
    dtype: torch.dtype = torch.float32,
    pad: int | None = 0,
    geometry: Geometry | None = SMALL,
    ends: tuple[int, int] = (1, 2),
) -> Case:
    """Random logits on the device under test, in rows `pad` elements apart, or to the next multiple
    of 16 with None (so that they are read as they lie). Between them is NaN: nothing reads it."""
    rng = torch.Generator().manual_seed(seed + 1)
    tables = alignment(base_size, guide_size, seed, ends=ends)
    logits = []
    for size in (base_size, guide_size):
        width = size + (-size % 16 if pad is None else pad)
        padded = (scale * torch.randn(rows, width, generator=rng)).to(DEVICE, dtype)
        padded[:, size:] = torch.nan
        logits.append(padded[:, :size])
    return Case.of(*logits, tables, geometry)


def two_of(size: int, *ends: int) -> SymbolTables:
    """Two models of one vocabulary, all tokens but the end tokens candidates."""
    ids = torch.tensor(ends)
    ordinary = torch.ones(size, dtype=torch.bool).index_fill(0, ids, False)
    symbols = torch.arange(size).index_copy(0, ids, size + ids)
    return SymbolTables(ids, ids, ordinary, ordinary, symbols)


def same(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got.double(), wanted.double(), rtol=2e-5, atol=1e-7, equal_nan=True)


def check_top(side: Side, candidates: Candidates, k: int) -> int:
    """A list of fewer than all tokens; how many rows could be compared.

    Of equal logits the lower ids are listed, in the order of the ids, and END takes the place of
    the highest id among the least likely.
    """
    model = side.model
    logits = side.logits.float().masked_fill(~model.candidates, -torch.inf)
    probs = (logits - side.dense().log_total[:, None]).exp()
    end_probs = side.dense().prob_of(torch.full_like(side.logits[:, 0].long(), model.end))
    compared = 0
    for row, end_prob in enumerate(end_probs.tolist()):
        tokens = logits[row].sort(descending=True, stable=True).indices[:k]
        wanted = probs[row].clone()
        last = int(tokens[-1])
        if torch.isclose(wanted[last], end_probs[row], rtol=1e-5, atol=0):
            continue
        if end_prob > float(wanted[last]):
            wanted[last] = 0
        compared += 1
        tokens = tokens.sort().values
        got = candidates.symbols[row]
        assert got[:-1].tolist() == model.symbols[tokens].tolist() and int(got[-1]) == model.end
        same(candidates.probs[row, :-1], wanted[tokens])
        same(candidates.probs[row, -1], end_probs[row])
    assert candidates.end == model.end and not candidates.unlisted.any()
    return compared


def check_side(side: Side, k: int | None, candidates_only: bool) -> None:
    """Everything that one model says."""
    fused, dense = side.fused(candidates_only), side.dense(candidates_only)
    same(fused.top_prob, dense.top_prob)
    assert fused.top_prob.dtype == torch.float32 and fused.choice.dtype == torch.int64
    assert fused.choice.tolist() == dense.choice.tolist()
    same(fused.log_total, dense.log_total)
    same(fused.prob_of(fused.choice), fused.top_prob)
    rng = torch.Generator().manual_seed(0)
    for symbols in (
        torch.randint(0, side.model.end + 1, (len(side.logits),), generator=rng).to(DEVICE),
        torch.full_like(fused.choice, side.model.end),
    ):
        same(fused.prob_of(symbols), dense.prob_of(symbols))
    assert fused.rank_of(fused.choice).tolist() == dense.rank_of(fused.choice).tolist()
    if k is not None and k <= largest_list(side.kernels):
        check_top(side, fused.top(k), k)
    else:
        ours, theirs = fused.top(k), dense.top(k)
        assert ours.symbols.equal(theirs.symbols)
        same(ours.probs, theirs.probs)


def mixed(
    case: Case,
    of: Callable[[Side, bool], DensePrediction],
    *,
    top_k: int | None,
    alpha: float | None = None,
    agreement_bonus: float = 0.1,
) -> Mixture:
    """Of either kind of prediction."""
    base, guide = of(case.base, False), of(case.guide, True)
    return blend(base, guide, top_k=top_k, alpha=alpha, agreement_bonus=agreement_bonus)


def tie_at_the_edge(side: Side, row: int, k: int | None) -> bool:
    """Whether `torch.topk` may keep another of some equal probabilities than the kernels do."""
    probs = side.dense().logits[row].float().softmax(-1)
    values = probs.masked_fill(~side.model.candidates, 0).sort(descending=True).values
    if k is None or k >= len(values) or values[k - 1] == 0:
        return False
    # END, when it wins the last place, puts out the k-th.
    close = torch.isclose(values[:-1], values[1:], rtol=1e-6, atol=0)
    end = torch.isclose(probs[side.model.ends].sum(), values[k - 1], rtol=1e-5, atol=0)
    return bool(close[k - 1] or (k > 1 and close[k - 2]) or end)


def check_mixture(case: Case, **options: Any) -> int:
    """Every row's mixture against the dense one; how many rows could be compared."""
    ours, theirs = mixed(case, Side.fused, **options), mixed(case, Side.dense, **options)
    same(ours.alpha, theirs.alpha)
    assert ours.agreement is not None and theirs.agreement is not None
    same(ours.agreement, theirs.agreement)
    of_ours, of_theirs = (
        told(mixture, mixture.choice, of(case.base, False), of(case.guide, True))
        for mixture, of in ((ours, Side.fused), (theirs, Side.dense))
    )
    compared = 0
    symbols = torch.arange(case.end + 1, device=DEVICE)
    for row, symbol in enumerate(ours.choice.tolist()):
        if any(tie_at_the_edge(s, row, options["top_k"]) for s in (case.base, case.guide)):
            continue
        compared += 1
        of_each = []
        for mixture in (ours, theirs):
            here = mixture.symbols[row] == symbols[:, None]
            of_each.append(
                torch.stack([(part[row] * here).sum(-1) for part in (mixture.base, mixture.guide)])
            )
        same(of_each[0], of_each[1])
        total = of_each[1].sum(0)
        assert float(total[symbol]) >= float(total.max()) * (1 - 2e-6)
        # What a step tells, beside it: p_g, α, P_B(t_g) and its rank.
        same(of_ours[row, 3:], of_theirs[row, 3:])
        same(of_ours[row, 1:3], of_each[0][:, symbol])
    return compared


@st.composite
def cases(draw: Any) -> Case:
    sizes = st.integers(4, 40) | st.integers(41, 150)
    return case(
        draw(st.integers(1, 2)),
        draw(sizes),
        draw(sizes),
        seed=draw(st.integers(0, 10_000)),
        scale=draw(st.sampled_from((0.0, 0.1, 1.0, 4.0))),
        dtype=draw(st.sampled_from((torch.float32, torch.bfloat16, torch.float16))),
        pad=draw(st.none() | st.integers(0, 5)),
        ends=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        geometry=draw(st.sampled_from((SMALL, TINY))),
    )


top_ks = st.sampled_from((None, 1, 2, 5, 16, 17, 100, 1000)) | st.integers(1, 150)


def examples(count: int) -> Any:
    return settings(deadline=None, max_examples=count, suppress_health_check=list(HealthCheck))


@here
@examples(24)
@given(cases(), top_ks, st.booleans())
def test_a_prediction_is_the_dense_one(built: Case, k: int | None, candidates_only: bool) -> None:
    for side in (built.base, built.guide):
        check_side(side, k, candidates_only)


@here
@examples(12)
@given(
    cases(),
    top_ks,
    st.sampled_from((None, None, 0.0, 0.5, 1.0)),
    st.sampled_from((0.0, 0.1, 2.0)),
)
def test_a_mixture_is_the_dense_one(
    built: Case, k: int | None, alpha: float | None, bonus: float
) -> None:
    check_mixture(built, top_k=k, alpha=alpha, agreement_bonus=bonus)


@here
@pytest.mark.parametrize("k", [100, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_at_the_default_geometry(k: int | None, dtype: torch.dtype) -> None:
    """Real chunks and groups; V a multiple of nothing."""
    built = case(1, 5003, 4099, geometry=None, dtype=dtype, pad=None)
    for side in (built.base, built.guide):
        assert set(side.kernels.plain.tolist()) == {0, 1}
        for candidates_only in (False, True):
            check_side(side, k, candidates_only)
    # In 16 bits logits are often equal, and the lists by which the whole vocabulary's argmax is
    # proven may end in any of them.
    if k is not None or dtype == torch.float32:
        assert check_mixture(built, top_k=k) or dtype != torch.float32


@here
def test_at_the_size_of_real_vocabularies() -> None:
    """Rows of 50,257 logits are copied; 70,001 are more groups than a selection's block."""
    built = case(2, 50257, 70001, geometry=None)
    assert check_mixture(built, top_k=100) == 2


@here
@pytest.mark.parametrize("k", [*range(1, 10), 31, 32, 33, 255, 257, MAX_LIST - 1, MAX_LIST])
def test_a_list_of_any_length_is_exact(k: int) -> None:
    for scale, geometry in ((2.0, SMALL), (0.05, None)):
        built = case(2, 1000, 700, scale=scale, dtype=torch.bfloat16, geometry=geometry)
        for side in (built.base, built.guide):
            assert check_top(side, side.fused().top(k), k)


@here
def test_the_longest_lists_are_mixed_as_the_dense_path_mixes() -> None:
    assert check_mixture(case(1, 1000, 700, geometry=None), top_k=MAX_LIST)


@here
@pytest.mark.skipif(SANITIZED, reason="ttsem copies each tensor that a launch is given")
def test_rows_may_lie_more_than_2_to_the_31_elements_apart(tmp_path: Path) -> None:
    """As in a batch of 16,800 rows of 128,000 tokens; of the memory in between none is touched."""
    size, apart = 100, 1 << 30
    near, count = case(3, size, size), 2 * apart + size

    def far(logits: Tensor, name: str) -> Tensor:
        if NATIVE:
            storage = torch.empty(count, dtype=torch.float16, device=DEVICE)
        else:
            file = str(tmp_path / name)
            storage = torch.from_file(file, shared=True, size=count, dtype=torch.float16)
        return storage.as_strided((3, size), (apart, 1)).copy_(logits)

    for side, name in ((near.base, "base"), (near.guide, "guide")):
        side.logits = far(side.logits, name)
        check_side(side, 5, candidates_only=True)
    assert check_mixture(near, top_k=5)


@here
@pytest.mark.parametrize("k", [MAX_LIST + 1, 10**6, None])
def test_a_longer_list_is_the_dense_one(k: int | None) -> None:
    built = case(2, 1000, 400)
    for side in (built.base, built.guide):
        ours, theirs = side.fused().top(k), side.dense().top(k)
        assert ours.symbols.equal(theirs.symbols)
        same(ours.probs, theirs.probs)


def bits(prediction: FusedPrediction, k: int = 5) -> Tensor:
    """`[N, C]` int64: all that the kernels say of a row, to the bit."""
    symbols, probs, _, _ = prediction.top(k)
    numbers = torch.cat([torch.stack([prediction.top_prob, prediction.log_total], 1), probs], 1)
    whole = torch.cat([prediction.choice[:, None], symbols], 1)
    return torch.cat([whole, numbers.view(torch.int32).long()], 1).cpu()


@here
@pytest.mark.parametrize("candidates_only", [False, True])
def test_a_row_is_the_same_in_any_company(candidates_only: bool) -> None:
    """To the bit: alone, among others, and taken out of them before and after they were read."""
    built = case(4, 130, 70, scale=1.5, pad=2)
    for side in (built.base, built.guide):
        together = side.fused(candidates_only)
        whole = bits(together)
        for row in (0, 3):
            assert bits(side.some([row]).fused(candidates_only))[0].equal(whole[row])
        for rows in ([3, 1], []):
            unread = side.fused(candidates_only).rows(rows)
            assert bits(unread).equal(whole[rows]) and bits(together.rows(rows)).equal(whole[rows])
        assert together.rows(list(range(4))) is together


@here
def test_logits_are_streamed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from blendin.kernels import gate

    read, own = [], gate.gate

    def counted(rows: Any, *arguments: Any, **options: Any) -> Any:
        read.append(len(rows.logits))
        return own(rows, *arguments, **options)

    monkeypatch.setattr(gate, "gate", counted)
    fused = case(4, 200, 70).base.fused()
    assert not read
    assert len(fused.choice) == len(fused.top_prob) == len(fused.log_total) == 4
    some = fused.rows([3, 1])
    assert [len(part) for part in (fused.top(5).probs, some.top(9).probs, some.choice)] == [4, 2, 2]
    assert some.prob_of(some.choice).equal(fused.prob_of(fused.choice)[[3, 1]])
    assert read == [4]


@here
@pytest.mark.parametrize("each", [1, 3, 100])
def test_any_split_of_the_rows_gives_the_same(each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that a step tells, of rows in another order than they lie in as well."""
    built = case(3, 500, 300)

    def told_of(rows: list[int]) -> Tensor:
        mixture = mixed(built, lambda side, only: side.fused(only).rows(rows), top_k=5)
        assert isinstance(mixture, FusedMixture)
        return mixture.numbers

    before, of_some = bits(built.base.fused()), told_of([2, 0])
    assert of_some.equal(told_of([0, 1, 2])[[2, 0]])
    monkeypatch.setattr("blendin.kernels.rows.chunks_per_program", lambda *_: each)
    assert bits(built.base.fused()).equal(before) and told_of([2, 0]).equal(of_some)


def test_the_split_is_one_chunk_in_small_batches_and_a_row_in_huge_ones() -> None:
    assert chunks_per_program(2 * 63, 63, 132) == 1
    assert chunks_per_program(2 * 64 * 63, 63, 132) == 1
    assert chunks_per_program(2 * 100_000 * 63, 63, 132) == 64


@here
def test_ties_at_the_edge_of_the_top_k_go_to_the_lower_id() -> None:
    """All logits equal: the k lowest candidates, whose partners outweigh the guide's own."""
    built = case(1, 300, 300, scale=0.0, ends=(1, 1))
    for side in (built.base, built.guide):
        side.logits[:, side.model.ends] = -torch.inf
    for k in (1, 8, 16, 100):
        ours, theirs = (
            side.model.symbols[side.model.candidates.nonzero()[:k, 0]].tolist()
            for side in (built.base, built.guide)
        )
        both = sorted(set(ours) & set(theirs))
        mixture = mixed(built, Side.fused, top_k=k, alpha=0.5)
        assert int(mixture.choice) == (both[0] if both else min(ours + theirs))
        shares = [float(share) for share in mixture.shares(mixture.choice)]
        assert all(shares) if both else sorted(shares)[0] == 0


@here
def test_what_is_outside_a_models_top_k_has_no_weight_there() -> None:
    """Two vocabularies of the same ten tokens, the last of them END; k = 2 and α = 0.5."""
    tables = two_of(10, 9)

    def decided(base: dict[int, float], guide: dict[int, float]) -> tuple[int, int]:
        """(symbol, sides) of given probabilities; the other tokens share the rest."""
        rows = []
        for given_probs in (base, guide):
            row = torch.full((1, 10), (1 - sum(given_probs.values())) / (10 - len(given_probs)))
            for token, prob in given_probs.items():
                row[0, token] = prob
            rows.append(row.log())
        built = Case.of(*rows, tables, Geometry(16, 1))
        check_mixture(built, top_k=2, alpha=0.5)
        mixture = mixed(built, Side.fused, top_k=2, alpha=0.5)
        of_base, of_guide = mixture.shares(mixture.choice)
        return int(mixture.choice), int(of_base > 0) + 2 * int(of_guide > 0)

    end = two_of(10, 9).end
    # 1 is third in the guide, which takes from it just what it lacks against 0.
    assert decided({0: 0.34, 1: 0.33}, {2: 0.3, 3: 0.28, 1: 0.26, 0: 0.0}) == (0, 1)
    assert decided({2: 0.3, 3: 0.28, 1: 0.26, 0: 0.0}, {0: 0.34, 1: 0.33}) == (0, 2)
    # END is likelier than the second token, 1, and takes its place: it is left to the other model.
    assert decided({0: 0.35, 9: 0.3, 1: 0.25}, {2: 0.4, 1: 0.38, 9: 0.01}) == (2, 2)
    assert decided({2: 0.4, 1: 0.38, 9: 0.01}, {0: 0.35, 9: 0.3, 1: 0.25}) == (2, 1)
    # END that is no better than the second token is one more, in both models.
    assert decided({0: 0.35, 9: 0.25, 1: 0.25}, {2: 0.4, 1: 0.38, 9: 0.01}) == (1, 3)
    assert decided({0: 0.3, 1: 0.26, 9: 0.22}, {2: 0.3, 3: 0.26, 9: 0.22}) == (end, 3)


@here
def test_a_symbol_in_neither_list_may_win_over_the_whole_vocabulary() -> None:
    """Each model has twenty favourites of its own; both like token 50."""
    base, guide = torch.zeros(1, 100), torch.zeros(1, 100)
    base[:, :20], guide[:, 20:40] = 1.0, 1.0
    base[:, 50], guide[:, 50] = 0.9, 0.9
    for geometry in (None, SMALL):
        mixture = mixed(
            Case.of(base, guide, two_of(100, 99), geometry), Side.fused, top_k=None, alpha=0.5
        )
        assert mixture.choice.tolist() == [50]
        assert all(float(share) > 0 for share in mixture.shares(mixture.choice))


@here
@pytest.mark.parametrize("k", [2, 6, None])
def test_many_rows_are_mixed_as_the_dense_path_mixes(k: int | None) -> None:
    built = case(500 if NATIVE else 8, 90, 110, scale=1.5, seed=11)
    assert check_mixture(built, top_k=k) == len(built.base.logits)


@here
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
@pytest.mark.parametrize("candidates_only", [False, True])
def test_a_row_that_is_not_numbers_has_no_probability(
    bad: float | None, candidates_only: bool
) -> None:
    """Rows 0 and 1; the others are as they are without these."""
    built = case(4, 100, 90)
    for side in (built.base, built.guide):
        before = bits(side.fused(candidates_only))
        for row, id in ((0, 0), (1, side.logits.shape[1] - 1)):
            if bad is None:
                side.logits[row] = -torch.inf
            else:
                side.logits[row, id] = bad
        fused = side.fused(candidates_only)
        assert fused.top_prob.isnan().tolist() == [True, True, False, False]
        assert bits(fused)[2:].equal(before[2:])
        # What is chosen is never beyond the symbols, so that tables can be read with it.
        assert ((fused.choice >= 0) & (fused.choice <= side.model.end)).all()
        assert fused.prob_of(fused.choice).isnan().tolist() == [True, True, False, False]
        symbols, probs, _, _ = fused.top(5)
        assert ((symbols >= 0) & (symbols <= side.model.end)).all()
        assert probs[:2].isnan().any(dim=1).all() and not probs[2:].isnan().any()


@here
@pytest.mark.parametrize("k", [1, 5, None])
def test_minus_infinity_is_a_probability_of_zero(k: int | None) -> None:
    built = case(2, 150, 100)
    built.base.logits[:, torch.rand(150, device=DEVICE) < 0.9] = -torch.inf
    built.guide.logits[:, 64:] = -torch.inf
    built.base.logits[:, built.base.model.ends] = 0.5
    built.guide.logits[:, built.guide.model.ends] = 0.25
    assert check_mixture(built, top_k=k)
    for side in (built.base, built.guide):
        for candidates_only in (False, True):
            check_side(side, k, candidates_only)


@here
def test_where_no_candidate_has_weight_its_probability_is_zero() -> None:
    side = case(1, 100, 90).guide
    side.logits[:] = -torch.inf
    special = (~side.model.candidates).index_fill(0, side.model.ends, False)
    side.logits[:, special] = 1.0
    guide = side.fused(candidates_only=True)
    assert guide.top_prob.tolist() == [0] and not guide.top(5).probs.any()
    assert float(side.fused().top_prob) == pytest.approx(1 / int(special.sum()))


@here
@pytest.mark.parametrize("k", [1, 5, None])
def test_end_wins_with_the_weight_of_all_end_tokens(k: int | None) -> None:
    base, guide = (torch.linspace(0, 0.1, 40).repeat(2, 1) for _ in range(2))
    base[:, 5], base[:, 9], base[:, 7] = 3.0, 3.5, 3.6
    guide[:, 5], guide[:, 9] = 2.0, 6.0
    built = Case.of(base, guide, two_of(40, 5, 9))
    for side in (built.base, built.guide):
        for candidates_only in (False, True):
            assert side.fused(candidates_only).choice.tolist() == [built.end] * 2
            check_side(side, k, candidates_only)
    assert mixed(built, Side.fused, top_k=k).choice.tolist() == [built.end] * 2
    assert check_mixture(built, top_k=k)


@here
@pytest.mark.parametrize("k", [5, None])
def test_alpha_one_is_the_guides_own_distribution(k: int | None) -> None:
    built = case(3, 70, 60)
    guide = built.guide.fused(candidates_only=True)
    mixture = mixed(built, Side.fused, top_k=k, alpha=1.0)
    assert mixture.choice.equal(guide.choice) and not mixture.base.any()


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_end_has_one_probability_wherever_it_is_read(dtype: torch.dtype) -> None:
    """Of three end tokens, to the bit: a gate and a list must not differ on it."""
    built = case(16, 60, 50, dtype=dtype, ends=(3, 3))
    for side in (built.base, built.guide):
        side.logits[:, side.model.ends] += 9
        for made in (side.fused(), side.dense(), side.fused().rows([3, 1])):
            ends = torch.full_like(made.choice, side.model.end)
            assert made.choice.equal(ends) and made.top(5).probs[:, -1].equal(made.top_prob)


@here
def test_no_rows_are_no_launch() -> None:
    side = case(4, 300, 200).base.some([])
    fused = side.fused()
    assert [len(part) for part in (fused.choice, fused.top_prob, fused.top(5).probs)] == [0] * 3


@here
def test_logits_that_do_not_fit_are_refused() -> None:
    side = case(2, 100, 90).base
    for logits, said in (
        (side.logits[:, :50], "must be"),
        (side.logits.T.contiguous().T, "each row contiguous"),
        (side.logits.double(), "16 or 32 bits"),
    ):
        with pytest.raises(ValueError, match=said):
            _ = FusedPrediction(logits, side.model, side.kernels).choice


@here
def test_what_the_kernels_cannot_read_is_read_by_torch() -> None:
    side = case(2, 100, 90).base
    for dtype, kind in ((torch.float32, FusedPrediction), (torch.float64, DensePrediction)):
        made = predict(side.logits.to(dtype), side.model, kernels=side.kernels)
        assert type(made) is kind
    assert type(predict(side.logits, side.model)) is DensePrediction


@pytest.mark.skipif(not NATIVE or INTERPRETED, reason="asks CUDA")
def test_the_host_never_waits() -> None:
    built = case(4, 3000, 2000, geometry=None)
    for mode in ("default", "error"):  # the first compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            mixed(built, lambda side, only: side.fused(only).rows([2, 0]), top_k=5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
