"""One decoding step's mathematics: pure functions, tensors in, tensors out.

Every function works on N independent rows at once (sequences of a batch, or positions of one
sequence) and knows nothing of models, text or loops. This is the reference implementation and
the CPU path; a fused kernel may replace `gate`, `consult` and `blend` with the same signatures.

A *symbol* is one integer in a joint space of both vocabularies:

    0 .. V_b-1          the base's token with that id
    V_b .. V_b+V_g-1    the guide's token (id + V_b), for tokens the base's vocabulary lacks
    V_b + V_g           END: the union of a model's end tokens

Source: BlendIn (arXiv 2606.11201), Algorithm 1; NUDGING (arXiv 2410.09300).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .top_logprobs import ListedGate, ListedGuide

LISTED_AT_MOST = 512
"""Blends of so many candidates a model are lists; of more, vectors over the joint space."""


class SymbolTables(NamedTuple):
    """Two vocabularies aligned, as tensors on the device of the logits.

    Attributes:
        base_ends: `[E_b]` int64, the base's end token ids.
        guide_ends: `[E_g]` int64, the guide's end token ids.
        base_candidates: `[V_b]` bool, tokens that may be chosen at an intervention (end tokens,
            special tokens, padding rows and duplicates are False).
        guide_candidates: `[V_g]` bool, likewise.
        guide_symbols: `[V_g]` int64, the symbol of each guide token, no two alike: its partner's
            id in the base's vocabulary, or `V_b + id` where there is none.
    """

    base_ends: Tensor
    guide_ends: Tensor
    base_candidates: Tensor
    guide_candidates: Tensor
    guide_symbols: Tensor

    @property
    def end(self) -> int:
        """The symbol END, also one less than the size of the joint space."""
        return self.base_candidates.numel() + self.guide_candidates.numel()

    def to(self, device: torch.device | str) -> SymbolTables:
        return SymbolTables(*(table.to(device) for table in self))


class Gate(NamedTuple):
    """What the base alone says of a step.

    Attributes:
        logits: `[N, V_b]`, as they were given.
        log_total: `[N]` float32, log Σ exp of the logits: P_B(w) is exp(logit of w - log_total).
        top_prob: `[N]` float32, p_b.
        choice: `[N]` int64, the base's argmax symbol (a base id, or END).
    """

    logits: Tensor
    log_total: Tensor
    top_prob: Tensor
    choice: Tensor

    def prob_of(self, symbols: Tensor, tables: SymbolTables) -> Tensor:
        """P_B of one symbol a row, `[N]` int64 to `[N]` float32; 0 for tokens the base lacks."""
        return (_score_of(self.logits, symbols, tables) - self.log_total).exp()

    def rank_of(self, symbols: Tensor, tables: SymbolTables) -> Tensor:
        """As `rank_of`, of these rows."""
        return rank_of(self.logits, symbols, tables)

    def log_prob_at(self, row: int, token: int) -> float:
        """log P_B of one token of one row."""
        return float(self.logits[row, token].float() - self.log_total[row])

    def candidates(self, tables: SymbolTables, k: int | None) -> Candidates:
        """The base's top k symbols (all of them where k is None), and END."""
        scores = self.logits.float().masked_fill(~tables.base_candidates, -torch.inf)
        ends = self.logits[:, tables.base_ends].float() - self.log_total[:, None]
        top, tokens = _top(scores, k)
        probs = (top - self.log_total[:, None]).exp()
        is_cut = probs.shape[1] < scores.shape[1]
        return with_end(probs, tokens, ends.exp().sum(-1), tables.end, is_cut)


