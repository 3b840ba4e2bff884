"""What one model says of a next token: one view of logits, lists and kernels alike.

A `Prediction` speaks in symbols and is the same for base and guide. `DensePrediction` makes one
of logits with torch, `fused.FusedPrediction` with Triton, and `top_logprobs.ListedPrediction` of a
server's likeliest tokens.

Source: BlendIn (arXiv 2606.11201), Algorithm 1; NUDGING (arXiv 2410.09300).
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

from ..forks import cached_property
from .cpu import log_sum_exp, row_max, row_top
from .likeliest import Likeliest, likeliest
from .mixture import Candidates
from .symbols import ModelSymbols


class Prediction(Protocol):
    """One model's next-token distributions, N rows.

    The base's, and a guide's that decodes alone, range over all its tokens. That of a guide at an
    intervention ranges over its candidates and END; probabilities are of the whole softmax.
    """

    @property
    def top_prob(self) -> Tensor:
        """`[N]` float32, p_b or p_g: the probability of `choice`; NaN where the logits are."""
        ...

    @property
    def choice(self) -> Tensor:
        """`[N]` int64, the argmax symbol, the lowest of equals; t_g of a guide."""
        ...

    def prob_of(self, symbols: Tensor) -> Tensor:
        """The probability of one symbol a row, `[N]` int64 to `[N]` float32; 0 if it lacks it."""
        ...

    def top_prob_at(self, temperature: float) -> Tensor:
        """`top_prob` of softmax(logits / temperature), whose likeliest symbol may be END instead.

        Raises:
            ValueError: the model tells its likeliest tokens only, and the temperature is not 1.
        """
        ...

    def prob_at(self, symbols: Tensor, temperature: float) -> Tensor:
        """`prob_of` of softmax(logits / temperature); raises as `top_prob_at`."""
        ...

    def rank_of(self, symbols: Tensor) -> Tensor:
        """The rank of one symbol a row among all tokens, `[N]` int64: 1 is the likeliest.

        0 for a symbol that the model lacks. Tokens as likely as the symbol do not count.
        """
        ...

    def top(self, k: int | None) -> Candidates:
        """The top k candidates (all of them where k is None) and END."""
        ...

    def likeliest(self, n: int) -> Likeliest:
        """The n likeliest symbols: all tokens, no candidates too, and END."""
        ...

    def knows(self, symbols: Tensor) -> Tensor:
        """Where `prob_of` is what the model says, not 0 for want of a longer list; `[N]` bool."""
        ...

    def is_shared(self, symbols: Tensor) -> Tensor:
        """Which symbols the other model may emit too, int64 of any shape to bool."""
        ...

    def log_probs(self, tokens: Tensor) -> Tensor:
        """The log-probability of one of the model's own tokens a row, `[N]` to `[N]` float32."""
        ...

    def end_log_probs(self, row: int) -> list[float]:
        """Those of each end token of one row, in ascending order of the ids."""
        ...

    def scores(self, row: int) -> Tensor:
        """`[V]` logits or log-probabilities of one row, to draw a token from."""
        ...

    def rows(self, rows: list[int]) -> Self:
        """Some of the rows; the prediction itself where that is all of them."""
        ...


