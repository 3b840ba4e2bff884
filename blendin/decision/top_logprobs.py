"""A step's mathematics where a model tells its likeliest tokens only, as servers do.

What is listed is exact, for servers normalise over the whole vocabulary: p_b and its choice, p_g
and t_g, the probability of every listed token. Cut short is the rest: P(END) counts the end tokens
that are listed, P_B(t_g) is 0 where the base does not list t_g, and top k lists are as long as what
is listed leaves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import dense as decision
from .dense import Candidates, Gate, GuideView, SymbolTables, with_end


class Listed(NamedTuple):
    """What a model tells of N next-token distributions.

    Attributes:
        tokens: `[N, K]` int64, the likeliest and perhaps others, no two alike in a row; -1 pads.
        log_probs: `[N, K]` float32, theirs at temperature 1, over the whole vocabulary; -inf pads.
        width: V, the size of that vocabulary.
    """

    tokens: Tensor
    log_probs: Tensor
    width: int

    def to(self, device: torch.device | str) -> Listed:
        return Listed(self.tokens.to(device), self.log_probs.to(device), self.width)

    def rows(self, rows: list[int]) -> Listed:
        return Listed(self.tokens[rows], self.log_probs[rows], self.width)

    def scores(self, row: int) -> Tensor:
        """`[V]` float32 log-probabilities of one row; -inf for tokens that are not listed."""
        scores = self.log_probs.new_full((self.width,), -torch.inf)
        known = self.tokens[row] >= 0
        scores[self.tokens[row][known]] = self.log_probs[row][known]
        return scores

    def log_prob_at(self, row: int, token: int) -> float:
        """Of one token of one row; -inf where it is not listed."""
        found = self.log_probs[row][self.tokens[row] == token]
        return float(found[0]) if len(found) else -torch.inf

    def are(self, tokens: Tensor) -> Tensor:
        """`[N, K]` bool, which of them are among some tokens, `[E]` int64."""
        return torch.isin(self.tokens, tokens)

    def best(self, allowed: Tensor, ends: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """The likeliest symbol of each row, the end tokens taken together as one.

        Args:
            allowed: `[N, K]` bool, the tokens among which to choose.
            ends: `[E]` int64, the end tokens.
            end: the symbol END.

        Returns:
            `[N]` int64, a token (the lowest of equals) or `end`, and `[N]` float32, its
            log-probability; -inf where no token is allowed.
        """
        is_end = self.are(ends)
        end_score = self.log_probs.masked_fill(~is_end, -torch.inf).logsumexp(dim=-1)
        scores = self.log_probs.masked_fill(is_end | ~allowed, -torch.inf)
        score = scores.amax(dim=-1)
        token = self.tokens.where(scores == score[:, None], self.width).amin(dim=-1)
        ends_win = end_score > score
        return token.masked_fill(ends_win, end), score.maximum(end_score)

    def candidates(
        self,
        allowed: Tensor,
        ends: Tensor,
        end: int,
        k: int | None,
        symbols_of: Callable[[Tensor], Tensor] = lambda tokens: tokens,
    ) -> Candidates:
        """The top k symbols (all that are listed where k is None), and END.

        Args:
            allowed: `[V]` bool, the tokens that are candidates; the others have probability 0.
            ends: `[E]` int64, the end tokens.
            end: the symbol END.
            k: how many.
            symbols_of: the symbols of tokens, int64 of one shape.
        """
        scores = self.log_probs.masked_fill(~allowed[self.tokens.clamp(min=0)], -torch.inf)
        count = scores.shape[1] if k is None else min(k, scores.shape[1])
        top, places = scores.topk(count, dim=-1)
        tokens = self.tokens.gather(-1, places)
        # Padding stands as a token that is no candidate of either model, or it would meet one.
        symbols = symbols_of(tokens.where(tokens >= 0, ends[0]))
        found = with_end(top.exp(), symbols, self.end_prob(ends), end, is_cut=count == k)
        return found if k is not None else found._replace(unlisted=self.unlisted())

    def end_prob(self, ends: Tensor) -> Tensor:
        """`[N]` float32, P(END) as far as its tokens are listed."""
        return (self.log_probs.exp() * self.are(ends)).sum(dim=-1)

    def unlisted(self) -> Tensor:
        """`[N]` float32, the probability of all that is not listed."""
        return (1 - self.log_probs.exp().sum(dim=-1)).clamp(min=0)


class ListedGate(NamedTuple):
    """`decision.Gate` of a base that lists its likeliest tokens.

    Attributes:
        tokens: as `Listed`'s.
        log_probs: likewise.
        top_prob: `[N]` float32, p_b.
        choice: `[N]` int64, the base's argmax symbol.
    """

    tokens: Tensor
    log_probs: Tensor
    top_prob: Tensor
    choice: Tensor

    @property
    def listed(self) -> Listed:
        """Its rows; how wide the vocabulary is no longer matters."""
        return Listed(self.tokens, self.log_probs, 0)

    def prob_of(self, symbols: Tensor, tables: SymbolTables) -> Tensor:
        """P_B of one symbol a row, `[N]` int64 to `[N]` float32; 0 for tokens not listed."""
        here = self.tokens == symbols[:, None]
        own = (self.log_probs.exp() * here).sum(dim=-1)
        end_prob = self.listed.end_prob(tables.base_ends)
        return torch.where(symbols == tables.end, end_prob, own)

    def rank_of(self, symbols: Tensor, tables: SymbolTables) -> Tensor:
        """The place of one symbol a row among the base's tokens; 0 for tokens not listed."""
        prob = self.prob_of(symbols, tables)
        rank = 1 + (self.log_probs > prob.log()[:, None]).sum(dim=-1)
        return rank.masked_fill(prob == 0, 0)

    def log_prob_at(self, row: int, token: int) -> float:
        """log P_B of one token of one row; -inf where it is not listed."""
        return self.listed.log_prob_at(row, token)

    def candidates(self, tables: SymbolTables, k: int | None) -> Candidates:
        """The base's, as `Listed.candidates`."""
        return self.listed.candidates(tables.base_candidates, tables.base_ends, tables.end, k)