class GuideView(NamedTuple):
    """What the guide alone says of a step.

    Attributes:
        probs: `[N, V_g]` float32, the softmax of the raw logits.
        top_prob: `[N]` float32, p_g = P_G(t_g).
        choice: `[N]` int64, the symbol t_g: the argmax over the candidates and END.
    """

    probs: Tensor
    top_prob: Tensor
    choice: Tensor

    def prob_at(self, row: int, token: int) -> float:
        """P_G of one token of one row."""
        return float(self.probs[row, token])

    def candidates(self, tables: SymbolTables, k: int | None) -> Candidates:
        """The guide's top k symbols (all of them where k is None), and END."""
        probs = self.probs.masked_fill(~tables.guide_candidates, 0)
        end_prob = self.probs[:, tables.guide_ends].sum(dim=-1)
        top, tokens = _top(probs, k)
        is_cut = top.shape[1] < probs.shape[1]
        return with_end(top, tables.guide_symbols[tokens], end_prob, tables.end, is_cut)


class Candidates(NamedTuple):
    """One model's candidates at an intervention: its top k symbols and END.

    Attributes:
        symbols: `[N, C]` int64, no two alike in a row but for some of probability 0; END is last.
        probs: `[N, C]` float32, not normalised.
        unlisted: `[N]` float32, the probability of further candidates that are not told apart.
    """

    symbols: Tensor
    probs: Tensor
    unlisted: Tensor

    def dense(self, end: int) -> Tensor:
        """`[N, end + 1]` float32 over the joint space, 0 for symbols that are no candidates."""
        joint = self.probs.new_zeros(len(self.probs), end + 1)
        return joint.scatter_add_(-1, self.symbols, self.probs)


