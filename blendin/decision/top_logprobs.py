"""A `Prediction` of a model that gives the log-probabilities of its likeliest tokens only.

What is listed is exact, for servers normalise over the whole vocabulary: p_b and its choice, p_g
and t_g, the probability of every listed token. The rest is cut short: P(END) counts the end tokens
that are listed, P_B(t_g) is 0 where the base does not list t_g, and lists of the top k are as long
as the server's.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from .likeliest import Likeliest, likeliest
from .mixture import Candidates
from .prediction import with_end
from .symbols import ModelSymbols


class TopLogprobs(NamedTuple):
    """The likeliest next tokens, N rows.

    Attributes:
        tokens: `[N, K]` int64, the likeliest and perhaps others, distinct in a row; -1 pads.
        log_probs: `[N, K]` float32 at temperature 1, over the whole vocabulary; -inf pads.
        width: V, the size of that vocabulary.
    """

    tokens: Tensor
    log_probs: Tensor
    width: int

    def to(self, device: torch.device | str) -> TopLogprobs:
        return TopLogprobs(self.tokens.to(device), self.log_probs.to(device), self.width)

    def rows(self, rows: list[int]) -> TopLogprobs:
        return TopLogprobs(self.tokens[rows], self.log_probs[rows], self.width)


class ListedPrediction:
    """A `Prediction` from the likeliest tokens."""

    def __init__(
        self, listed: TopLogprobs, model: ModelSymbols, candidates_only: bool = False
    ) -> None:
        """Finds the likeliest symbol of each row.

        Args:
            listed: N rows.
            model: whose they are; its tensors on the same device.
            candidates_only: `choice` is among the candidates and END.
        """
        self.listed, self.model, self.candidates_only = listed, model, candidates_only
        tokens, log_probs = listed.tokens, listed.log_probs
        known = tokens >= 0
        self._is_end = torch.isin(tokens, model.ends)
        self._is_candidate = model.candidates[tokens.clamp(min=0)] & known
        end_score = log_probs.masked_fill(~self._is_end, -torch.inf).logsumexp(dim=-1)
        self._end_prob = end_score.exp()
        allowed = self._is_candidate if candidates_only else known
        scores = log_probs.masked_fill(self._is_end | ~allowed, -torch.inf)
        score = scores.amax(dim=-1)
        token = tokens.where(scores == score[:, None], listed.width).amin(dim=-1)
        symbol = model.symbols[token.clamp(min=0, max=listed.width - 1)]
        self.choice = torch.where(end_score > score, model.end, symbol)
        self.top_prob = score.maximum(end_score).exp()
        """As of any `Prediction`; 0 where no listed token may be emitted."""

    def prob_of(self, symbols: Tensor) -> Tensor:
        token = self.model.tokens[symbols]
        here = (self.listed.tokens == token[:, None]) & (token >= 0)[:, None]
        own = (self.listed.log_probs.exp() * here).sum(dim=-1)
        return torch.where(symbols == self.model.end, self._end_prob, own)

    def top_prob_at(self, temperature: float) -> Tensor:
        self._refuse(temperature)
        return self.top_prob

    def prob_at(self, symbols: Tensor, temperature: float) -> Tensor:
        self._refuse(temperature)
        return self.prob_of(symbols)

    def _refuse(self, temperature: float) -> None:
        if temperature != 1:
            raise ValueError(
                f"probabilities at temperature {temperature:g} take the whole softmax, of "
                "which the likeliest tokens are listed"
            )

    def rank_of(self, symbols: Tensor) -> Tensor:
        prob = self.prob_of(symbols)
        rank = 1 + (self.listed.log_probs > prob.log()[:, None]).sum(dim=-1)
        return rank.masked_fill(prob == 0, 0)

    def top(self, k: int | None) -> Candidates:
        listed, model = self.listed, self.model
        scores = listed.log_probs.masked_fill(~self._is_candidate, -torch.inf)
        count = scores.shape[1] if k is None else min(k, scores.shape[1])
        top, places = scores.topk(count, dim=-1)
        tokens = listed.tokens.gather(-1, places)
        # Padding stands as a token that is no candidate of either model, or it would meet one.
        symbols = model.symbols[tokens.where(tokens >= 0, model.ends[0])]
        found = with_end(top.exp(), symbols, self._end_prob, model.end, is_cut=count == k)
        if k is not None:
            return found
        unlisted = (1 - listed.log_probs.exp().sum(dim=-1)).clamp(min=0)
        return found._replace(unlisted=unlisted)

    def likeliest(self, n: int) -> Likeliest:
        listed, model = self.listed, self.model
        tokens = listed.tokens.clamp(min=0, max=listed.width - 1)
        probs = listed.log_probs.exp().masked_fill(self._is_end, 0)
        probs = torch.cat([probs, self._end_prob[:, None]], dim=-1)
        end = torch.full_like(tokens[:, :1], model.end)
        symbols = torch.cat([model.symbols[tokens], end], dim=-1)
        return likeliest(symbols, probs, probs, torch.cat([tokens, end], dim=-1), n)

    def knows(self, symbols: Tensor) -> Tensor:
        token = self.model.tokens[symbols]
        is_end = symbols == self.model.end
        is_listed = (self.listed.tokens == token[:, None]).any(dim=-1)
        return torch.where(is_end, self._is_end.any(dim=-1), is_listed | (token < 0))

    def is_shared(self, symbols: Tensor) -> Tensor:
        return self.model.shared[symbols]

    def log_probs(self, tokens: Tensor) -> Tensor:
        here = self.listed.tokens == tokens[:, None]
        return self.listed.log_probs.masked_fill(~here, -torch.inf).amax(dim=-1)

    def end_log_probs(self, row: int) -> list[float]:
        listed = dict(
            zip(self.listed.tokens[row].tolist(), self.listed.log_probs[row].tolist(), strict=True)
        )
        return [listed.get(end, -torch.inf) for end in self.model.ends.tolist()]

    def scores(self, row: int) -> Tensor:
        scores = self.listed.log_probs.new_full((self.listed.width,), -torch.inf)
        known = self.listed.tokens[row] >= 0
        scores[self.listed.tokens[row][known]] = self.listed.log_probs[row][known]
        return scores

    def rows(self, rows: list[int]) -> Self:
        if rows == list(range(len(self.listed.tokens))):
            return self
        return type(self)(self.listed.rows(rows), self.model, self.candidates_only)
