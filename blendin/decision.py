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

from typing import NamedTuple

import torch
from torch import Tensor


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
        probs: `[N, V_b]` float32, their softmax.
        top_prob: `[N]` float32, p_b.
        choice: `[N]` int64, the base's argmax symbol (a base id, or END).
    """

    logits: Tensor
    probs: Tensor
    top_prob: Tensor
    choice: Tensor


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


class Blended(NamedTuple):
    """What both models say of an intervention.

    Attributes:
        agreement: `[N]` float32, P_B(t_g); 0 where t_g has no partner in the base's vocabulary.
        alpha: `[N]` float32 in [0, 1], the guide's weight.
        base: `[N, V_b + V_g + 1]` float32, (1-α)·P_B over the base's candidates, 0 elsewhere.
        guide: `[N, V_b + V_g + 1]` float32, α·P_G over the guide's candidates, 0 elsewhere.
        probs: `[N, V_b + V_g + 1]` float32, P_blend: the sum of both, normalised.
    """

    agreement: Tensor
    alpha: Tensor
    base: Tensor
    guide: Tensor
    probs: Tensor


def next_token_probs(logits: Tensor) -> Tensor:
    """`[N, V]` logits of any float dtype to the `[N, V]` float32 softmax at temperature 1."""
    return torch.softmax(logits.float(), dim=-1)


def top_symbol(logits: Tensor, ends: Tensor, end: int) -> Tensor:
    """Argmax over the tokens of `[N, V]` logits, the end tokens taken together as one symbol.

    Taken on logits rather than probabilities, as `generate` does: float32 probabilities can tie
    where logits do not. Returns `[N]` int64: a token id, or `end`.
    """
    logits = logits.float()
    end_score = logits[:, ends].logsumexp(dim=-1)
    score, token = logits.max(dim=-1)
    if bool((token[:, None] == ends).any()):  # rare, and a copy of every logit
        score, token = logits.index_fill(-1, ends, -torch.inf).max(dim=-1)
    return torch.where(end_score > score, end, token)


def gate(base_logits: Tensor, tables: SymbolTables) -> Gate:
    """Reads the base's `[N, V_b]` logits: is it confident (`top_prob >= τ`), and in what?"""
    probs = next_token_probs(base_logits)
    choice = top_symbol(base_logits, tables.base_ends, tables.end)
    return Gate(base_logits, probs, prob_of(probs, choice, tables), choice)


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


def prob_of(base_probs: Tensor, symbols: Tensor, tables: SymbolTables) -> Tensor:
    """P_B of one symbol a row: `[N, V_b]` float32 and `[N]` int64 to `[N]` float32."""
    known = symbols < base_probs.shape[-1]
    probs = base_probs.gather(-1, symbols.masked_fill(~known, 0)[:, None])[:, 0]
    end_prob = base_probs[:, tables.base_ends].sum(dim=-1)
    return torch.where(known, probs, torch.where(symbols == tables.end, end_prob, 0.0))


def mixing_weight(
    base_top_prob: Tensor, guide_top_prob: Tensor, agreement: Tensor, agreement_bonus: float
) -> Tensor:
    """The adaptive α = clip(p_g / (p_b + p_g) + λ · P_B(t_g), 0, 1), `[N]` float32 each."""
    confidence = guide_top_prob / (base_top_prob + guide_top_prob)
    return (confidence + agreement_bonus * agreement).clamp(0, 1)


def candidate_probs(
    probs: Tensor, candidates: Tensor, ends: Tensor, symbols: Tensor | None, end: int, k: int | None
) -> Tensor:
    """One model's distribution over the joint space, 0 outside its top k symbols.

    END competes for a place among the k and is kept (as one more) where it did not win one.

    Args:
        probs: `[N, V]` float32.
        candidates: `[V]` bool.
        ends: `[E]` int64.
        symbols: `[V]` int64, the joint symbol of each token; None where it is the id itself.
        end: the symbol END.
        k: how many symbols to keep; None keeps all.

    Returns:
        `[N, end + 1]` float32, not normalised.
    """
    end_prob = probs[:, ends].sum(dim=-1)
    joint = probs.new_zeros(probs.shape[0], end + 1)
    values = probs.masked_fill(~candidates, 0)
    if k is not None and k < values.shape[-1]:
        values, tokens = values.topk(k, dim=-1)
        values[:, -1].masked_fill_(end_prob > values[:, -1], 0)
        joint.scatter_add_(-1, tokens if symbols is None else symbols[tokens], values)
    elif symbols is None:
        joint[:, : values.shape[-1]] = values
    else:
        joint.scatter_add_(-1, symbols.expand_as(values), values)
    joint[:, end] = end_prob
    return joint


def guide_candidate_probs(guide: GuideView, tables: SymbolTables, k: int | None) -> Tensor:
    """`candidate_probs` of the guide: `[N, end + 1]` float32, not normalised."""
    return candidate_probs(
        guide.probs,
        tables.guide_candidates,
        tables.guide_ends,
        tables.guide_symbols,
        tables.end,
        k,
    )


def blend(
    gate: Gate,
    guide: GuideView,
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
    agreed = prob_of(gate.probs, guide.choice, tables)
    if alpha is None:
        weight = mixing_weight(gate.top_prob, guide.top_prob, agreed, agreement_bonus)
    else:
        weight = torch.full_like(guide.top_prob, alpha)
    from_base = candidate_probs(
        gate.probs, tables.base_candidates, tables.base_ends, None, tables.end, top_k
    )
    from_guide = guide_candidate_probs(guide, tables, top_k)
    from_base *= 1 - weight[:, None]
    from_guide *= weight[:, None]
    mixture = from_base + from_guide
    return Blended(
        agreed, weight, from_base, from_guide, mixture / mixture.sum(dim=-1, keepdim=True)
    )