class Blended(NamedTuple):
    """What both models say of an intervention.

    Attributes:
        agreement: `[N]` float32, P_B(t_g); 0 where t_g has no partner in the base's vocabulary.
        alpha: `[N]` float32 in [0, 1], the guide's weight.
        symbols: `[N, C]` int64, the union of both models' candidates; where one stands twice, the
            second has no weight.
        base: `[N, C]` float32, (1-α)·P_B, 0 for symbols that are none of the base's candidates.
        guide: `[N, C]` float32, α·P_G, likewise.
        unlisted: `[N]` float32, the weight of further candidates that are not told apart.
        end: the symbol END.
    """

    agreement: Tensor
    alpha: Tensor
    symbols: Tensor
    base: Tensor
    guide: Tensor
    unlisted: Tensor
    end: int

    @property
    def probs(self) -> Tensor:
        """`[N, end + 1]` float32, P_blend over the joint space: the sum of both, normalised."""
        mixture = Candidates(self.symbols, self.base + self.guide, self.unlisted).dense(self.end)
        return mixture / mixture.sum(dim=-1, keepdim=True)

    @property
    def total(self) -> Tensor:
        """`[N]` float32, what P_blend is normalised by."""
        return (self.base + self.guide).sum(dim=-1) + self.unlisted

    @property
    def choice(self) -> Tensor:
        """`[N]` int64, the argmax symbol; the lowest of equals."""
        weight = self.base + self.guide
        best = weight == weight.amax(dim=-1, keepdim=True)
        return self.symbols.where(best, self.end).amin(dim=-1)

    def weights(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """What each model gives one symbol a row: `[N]` int64 to two of `[N]` float32."""
        here = self.symbols == symbols[:, None]
        return (self.base * here).sum(dim=-1), (self.guide * here).sum(dim=-1)


def next_token_probs(logits: Tensor) -> Tensor:
    """`[N, V]` logits of any float dtype to the `[N, V]` float32 softmax at temperature 1."""
    return torch.softmax(logits.float(), dim=-1)


def total_variation(one: Tensor, other: Tensor) -> Tensor:
    """How far two models' next-token distributions are apart, from 0 to 1: `[..., V]` logits each.

    Unlike a difference of logits it makes nothing of tokens that neither would choose.
    """
    apart = torch.softmax(one.float(), dim=-1) - torch.softmax(other.float(), dim=-1)
    return apart.abs().sum(dim=-1) / 2


def top_symbol(logits: Tensor, ends: Tensor, end: int) -> Tensor:
    """Argmax over the tokens of `[N, V]` logits, the end tokens taken together as one symbol.

    Taken on logits rather than probabilities, as `generate` does: float32 probabilities can tie
    where logits do not. Returns `[N]` int64: a token id (the lowest of equals), or `end`.
    """
    logits = logits.float()
    end_score = logits[:, ends].logsumexp(dim=-1)
    score, token = row_max(logits)
    if bool((token[:, None] == ends).any()):  # rare, and a copy of every logit
        score, token = row_max(logits.index_fill(-1, ends, -torch.inf))
    return torch.where(end_score > score, end, token)


def row_max(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each of `[N, V]` rows and its lowest index; NaN where the row has one.

    In blocks: torch's `max` with indices takes ten times as long as one without on a CPU.
    """
    width = max(1, math.isqrt(rows.shape[1]))
    count = rows.shape[1] // width
    blocks = rows[:, : count * width].view(len(rows), count, width)
    block = blocks.amax(dim=-1).max(dim=-1).indices
    value, place = blocks[torch.arange(len(rows), device=rows.device), block].max(dim=-1)
    index = block * width + place
    if count * width < rows.shape[1]:
        last, place = rows[:, count * width :].max(dim=-1)
        later = (last > value) | last.isnan()
        value, index = last.where(later, value), (place + count * width).where(later, index)
    return value, index


def log_total(logits: Tensor) -> Tensor:
    """`[N]` float32, log Σ exp of `[N, V]` logits; NaN where a row is not numbers.

    By few rows at a time on a CPU, whose caches hold them: several times as fast as `logsumexp`.
    """
    if logits.device.type != "cpu":
        return logits.float().logsumexp(dim=-1)
    totals = []
    for rows in logits.split(4):
        top = rows.amax(dim=-1, keepdim=True).float()
        totals.append((rows.float() - top).exp_().sum(dim=-1).log_() + top[:, 0])
    return torch.cat(totals)


def gate(base_logits: Tensor, tables: SymbolTables) -> Gate:
    """Reads the base's `[N, V_b]` logits: is it confident (`top_prob >= τ`), and in what?"""
    choice = top_symbol(base_logits, tables.base_ends, tables.end)
    view = Gate(base_logits, log_total(base_logits), choice.new_empty(0), choice)
    return view._replace(top_prob=view.prob_of(choice, tables))


def consult(guide_logits: Tensor, tables: SymbolTables) -> GuideView:
    """Reads the guide's `[N, V_g]` logits: its distribution, its choice t_g and p_g."""
    probs = next_token_probs(guide_logits)
    barred = ~tables.guide_candidates.index_fill(0, tables.guide_ends, True)
    token = top_symbol(guide_logits.masked_fill(barred, -torch.inf), tables.guide_ends, tables.end)
    is_end = token == tables.end
    token = token.masked_fill(is_end, 0)
    end_prob = probs[:, tables.guide_ends].sum(dim=-1)
    top_prob = torch.where(is_end, end_prob, probs.gather(-1, token[:, None])[:, 0])
    return GuideView(probs, top_prob, torch.where(is_end, tables.end, tables.guide_symbols[token]))


def rank_of(logits: Tensor, symbols: Tensor, tables: SymbolTables) -> Tensor:
    """The place of one symbol a row among the base's tokens, `[N]` int64: 1 is the likeliest.

    0 for tokens the base lacks. Tokens as likely as the symbol do not count against it.
    """
    score = _score_of(logits, symbols, tables)
    rank = 1 + (logits > score[:, None]).sum(dim=-1)
    return rank.masked_fill((symbols >= logits.shape[-1]) & (symbols != tables.end), 0)


def _score_of(logits: Tensor, symbols: Tensor, tables: SymbolTables) -> Tensor:
    """The logits of one symbol a row, `[N]` float32; -inf for tokens the base lacks."""
    known = symbols < logits.shape[-1]
    score = logits.gather(-1, symbols.masked_fill(~known, 0)[:, None])[:, 0].float()
    end_score = logits[:, tables.base_ends].float().logsumexp(dim=-1)
    return torch.where(symbols == tables.end, end_score, score.masked_fill(~known, -torch.inf))


def mixing_weight(
    base_top_prob: Tensor, guide_top_prob: Tensor, agreement: Tensor, agreement_bonus: float
) -> Tensor:
    """The adaptive α = clip(p_g / (p_b + p_g) + λ · P_B(t_g), 0, 1), `[N]` float32 each."""
    confidence = guide_top_prob / (base_top_prob + guide_top_prob)
    return (confidence + agreement_bonus * agreement).clamp(0, 1)


def with_end(
    probs: Tensor, symbols: Tensor, end_prob: Tensor, end: int, is_cut: bool
) -> Candidates:
    """END competes for a place among the k and is kept (as one more) where it did not win one.

    Where the list is not cut (it has all tokens), there is a place for END: its own ids'.
    """
    if is_cut:
        probs[:, -1].masked_fill_(end_prob > probs[:, -1], 0)
    ends = torch.full_like(symbols[:, :1], end)
    return Candidates(
        torch.cat([symbols, ends], dim=-1),
        torch.cat([probs, end_prob[:, None]], dim=-1),
        torch.zeros_like(end_prob),
    )


def _top(rows: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
    """The k highest of each of `[N, V]` rows, the highest first, and where they are; all for None.

    Where V is large, only the k blocks with the highest maxima are sorted: the others have none.
    """
    size, width = rows.shape[1], 64
    count = size // width
    if k is None or k >= size:
        return rows, torch.arange(size, device=rows.device).expand_as(rows)
    if count < 4 * k:
        return rows.topk(k, dim=-1)
    blocks = rows[:, : count * width].view(len(rows), count, width)
    highest = blocks.amax(dim=-1).topk(k, dim=-1).indices
    within = blocks.gather(1, highest[:, :, None].expand(-1, -1, width)).flatten(1)
    places = (highest[:, :, None] * width + torch.arange(width, device=rows.device)).flatten(1)
    rest = torch.arange(count * width, size, device=rows.device).expand(len(rows), -1)
    within = torch.cat([within, rows[:, count * width :]], dim=-1)
    values, order = within.topk(k, dim=-1)
    return values, torch.cat([places, rest], dim=-1).gather(1, order)


def blend(
    gate: Gate | ListedGate,
    guide: GuideView | ListedGuide,
    tables: SymbolTables,
    *,
    agreement_bonus: float,
    top_k: int | None,
    alpha: float | None,
) -> Blended:
    """P_blend = α·P_G + (1-α)·P_B over the union of both models' top k (Algorithm 1).

    Args:
        gate: what the base says, N rows.
        guide: what the guide says, the same rows on the same device.
        tables: the two vocabularies aligned, on that device.
        agreement_bonus: λ.
        top_k: k, or None for the whole vocabulary.
        alpha: fixes α; None adapts it.
    """
    agreed = gate.prob_of(guide.choice, tables)
    if alpha is None:
        weight = mixing_weight(gate.top_prob, guide.top_prob, agreed, agreement_bonus)
    else:
        weight = torch.full_like(guide.top_prob, alpha)
    base, of_guide = gate.candidates(tables, top_k), guide.candidates(tables, top_k)
    if max(base.symbols.shape[1], of_guide.symbols.shape[1]) > LISTED_AT_MOST + 1:
        everything = torch.arange(tables.end + 1, device=weight.device).expand(len(weight), -1)
        symbols = everything
        base_probs, guide_probs = base.dense(tables.end), of_guide.dense(tables.end)
    else:
        same = base.symbols[:, :, None] == of_guide.symbols[:, None, :]
        shared = (same * of_guide.probs[:, None, :]).sum(dim=-1)
        own = of_guide.probs.masked_fill(same.any(dim=1), 0)
        symbols = torch.cat([base.symbols, of_guide.symbols], dim=-1)
        base_probs = torch.cat([base.probs, torch.zeros_like(own)], dim=-1)
        guide_probs = torch.cat([shared, own], dim=-1)
    return Blended(
        agreed,
        weight,
        symbols,
        base_probs * (1 - weight[:, None]),
        guide_probs * weight[:, None],
        base.unlisted * (1 - weight) + of_guide.unlisted * weight,
        tables.end,
    )
