"""Lists of the likeliest tokens decide as whole distributions do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_decision import Case, cases, dense

from blendin import Blend
from blendin.decision.predict import predict, rows_of
from blendin.decision.prediction import Prediction
from blendin.decision.symbols import SymbolTables
from blendin.decision.top_logprobs import TopLogprobs


def listed(logits: torch.Tensor, k: int) -> TopLogprobs:
    """The top k of each row, as a server tells them, padded by one."""
    log_probs = torch.log_softmax(logits.double(), -1).float()
    values, tokens = log_probs.topk(min(k, logits.shape[1]), dim=-1)
    return TopLogprobs(
        torch.nn.functional.pad(tokens, (0, 1), value=-1),
        torch.nn.functional.pad(values, (0, 1), value=-torch.inf),
        logits.shape[1],
    )


def is_plain(case: Case) -> bool:
    """No two tokens of a row tie, so that there is one right answer."""
    return all(
        len(set(row.float().tolist())) == len(row)
        for logits in (case.base_logits, case.guide_logits)
        for row in logits
    )


@given(cases().filter(is_plain), st.sampled_from((None, 1, 3, 100)), st.sampled_from((None, 0.5)))
def test_with_every_token_listed_nothing_changes(
    case: Case, top_k: int | None, alpha: float | None
) -> None:
    tables = case.tables
    whole: tuple[Prediction, Prediction] = case.base(), case.guide()
    lists = (
        predict(listed(case.base_logits, 100), tables.base),
        predict(listed(case.guide_logits, 100), tables.guide, candidates_only=True),
    )
    for one, other in zip(whole, lists, strict=True):
        assert one.choice.tolist() == other.choice.tolist()
        torch.testing.assert_close(one.top_prob, other.top_prob)
    ranks = [views[0].rank_of(views[1].choice) for views in (whole, lists)]
    assert int((ranks[0] - ranks[1]).abs().max()) <= 1  # END's sum ties with a token in float32
    blends = [Blend(top_k=top_k, alpha=alpha).mix(*views) for views in (whole, lists)]
    torch.testing.assert_close(blends[0].alpha, blends[1].alpha)
    torch.testing.assert_close(*(dense(each, tables.end) for each in blends), rtol=1e-4, atol=1e-6)
    assert bool((blends[1].unlisted < 1e-5).all())


@given(cases().filter(is_plain), st.integers(1, 6))
def test_what_is_listed_is_exact_and_the_rest_is_left_out(case: Case, k: int) -> None:
    tables = case.tables
    whole, short = case.base(), predict(listed(case.base_logits, k), tables.base)
    log_probs = torch.log_softmax(case.base_logits.double(), -1)
    for row in range(len(case.base_logits)):
        kept = set(log_probs[row].topk(min(k, log_probs.shape[1])).indices.tolist())
        for token in range(log_probs.shape[1]):
            tokens = torch.full((len(case.base_logits),), token)
            told = float(short.log_probs(tokens)[row])
            assert (told > -torch.inf) == (token in kept)
            if token in kept:
                assert abs(told - float(log_probs[row, token])) < 1e-5
        found = short.top(None)
        total = float(found.probs[row].sum() + found.unlisted[row])
        barred = sum(
            float(log_probs[row, token].exp())
            for token in kept - set(tables.base_ends.tolist())
            if not tables.base_candidates[token]
        )
        assert abs(total - (1 - barred)) < 1e-5
    ends_listed = [
        set(t.tolist()) >= set(tables.base_ends.tolist())
        for t in listed(case.base_logits, k).tokens
    ]
    for row, complete in enumerate(ends_listed):
        if complete:  # else P(END) is cut short, and may be too small to be the choice
            assert int(short.choice[row]) == int(whole.choice[row])


@given(cases().filter(is_plain), st.integers(1, 6), st.integers(1, 8))
def test_the_likeliest_are_those_of_the_whole_as_far_as_they_are_listed(
    case: Case, k: int, n: int
) -> None:
    """By brute force: all tokens, end tokens together, from the likeliest down."""
    model = case.tables.base
    ends, probs = model.ends.tolist(), torch.softmax(case.base_logits.double(), -1).tolist()
    whole, short = case.base(), predict(listed(case.base_logits, k), model)
    for row, own in enumerate(probs):
        known = set(listed(case.base_logits, k).tokens[row, :-1].tolist())
        for prediction, tokens in ((whole, set(range(len(own)))), (short, known)):
            expected = {id: own[id] for id in tokens - set(ends)}
            expected[model.end] = sum(own[id] for id in tokens & set(ends))
            found = prediction.likeliest(n)
            pairs = zip(found.symbols[row].tolist(), found.probs[row].tolist(), strict=True)
            told = {symbol: prob for symbol, prob in pairs if prob > 0}
            best = sorted((p for p in expected.values() if p > 0), reverse=True)[:n]
            assert list(told.values()) == pytest.approx(best, abs=1e-5)
            for symbol, prob in told.items():
                assert prob == pytest.approx(expected[symbol], abs=1e-5)
            lacked = model.end - 1  # of the guide alone, or its own second symbol
            for symbol in [*range(len(own)), model.end, lacked]:
                symbols = torch.full((len(probs),), symbol)
                is_known = symbol in tokens or symbol == lacked
                is_known |= symbol == model.end and bool(tokens & set(ends))
                assert bool(prediction.knows(symbols)[row]) == is_known


@given(cases())
def test_scores_to_draw_from_are_the_listed_ones(case: Case) -> None:
    rows = listed(case.base_logits, 3)
    prediction = predict(rows, case.tables.base)
    for row in range(len(case.base_logits)):
        scores = prediction.scores(row)
        assert scores.shape == case.base_logits[row].shape
        assert int((scores > -torch.inf).sum()) == min(3, len(scores))
    picked = rows_of(rows, [0])
    assert isinstance(picked, TopLogprobs) and picked.tokens.shape[0] == 1


def test_where_nothing_may_be_emitted_the_guide_has_no_probability() -> None:
    tables = SymbolTables(
        base_ends=torch.tensor([3]),
        guide_ends=torch.tensor([3]),
        base_candidates=torch.tensor([True, True, True, False]),
        guide_candidates=torch.tensor([True, True, False, False]),
        guide_symbols=torch.tensor([0, 1, 6, 7]),
    )
    only_barred = TopLogprobs(torch.tensor([[2, -1]]), torch.tensor([[-0.1, -torch.inf]]), 4)
    assert float(predict(only_barred, tables.guide, candidates_only=True).top_prob) == 0