class DensePrediction:
    """A `Prediction` from whole rows of logits."""

    def __init__(self, logits: Tensor, model: ModelSymbols, candidates_only: bool = False) -> None:
        """Reads nothing yet.

        Args:
            logits: `[N, V]`, of any float dtype.
            model: whose they are; its tensors on the same device.
            candidates_only: `choice` is among the candidates and END.
        """
        self.logits, self.model, self.candidates_only = logits, model, candidates_only
        self._log_totals: dict[float, Tensor] = {}

    @cached_property
    def log_total(self) -> Tensor:
        """`[N]` float32, log Σ exp of the logits."""
        return log_sum_exp(self.logits)

    @cached_property
    def choice(self) -> Tensor:
        # Taken on logits rather than probabilities, as `generate` does: float32 probabilities can
        # tie where logits do not.
        model = self.model
        if self.candidates_only:
            score, token = row_max(self._candidate_scores)
        else:
            logits = self.logits.float()
            score, token = row_max(logits)
            if bool((token[:, None] == model.ends).any()):  # rare, and a copy of every logit
                score, token = row_max(logits.index_fill(-1, model.ends, -torch.inf))
        return torch.where(self._end_score > score, model.end, model.symbols[token])

    @cached_property
    def top_prob(self) -> Tensor:
        return self.prob_of(self.choice)

    def prob_of(self, symbols: Tensor) -> Tensor:
        return (self._scores_of(symbols) - self.log_total).exp()

    def top_prob_at(self, temperature: float) -> Tensor:
        if temperature == 1:
            return self.top_prob
        return (self._top_score_at(temperature) - self._log_total_at(temperature)).exp()

    def prob_at(self, symbols: Tensor, temperature: float) -> Tensor:
        if temperature == 1:
            return self.prob_of(symbols)
        score = torch.where(
            symbols == self.model.end,
            self._end_score_at(temperature),
            self._scores_of(symbols) / temperature,
        )
        return (score - self._log_total_at(temperature)).exp()

    def rank_of(self, symbols: Tensor) -> Tensor:
        rank = 1 + (self.logits > self._scores_of(symbols)[:, None]).sum(dim=-1)
        return rank.masked_fill(self._lacks(symbols), 0)

    def top(self, k: int | None) -> Candidates:
        if k is None or k >= self.logits.shape[1]:
            return self._everything
        scores, tokens = row_top(self._candidate_scores, k)
        probs = (scores - self.log_total[:, None]).exp()
        symbols = self.model.symbols[tokens]
        return with_end(probs, symbols, self._end_prob, self.model.end, is_cut=True)

    def likeliest(self, n: int) -> Likeliest:
        ends, width = self.model.ends, self.logits.shape[1]
        scores, tokens = row_top(self.logits, min(n + len(ends), width))
        scores = scores.float().masked_fill(torch.isin(tokens, ends), -torch.inf)
        scores = torch.cat([scores, self._end_score[:, None]], dim=-1)
        end = torch.full_like(tokens[:, :1], self.model.end)
        symbols = torch.cat([self.model.symbols[tokens], end], dim=-1)
        places = torch.cat([tokens, end], dim=-1)  # `choice`, too, prefers the lower token
        return likeliest(symbols, (scores - self.log_total[:, None]).exp(), scores, places, n)

    def knows(self, symbols: Tensor) -> Tensor:
        return torch.ones_like(symbols, dtype=torch.bool)

    def candidate_probs(self, symbols: Tensor) -> Tensor:
        """Of `[N, C]` symbols, as `top(None)` lists them: 0 for what is no candidate."""
        tokens = self.model.tokens[symbols]
        scores = self.logits.gather(-1, tokens.clamp(min=0)).float()
        is_candidate = self.model.candidates[tokens.clamp(min=0)] & (tokens >= 0)
        scores = scores.masked_fill(~is_candidate, -torch.inf)
        scores = torch.where(symbols == self.model.end, self._end_score[:, None], scores)
        return (scores - self.log_total[:, None]).exp()

    def is_shared(self, symbols: Tensor) -> Tensor:
        return self.model.shared[symbols]

    def log_probs(self, tokens: Tensor) -> Tensor:
        return self.logits.gather(-1, tokens[:, None])[:, 0].float() - self.log_total

    def end_log_probs(self, row: int) -> list[float]:
        logits = self.logits[row, self.model.ends].double()
        return (logits - self.log_total[row].double()).tolist()

    def scores(self, row: int) -> Tensor:
        return self.logits[row]

    def rows(self, rows: list[int]) -> Self:
        if rows == list(range(len(self.logits))):
            return self
        some = type(self)(self.logits[rows], self.model, self.candidates_only)
        for name in ("log_total", "choice", "top_prob"):
            if name in self.__dict__:
                some.__dict__[name] = self.__dict__[name][rows]
        some._log_totals = {key: each[rows] for key, each in self._log_totals.items()}
        return some

    @cached_property
    def _everything(self) -> Candidates:
        """All candidates; the others have probability 0."""
        probs = torch.cat([self._candidate_scores, self._end_score[:, None]], dim=-1)
        probs.sub_(self.log_total[:, None]).exp_()
        symbols = self.model.all_symbols.expand(len(probs), -1)
        return Candidates(symbols, probs, torch.zeros_like(self.log_total), self.model.end)

    @cached_property
    def _candidate_scores(self) -> Tensor:
        """`[N, V]` float32 logits, -inf for tokens that are no candidates."""
        return self.logits.float().masked_fill(~self.model.candidates, -torch.inf)

    @cached_property
    def _end_score(self) -> Tensor:
        return self.logits[:, self.model.ends].float().logsumexp(dim=-1)

    def _end_score_at(self, temperature: float) -> Tensor:
        return (self.logits[:, self.model.ends].float() / temperature).logsumexp(dim=-1)

    def _top_score_at(self, temperature: float) -> Tensor:
        """The highest of the symbols' logits / temperature, `[N]` float32."""
        score = self._scores_of(self.choice)
        is_end = self.choice == self.model.end
        if bool(is_end.any()):  # rare: END may give way to the likeliest token
            tokens = self.model.candidates if self.candidates_only else None
            logits = self.logits[is_end].float().index_fill(-1, self.model.ends, -torch.inf)
            if tokens is not None:
                logits.masked_fill_(~tokens, -torch.inf)
            score = score.masked_scatter(is_end, logits.amax(dim=-1))
        return (score / temperature).maximum(self._end_score_at(temperature))

    def _log_total_at(self, temperature: float) -> Tensor:
        """`[N]` float32, log Σ exp of the logits / temperature."""
        if temperature not in self._log_totals:
            self._log_totals[temperature] = log_sum_exp(self.logits, temperature)
        return self._log_totals[temperature]

    @property
    def _end_prob(self) -> Tensor:
        # As `prob_of` and `top_prob` have it, to the bit: what is compared must be one number.
        return (self._end_score - self.log_total).exp()

    def _lacks(self, symbols: Tensor) -> Tensor:
        return (self.model.tokens[symbols] < 0) & (symbols != self.model.end)

    def _scores_of(self, symbols: Tensor) -> Tensor:
        """The logits of one symbol a row, `[N]` float32; -inf for symbols the model lacks."""
        tokens = self.model.tokens[symbols].clamp(min=0)
        score = self.logits.gather(-1, tokens[:, None])[:, 0].float()
        score = score.masked_fill(self._lacks(symbols), -torch.inf)
        return torch.where(symbols == self.model.end, self._end_score, score)


def with_end(
    probs: Tensor, symbols: Tensor, end_prob: Tensor, end: int, is_cut: bool
) -> Candidates:
    """Lets END compete for a place among the k, and lists it last either way.

    Args:
        probs: `[N, k]` float32, in descending order where they are cut.
        symbols: `[N, k]` int64.
        end_prob: `[N]` float32.
        end: the symbol END.
        is_cut: whether further candidates were left out, so that END takes the place of the last.
    """
    if is_cut:
        probs[:, -1].masked_fill_(end_prob > probs[:, -1], 0)
    ends = torch.full_like(symbols[:, :1], end)
    return Candidates(
        torch.cat([symbols, ends], dim=-1),
        torch.cat([probs, end_prob[:, None]], dim=-1),
        torch.zeros_like(end_prob),
        end,
    )


def total_variation(one: Tensor, other: Tensor) -> Tensor:
    """The distance of two models' next-token distributions, from 0 to 1: `[..., V]` logits each.

    Unlike a difference of logits it ignores tokens that neither model would choose.
    """
    apart = torch.softmax(one.float(), dim=-1) - torch.softmax(other.float(), dim=-1)
    return apart.abs().sum(dim=-1) / 2
