"""Rows that a list of their top logits cannot settle: one program reads the whole row, as often as
it takes.

Those are a k above 512; the whole vocabulary where both distributions are so flat that a symbol of
no list could win, or where it is drawn from; and a nucleus (top_p) of more tokens than the list.
Rows that are settled already cost the reading of one number.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gate import end_logits
from .noise import exponential
from .parameters import Parameters
from .selection import middle, ordered, unordered
from .stream import Streamed, combine
from .tables import KernelTables
from .verdict import is_among

WARPS = 8


def settle_whole(
    base: Streamed,
    guide: Streamed | None,
    guide_rows: Tensor | None,
    raw: Tensor,
    pending: Tensor,
    tables: KernelTables,
    parameters: Parameters,
) -> None:
    """Finishes the rows of `verdict.settle` that are pending, in place."""
    rows, other = base.logits.shape[0], guide or base
    chunks = [side.statistics.shape[2] for side in (base, other)]
    _settle_whole[(rows,)](
        base.logits,
        base.logits.stride(0),
        base.statistics,
        other.logits,
        other.logits.stride(0),
        other.statistics,
        base.statistics if guide_rows is None else guide_rows,
        tables.base_bits,
        tables.guide_bits,
        tables.base_ends,
        tables.guide_ends,
        tables.partners,
        tables.symbols,
        parameters.top_k,
        parameters.temperature,
        parameters.top_p,
        parameters.do_sample.view(torch.uint8),
        parameters.seed,
        parameters.counter,
        raw,
        pending,
        tables.base_size,
        tables.guide_size,
        rows,
        other.logits.shape[0],
        chunks[0],
        chunks[1],
        tables.base_ends.numel(),
        tables.guide_ends.numel(),
        BASE_CHUNKS=triton.next_power_of_2(chunks[0]),
        GUIDE_CHUNKS=triton.next_power_of_2(chunks[1]),
        TILE=tables.geometry.chunk,
        BASE_ENDS=triton.next_power_of_2(max(1, tables.base_ends.numel())),
        GUIDE_ENDS=triton.next_power_of_2(max(1, tables.guide_ends.numel())),
        MAPPED=guide_rows is not None,
        num_warps=WARPS,
    )


@triton.jit
def _candidate_keys(logits, bits, size, start, TILE: tl.constexpr):
    """(ids, `ordered` logits) of a tile; what is no candidate sorts below everything."""
    token = start + tl.arange(0, TILE)
    inside = token < size
    x = tl.load(logits + token, mask=inside, other=-float("inf")).to(tl.float32)
    word = tl.load(bits + token // 32, mask=inside, other=0)
    candidate = ((word >> (token % 32)) & 1) != 0
    key = tl.where(candidate, ordered(x), ordered(tl.full((TILE,), -float("inf"), tl.float32)))
    return token, tl.where(inside, key, -2147483648)


@triton.jit
def _edge(logits, bits, size, peak, mass, end_prob, k, TILE: tl.constexpr):
    """As `verdict._edge`, by counting over the row: at most 32 + 20 times."""
    value = tl.full((), -float("inf"), tl.float32)
    last = tl.full((), 2147483647, tl.int32)
    if (k > 0) & (k < size):
        low = tl.full((), -2147483647, tl.int32)
        high = tl.full((), 2147483647, tl.int32)
        while low < high:
            mid = middle(low, high)
            count = 0
            for start in range(0, size, TILE):
                _, key = _candidate_keys(logits, bits, size, start, TILE)
                count += tl.sum((key >= mid).to(tl.int32), axis=0)
            if count >= k:
                low = mid
            else:
                high = mid - 1
        above = 0
        for start in range(0, size, TILE):
            _, key = _candidate_keys(logits, bits, size, start, TILE)
            above += tl.sum((key > low).to(tl.int32), axis=0)
        # The last token that has a place: of those that tie, so many of the lowest ids.
        first = tl.full((), 0, tl.int32)
        last = tl.full((), 0, tl.int32) + size - 1
        while first < last:
            mid = (first + last) // 2
            count = 0
            for start in range(0, mid + 1, TILE):
                token, key = _candidate_keys(logits, bits, size, start, TILE)
                count += tl.sum(((key == low) & (token <= mid)).to(tl.int32), axis=0)
            if count >= k - above:
                last = mid
            else:
                first = mid + 1
        value = unordered(low)
        last += (end_prob <= tl.exp(value - peak) / mass).to(tl.int32)
    return value, last


@triton.jit
def _weights(
    base,
    guide,
    base_bits,
    guide_bits,
    partners,
    symbols,
    base_size,
    guide_size,
    peak,
    mass,
    guide_peak,
    guide_mass,
    alpha,
    base_edge,
    base_last,
    guide_edge,
    guide_last,
    temperature,
    tile,
    base_tiles,
    blended,
    TILE: tl.constexpr,
):
    """(symbols, weights, the base's part, the guide's) of a tile of the joint space: the base's
    tokens, then the guide's own. Not blended: the base's exponentials over the temperature."""
    symbol = tl.arange(0, TILE)
    own = tl.zeros((TILE,), tl.float32)
    theirs = tl.zeros((TILE,), tl.float32)
    if tile < base_tiles:
        symbol += tile * TILE
        inside = symbol < base_size
        x = tl.load(base + symbol, mask=inside, other=-float("inf")).to(tl.float32)
        if blended:
            word = tl.load(base_bits + symbol // 32, mask=inside, other=0)
            has = ((word >> (symbol % 32)) & 1) != 0
            has &= (x > base_edge) | ((x == base_edge) & (symbol < base_last))
            own = tl.where(has, (1 - alpha) * (tl.exp(x - peak) / mass), 0.0)
            partner = tl.load(partners + symbol, mask=inside, other=-1)
            has = partner >= 0
            x = tl.load(guide + partner, mask=has, other=-float("inf")).to(tl.float32)
            has &= (x > guide_edge) | ((x == guide_edge) & (partner < guide_last))
            theirs = tl.where(has, alpha * (tl.exp(x - guide_peak) / guide_mass), 0.0)
        else:
            own = tl.exp((x - peak) / temperature)
    else:
        token = (tile - base_tiles) * TILE + symbol
        inside = token < guide_size
        symbol = tl.load(symbols + token, mask=inside, other=0)
        # A token with a partner was counted with it.
        inside &= symbol >= base_size
        x = tl.load(guide + token, mask=inside, other=-float("inf")).to(tl.float32)
        word = tl.load(guide_bits + token // 32, mask=inside, other=0)
        has = inside & (((word >> (token % 32)) & 1) != 0)
        has &= (x > guide_edge) | ((x == guide_edge) & (token < guide_last))
        theirs = tl.where(has, alpha * (tl.exp(x - guide_peak) / guide_mass), 0.0)
    return symbol, own + theirs, own, theirs


@triton.jit(do_not_specialize=["rows", "guide_count"])  # or batch sizes would be compiled anew
def _settle_whole(
    base_logits,
    base_stride,
    base_statistics,
    guide_logits,
    guide_stride,
    guide_statistics,
    guide_rows,
    base_bits,
    guide_bits,
    base_ends,
    guide_ends,
    partners,
    symbols,
    top_ks,
    temperatures,
    top_ps,
    do_sample,
    seeds,
    counters,
    raw,
    pending,
    base_size,
    guide_size,
    rows,
    guide_count,
    base_chunks,
    guide_chunks,
    base_end_count,
    guide_end_count,
    BASE_CHUNKS: tl.constexpr,
    GUIDE_CHUNKS: tl.constexpr,
    TILE: tl.constexpr,
    BASE_ENDS: tl.constexpr,
    GUIDE_ENDS: tl.constexpr,
    MAPPED: tl.constexpr,
):
    row = tl.program_id(0)
    if tl.load(pending + row) != 0:
        raw += row * 10
        far = 2147483647
        end = base_size + guide_size
        base = base_logits + row.to(tl.int64) * base_stride
        guide_row = row
        if MAPPED:
            guide_row = tl.load(guide_rows + row).to(tl.int32)
        blended = tl.load(raw + 2) != 0
        sampled = tl.load(do_sample + row) != 0
        temperature, top_p = tl.load(temperatures + row), tl.load(top_ps + row)
        seed, counter = tl.load(seeds + row), tl.load(counters + row)
        peak, mass = combine(base_statistics, row, rows, base_chunks, BASE_CHUNKS)
        guide_row = tl.maximum(guide_row, 0)
        guide = guide_logits + guide_row.to(tl.int64) * guide_stride
        guide_peak, guide_mass = peak, mass
        alpha = tl.full((), 0, tl.float32)
        base_end = tl.full((), 0, tl.float32)
        guide_end = tl.full((), 0, tl.float32)
        base_edge = tl.full((), -float("inf"), tl.float32)
        guide_edge = tl.full((), -float("inf"), tl.float32)
        base_last = tl.full((), 2147483647, tl.int32)
        guide_last = tl.full((), 2147483647, tl.int32)
        base_tiles = tl.cdiv(base_size, TILE)
        tiles = base_tiles + 0
        if blended:
            tiles += tl.cdiv(guide_size, TILE)
            guide_peak, guide_mass = combine(
                guide_statistics, guide_row, guide_count, guide_chunks, GUIDE_CHUNKS
            )
            alpha = tl.load(raw + 7).to(tl.float32, bitcast=True)
            x = end_logits(base, base_ends, base_end_count, BASE_ENDS)
            base_end = tl.sum(tl.exp(x - peak) / mass, axis=0)
            x = end_logits(guide, guide_ends, guide_end_count, GUIDE_ENDS)
            guide_end = tl.sum(tl.exp(x - guide_peak) / guide_mass, axis=0)
            k = tl.load(top_ks + row)
            base_edge, base_last = _edge(base, base_bits, base_size, peak, mass, base_end, k, TILE)
            guide_edge, guide_last = _edge(
                guide, guide_bits, guide_size, guide_peak, guide_mass, guide_end, k, TILE
            )
            base_end = (1 - alpha) * base_end
            guide_end = alpha * guide_end
        end_weight = base_end + guide_end
        # Weights of tokens alone are as exponentials over the temperature already.
        power = tl.where(blended, temperature, 1.0)

        best, symbol = end_weight, end
        from_base, from_guide = base_end, guide_end
        for tile in range(0, tiles):
            names, weights, own, theirs = _weights(
                base, guide, base_bits, guide_bits, partners, symbols, base_size, guide_size,
                peak, mass, guide_peak, guide_mass, alpha, base_edge, base_last, guide_edge,
                guide_last, temperature, tile, base_tiles, blended, TILE,
            )  # fmt: skip
            top = tl.max(weights, axis=0)
            name = tl.min(tl.where(weights == top, names, far), axis=0)
            if (top > best) | ((top == best) & (name < symbol)):
                best, symbol = top, name
                from_base = tl.max(tl.where(names == name, own, 0.0), axis=0)
                from_guide = tl.max(tl.where(names == name, theirs, 0.0), axis=0)
        if sampled:
            scale = tl.log(best)
            end_q = tl.exp((tl.log(end_weight) - scale) / power)
            # The nucleus: weights above `bound`, and of those equal to it the lowest symbols up
            # to `bar`.
            bound = tl.full((), 0, tl.int32)
            bar = tl.full((), 2147483647, tl.int32)
            if top_p < 1:
                total = end_q
                for tile in range(0, tiles):
                    names, weights, own, theirs = _weights(
                        base, guide, base_bits, guide_bits, partners, symbols, base_size,
                        guide_size, peak, mass, guide_peak, guide_mass, alpha, base_edge,
                        base_last, guide_edge, guide_last, temperature, tile, base_tiles, blended,
                        TILE,
                    )  # fmt: skip
                    total += tl.sum(tl.exp((tl.log(weights) - scale) / power), axis=0)
                limit = top_p * total
                # The smallest weight above which there is less than the limit; weights are no
                # less than 0, so their bits are ordered as they are.
                low = tl.full((), 0, tl.int32)
                high = best.to(tl.int32, bitcast=True)
                end_bits = end_weight.to(tl.int32, bitcast=True)
                while low < high:
                    mid = low + (high - low) // 2
                    above = tl.where(end_bits > mid, end_q, 0.0)
                    for tile in range(0, tiles):
                        names, weights, own, theirs = _weights(
                            base, guide, base_bits, guide_bits, partners, symbols, base_size,
                            guide_size, peak, mass, guide_peak, guide_mass, alpha, base_edge,
                            base_last, guide_edge, guide_last, temperature, tile, base_tiles,
                            blended, TILE,
                        )  # fmt: skip
                        q = tl.exp((tl.log(weights) - scale) / power)
                        higher = weights.to(tl.int32, bitcast=True) > mid
                        above += tl.sum(tl.where(higher, q, 0.0), axis=0)
                    if above < limit:
                        high = mid
                    else:
                        low = mid + 1
                bound = low
                # Of the weights equal to it, those with less than the limit before them: the
                # largest symbol whose predecessors leave room.
                first = tl.full((), 0, tl.int32)
                last = first + end
                while first < last:
                    mid = middle(first, last)
                    before = tl.where(end_bits > bound, end_q, 0.0)
                    for tile in range(0, tiles):
                        names, weights, own, theirs = _weights(
                            base, guide, base_bits, guide_bits, partners, symbols, base_size,
                            guide_size, peak, mass, guide_peak, guide_mass, alpha, base_edge,
                            base_last, guide_edge, guide_last, temperature, tile, base_tiles,
                            blended, TILE,
                        )  # fmt: skip
                        q = tl.exp((tl.log(weights) - scale) / power)
                        key = weights.to(tl.int32, bitcast=True)
                        higher = (key > bound) | ((key == bound) & (names < mid))
                        before += tl.sum(tl.where(higher, q, 0.0), axis=0)
                    if before < limit:
                        first = mid
                    else:
                        last = mid - 1
                bar = first
            end_bits = end_weight.to(tl.int32, bitcast=True)
            end_kept = (end_bits > bound) | ((end_bits == bound) & (end <= bar))
            noise = tl.max(exponential(seed, counter, tl.full((1,), 0, tl.int32) + end, 0), 0)
            earliest = tl.where(end_kept & (end_q > 0), noise / end_q, float("inf"))
            symbol = end
            from_base, from_guide = base_end, guide_end
            for tile in range(0, tiles):
                names, weights, own, theirs = _weights(
                    base, guide, base_bits, guide_bits, partners, symbols, base_size, guide_size,
                    peak, mass, guide_peak, guide_mass, alpha, base_edge, base_last, guide_edge,
                    guide_last, temperature, tile, base_tiles, blended, TILE,
                )  # fmt: skip
                q = tl.exp((tl.log(weights) - scale) / power)
                key = weights.to(tl.int32, bitcast=True)
                kept = (q > 0) & ((key > bound) | ((key == bound) & (names <= bar)))
                arrival = exponential(seed, counter, names, 0) / q
                arrival = tl.where(kept, arrival, float("inf"))
                soonest = tl.min(arrival, axis=0)
                if soonest < earliest:
                    earliest = soonest
                    symbol = tl.min(tl.where(kept & (arrival == soonest), names, far), axis=0)
                    from_base = tl.max(tl.where(names == symbol, own, 0.0), axis=0)
                    from_guide = tl.max(tl.where(names == symbol, theirs, 0.0), axis=0)
        if blended:
            tl.store(raw, symbol)
            if symbol != end:
                tl.store(raw + 1, -1)
            sides = (from_base > 0).to(tl.int32) + 2 * (from_guide > 0).to(tl.int32)
            tl.store(raw + 8, sides)
        else:
            is_end = is_among(symbol, base_ends, base_end_count, BASE_ENDS)
            tl.store(raw, tl.where(is_end, end, symbol))
            tl.store(raw + 1, tl.where(is_end, symbol, -1))