class ListedGuide(NamedTuple):
    """`decision.GuideView` of a guide that lists its likeliest tokens.

    Attributes:
        tokens: as `Listed`'s.
        log_probs: likewise.
        top_prob: `[N]` float32, p_g = P_G(t_g); 0 where no token that is listed may be emitted.
        choice: `[N]` int64, the symbol t_g.
    """

    tokens: Tensor
    log_probs: Tensor
    top_prob: Tensor
    choice: Tensor

    @property
    def listed(self) -> Listed:
        """As `ListedGate.listed`."""
        return Listed(self.tokens, self.log_probs, 0)

    def prob_at(self, row: int, token: int) -> float:
        """P_G of one token of one row; 0 where it is not listed."""
        return math.exp(self.listed.log_prob_at(row, token))

    def candidates(self, tables: SymbolTables, k: int | None) -> Candidates:
        """The guide's, as `Listed.candidates`."""
        return self.listed.candidates(
            tables.guide_candidates,
            tables.guide_ends,
            tables.end,
            k,
            tables.guide_symbols.__getitem__,
        )


Rows = Tensor | Listed
"""A model's word on N steps: `[N, V]` logits, or the log-probabilities of its likeliest tokens."""


def scores_of(rows: Rows, row: int) -> Tensor:
    """`[V]` scores to draw one row's token from: logits, or log-probabilities and -inf."""
    return rows.scores(row) if isinstance(rows, Listed) else rows[row]


def some(rows: Rows, wanted: list[int]) -> Rows:
    """Some rows of a batch; the batch itself, uncopied, where that is all of them."""
    if wanted == list(range(len(rows[0]) if isinstance(rows, Listed) else len(rows))):
        return rows
    return rows.rows(wanted) if isinstance(rows, Listed) else rows[wanted]


def gate(rows: Rows, tables: SymbolTables) -> Gate | ListedGate:
    """As `decision.gate`, of rows of either kind."""
    if not isinstance(rows, Listed):
        return decision.gate(rows, tables)
    everything = rows.tokens >= 0
    choice, score = rows.best(everything, tables.base_ends, tables.end)
    return ListedGate(rows.tokens, rows.log_probs, score.exp(), choice)


def consult(rows: Rows, tables: SymbolTables) -> GuideView | ListedGuide:
    """As `decision.consult`, of rows of either kind."""
    if not isinstance(rows, Listed):
        return decision.consult(rows, tables)
    allowed = tables.guide_candidates[rows.tokens.clamp(min=0)] & (rows.tokens >= 0)
    token, score = rows.best(allowed, tables.guide_ends, tables.end)
    is_end = token == tables.end
    symbol = tables.guide_symbols[token.masked_fill(is_end, 0).clamp(max=rows.width - 1)]
    return ListedGuide(
        rows.tokens, rows.log_probs, score.exp(), torch.where(is_end, tables.end, symbol)
    )
