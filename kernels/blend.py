"""An intervention: α, the union of both models' lists, each side's weight and the argmax.

Reference: `blendin.decision.blend`; source: BlendIn (arXiv 2606.11201), Algorithm 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gate import Gated
from .rows import Rows, on_device, split
from .tables import KernelTables

WARPS = 4
NUMBERS = 7
MATCHES = 2048  # pairs of symbols that are compared at once


class Side(NamedTuple):
    """One model at M interventions.

    Attributes:
        rows: its logits.
        gated: what `gate` kept of them.
        places: `[M]` int64, the rows that intervene.
        symbols: `[M, C]` int64, its list, END last.
        probs: `[M, C]` float32.
    """

    rows: Rows
    gated: Gated
    places: Tensor
    symbols: Tensor
    probs: Tensor


class Blended(NamedTuple):
    """M interventions.

    Attributes:
        symbols: `[M, C_b + C_g]` int64, the base's list and then the guide's.
        base: the same in float32, the base's share of each weight.
        guide: the guide's; where a symbol is in both lists, the second has no weight.
        numbers: `[M, 7]` float32, what a step tells: choice, the base's and the guide's share of
            it, p_g, α, P_B(t_g), and the rank of t_g with the base, 0 where it lacks it.
    """

    symbols: Tensor
    base: Tensor
    guide: Tensor
    numbers: Tensor


def blend(
    base: Side, guide: Side, tables: KernelTables, *, alpha: float | None, agreement_bonus: float
) -> Blended:
    """Blends the lists of M rows, in two launches; the first reads the base's logits for the rank.

    Args:
        base: the base.
        guide: the guide, the same interventions, `gate` of its candidates only.
        tables: the base's.
        alpha: α, or None where it adapts.
        agreement_bonus: λ.
    """
    logits, count = base.rows.logits, len(base.places)
    of_base, of_guide = base.symbols.shape[1], guide.symbols.shape[1]
    symbols = torch.empty(count, of_base + of_guide, dtype=torch.int64, device=logits.device)
    shares = torch.empty(2, count, of_base + of_guide, dtype=torch.float32, device=logits.device)
    numbers = torch.empty(count, NUMBERS, dtype=torch.float32, device=logits.device)
    likelier = torch.empty(count, tables.chunks, dtype=torch.int32, device=logits.device)
    if not count:
        return Blended(symbols, shares[0], shares[1], numbers)
    programs, each = split(count, tables, logits.device)
    wide = triton.next_power_of_2(of_base)
    base_floats, guide_floats = (side.gated.raw.view(torch.float32) for side in (base, guide))
    with on_device(logits):
        _likelier[(count * programs,)](
            logits,
            base.rows.stride,
            base.places,
            base_floats,
            guide.places,
            guide.gated.raw,
            tables.tokens,
            likelier,
            tables.size,
            tables.end,
            programs,
            tables.chunks,
            EACH=each,
            CHUNK=tables.geometry.chunk,
            num_warps=WARPS,
        )
        _blend[(count,)](
            logits,
            base.rows.stride,
            base.places,
            base_floats,
            guide.places,
            guide.gated.raw,
            guide_floats,
            tables.tokens,
            likelier,
            base.symbols,
            base.probs,
            guide.symbols,
            guide.probs,
            symbols,
            shares,
            numbers,
            tables.end,
            tables.chunks,
            of_base,
            of_guide,
            count,
            0.0 if alpha is None else float(alpha),
            float(agreement_bonus),
            ADAPTIVE=alpha is None,
            BASE=wide,
            GUIDE=triton.next_power_of_2(of_guide),
            MATCHED=min(triton.next_power_of_2(of_guide), max(1, MATCHES // wide)),
            CHUNKS=triton.next_power_of_2(tables.chunks),
            num_warps=WARPS if wide <= 256 else 2 * WARPS,
            maxnreg=96,  # or a compiler that aims at more programs at once may spill some bytes
            enable_fp_fusion=False,  # the shares add up to the weights to the bit
        )
    return Blended(symbols, shares[0], shares[1], numbers)


@triton.jit(do_not_specialize=["size", "end", "programs", "chunks"])
def _likelier(
    logits,
    stride,
    base_places,
    base_floats,
    guide_places,
    guide_raw,
    tokens,
    likelier,
    size,
    end,
    programs,
    chunks,
    EACH: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """How many tokens of each chunk the base prefers to the guide's choice."""
    place = (tl.program_id(0) // programs).to(tl.int64)
    row = tl.load(base_places + place)
    logits += row * stride
    score, _ = _score(logits, base_floats, row, guide_places, guide_raw, place, tokens, end)
    for step in range(EACH):
        chunk = (tl.program_id(0) % programs) * EACH + step
        if chunk < chunks:
            token = chunk * CHUNK + tl.arange(0, CHUNK)
            if (chunk + 1) * CHUNK <= size:  # without a mask the loads are full vectors
                x = tl.load(logits + token)
            else:
                x = tl.load(logits + token, mask=token < size, other=-float("inf"))
            count = tl.sum((x.to(tl.float32) > score).to(tl.int32), axis=0)
            tl.store(likelier + place * chunks + chunk, count)


@triton.jit
def _score(logits, base_floats, row, guide_places, guide_raw, place, tokens, end):
    """(the base's logit of the guide's choice, whether it knows it); `logits` is at the row."""
    symbol = tl.load(guide_raw + tl.load(guide_places + place) * 3)
    is_end = symbol == end
    token = tl.load(tokens + symbol)
    known = (token >= 0) | is_end
    score = tl.load(logits + token, mask=token >= 0, other=-float("inf")).to(tl.float32)
    return tl.where(is_end, tl.load(base_floats + row * 6 + 3), score), known


@triton.jit(do_not_specialize=["end", "chunks", "base_count", "guide_count", "rows"])
def _blend(
    logits,
    stride,
    base_places,
    base_floats,
    guide_places,
    guide_raw,
    guide_floats,
    tokens,
    likelier,
    base_symbols,
    base_probs,
    guide_symbols,
    guide_probs,
    symbols,
    shares,
    numbers,
    end,
    chunks,
    base_count,
    guide_count,
    rows,
    fixed,
    bonus,
    ADAPTIVE: tl.constexpr,
    BASE: tl.constexpr,
    GUIDE: tl.constexpr,
    MATCHED: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(base_places + place)
    logits += row * stride
    score, known = _score(logits, base_floats, row, guide_places, guide_raw, place, tokens, end)
    agreement = tl.exp(score - tl.load(base_floats + row * 6 + 2))
    p_b = tl.load(base_floats + row * 6 + 4)
    p_g = tl.load(guide_floats + tl.load(guide_places + place) * 6 + 4)
    alpha = fixed + 0.0 * p_g
    if ADAPTIVE:
        alpha = tl.div_rn(p_g, p_b + p_g) + bonus * agreement
        alpha = tl.where(alpha > 1, 1.0, tl.where(alpha < 0, 0.0, alpha))
    chunk = tl.arange(0, CHUNKS)
    counts = tl.load(likelier + place * chunks + chunk, mask=chunk < chunks, other=0)
    rank = tl.where(known, 1 + tl.sum(counts, axis=0), 0)

    # The base's list beside all of the guide's, a few at a time.
    width = base_count + guide_count
    item = tl.arange(0, BASE)
    inside = item < base_count
    symbol = tl.load(base_symbols + place * base_count + item, mask=inside, other=-1)
    shared = tl.zeros([BASE], dtype=tl.float32)
    best, choice, chosen_base, chosen_guide = -1.0, end.to(tl.int64), 0.0, 0.0
    at = symbols + place * width
    of_base = shares + place * width
    of_guide = of_base + rows.to(tl.int64) * width
    for begin in range(0, GUIDE, MATCHED):
        other = begin + tl.arange(0, MATCHED)
        some = other < guide_count
        theirs = tl.load(guide_symbols + place * guide_count + other, mask=some, other=-2)
        prob = tl.load(guide_probs + place * guide_count + other, mask=some, other=0.0)
        same = symbol[:, None] == theirs[None, :]
        shared += tl.sum(tl.where(same, prob[None, :], 0.0), axis=1)
        twice = tl.max(same.to(tl.int32), axis=0) != 0
        weight = tl.where(twice, 0.0, prob) * alpha
        tl.store(at + base_count + other, theirs, mask=some)
        tl.store(of_base + base_count + other, 0.0 * weight, mask=some)
        tl.store(of_guide + base_count + other, weight, mask=some)
        heaviest, lowest = _heaviest(theirs, tl.where(some, weight, -1.0))
        if (heaviest > best) | ((heaviest == best) & (lowest < choice)):
            best, choice, chosen_base, chosen_guide = heaviest, lowest, 0.0, heaviest
    prob = tl.load(base_probs + place * base_count + item, mask=inside, other=0.0)
    own, given = prob * (1 - alpha), shared * alpha
    tl.store(at + item, symbol, mask=inside)
    tl.store(of_base + item, own, mask=inside)
    tl.store(of_guide + item, given, mask=inside)
    heaviest, lowest = _heaviest(symbol, tl.where(inside, own + given, -1.0))
    if (heaviest > best) | ((heaviest == best) & (lowest < choice)):
        choice = lowest
        # A symbol that stands twice has weight once.
        it = inside & (symbol == lowest) & (own + given == heaviest)
        chosen_base = tl.max(tl.where(it, own, 0.0), axis=0)
        chosen_guide = tl.max(tl.where(it, given, 0.0), axis=0)

    numbers += place * 7
    tl.store(numbers, choice.to(tl.float32))  # exact: there are fewer than 2^24 symbols
    tl.store(numbers + 1, chosen_base)
    tl.store(numbers + 2, chosen_guide)
    tl.store(numbers + 3, p_g)
    tl.store(numbers + 4, alpha)
    tl.store(numbers + 5, tl.where(known, agreement, 0.0))
    tl.store(numbers + 6, rank.to(tl.float32))


@triton.jit
def _heaviest(symbols, weights):
    """The largest weight, and the lowest symbol that has it."""
    heaviest = tl.max(weights, axis=0)
    last: tl.constexpr = 9223372036854775807
    return heaviest, tl.min(tl.where(weights == heaviest, symbols, last), axis=0)
