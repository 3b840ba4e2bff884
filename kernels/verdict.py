"""The decision itself, from both models' statistics and heads: one small program a row.

It reads some hundred logits again: the partners of the listed tokens and the end tokens. Rows that
the heads cannot settle are marked pending, for `whole`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gate import end_logits, end_score, open_argmax, open_maxima
from .heads import Heads
from .noise import exponential
from .parameters import Parameters
from .stream import Streamed, combine
from .tables import KernelTables

WARPS = 4
COLUMNS = 10
BASE_ERROR, GUIDE_ERROR, NOTHING_TO_CHOOSE = 1, 2, 4
BLOCK = 32  # of a list, compared with all of it at a time


def settle(
    base: Streamed,
    guide: Streamed | None,
    guide_rows: Tensor | None,
    heads: Heads,
    tables: KernelTables,
    parameters: Parameters,
) -> tuple[Tensor, Tensor]:
    """Decides N rows: (`[N, 10]` int32, see `decision.Decision`; `[N]` int32, pending or 0)."""
    rows, head = base.logits.shape[0], heads.tokens.shape[2]
    device, other = base.logits.device, guide or base
    raw = torch.empty(rows, COLUMNS, dtype=torch.int32, device=device)
    pending = torch.empty(rows, dtype=torch.int32, device=device)
    union = torch.empty(rows, 2 * head, dtype=torch.float32, device=device)
    union_symbols = torch.empty(rows, 2 * head, dtype=torch.int32, device=device)
    chunks = [side.statistics.shape[2] for side in (base, other)]
    _settle[(rows,)](
        base.logits,
        base.logits.stride(0),
        base.statistics,
        other.logits,
        other.logits.stride(0),
        other.statistics,
        base.statistics if guide_rows is None else guide_rows,
        heads.values,
        heads.tokens,
        tables.base_bits,
        tables.base_open_bits,
        tables.base_ends,
        tables.guide_ends,
        tables.partners,
        tables.symbols,
        parameters.threshold,
        parameters.agreement_bonus,
        parameters.alpha,
        parameters.top_k,
        parameters.temperature,
        parameters.top_p,
        parameters.do_sample.view(torch.uint8),
        parameters.seed,
        parameters.counter,
        parameters.may_intervene.view(torch.uint8),
        union,
        union_symbols,
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
        CHUNK=tables.geometry.chunk,
        HEAD=head,
        BLOCK=min(BLOCK, head),
        BASE_ENDS=triton.next_power_of_2(max(1, tables.base_ends.numel())),
        GUIDE_ENDS=triton.next_power_of_2(max(1, tables.guide_ends.numel())),
        SAMPLED=parameters.any_sampled,
        MAPPED=guide_rows is not None,
        GUIDED=guide is not None,
        SAME=tables.same,
        num_warps=WARPS,
    )
    return raw, pending


@triton.jit
def write(
    raw, symbol, end_token, intervened, top_prob, guide_prob, choice, agreed, alpha, sides, error
):
    """One row of `decision.Decision.raw`."""
    tl.store(raw, symbol)
    tl.store(raw + 1, end_token)
    tl.store(raw + 2, intervened)
    tl.store(raw + 3, top_prob.to(tl.int32, bitcast=True))
    tl.store(raw + 4, guide_prob.to(tl.int32, bitcast=True))
    tl.store(raw + 5, choice)
    tl.store(raw + 6, agreed.to(tl.int32, bitcast=True))
    tl.store(raw + 7, alpha.to(tl.int32, bitcast=True))
    tl.store(raw + 8, sides)
    tl.store(raw + 9, error)


@triton.jit
def is_among(token, ends, count, ENDS: tl.constexpr):
    """Whether an id is one of a model's end tokens."""
    end = tl.arange(0, ENDS)
    return tl.sum(((tl.load(ends + end, mask=end < count, other=-1)) == token).to(tl.int32)) > 0


@triton.jit
def likeliest_end(
    base_probs,
    guide_probs,
    base_ends,
    guide_ends,
    base_end_count,
    guide_end_count,
    alpha,
    BASE_ENDS: tl.constexpr,
    GUIDE_ENDS: tl.constexpr,
    SAME: tl.constexpr,
):
    """The likeliest id behind END in the base's vocabulary; ties to the base's, the lower."""
    base_at, guide_at = tl.arange(0, BASE_ENDS), tl.arange(0, GUIDE_ENDS)
    base_ids = tl.load(base_ends + base_at, mask=base_at < base_end_count, other=-1)
    guide_ids = tl.load(guide_ends + guide_at, mask=guide_at < guide_end_count, other=-2)
    weights = tl.where(base_ids >= 0, base_probs, -1.0)
    theirs = tl.full((GUIDE_ENDS,), -1.0, tl.float32)
    if SAME:
        both = base_ids[:, None] == guide_ids[None, :]
        shared = tl.sum(tl.where(both, guide_probs[None, :], 0.0), axis=1)
        weights = tl.where(base_ids >= 0, (1 - alpha) * base_probs + alpha * shared, -1.0)
        alone = (guide_ids >= 0) & (tl.sum(both.to(tl.int32), axis=0) == 0)
        theirs = tl.where(alone, alpha * guide_probs, -1.0)
    best = tl.max(weights, axis=0)
    other = tl.max(theirs, axis=0)
    far = 2147483647
    token = tl.min(tl.where((weights == best) & (base_ids >= 0), base_ids, far), axis=0)
    other_token = tl.min(tl.where((theirs == other) & (guide_ids >= 0), guide_ids, far), axis=0)
    return tl.where(other > best, other_token, token)


@triton.jit
def _winner(arrival, kept, tokens):
    """The id that arrives first; the lower where two do."""
    first = tl.min(tl.where(kept, arrival, float("inf")), axis=0)
    return tl.min(tl.where(kept & (arrival == first), tokens, 2147483647), axis=0)


@triton.jit
def _chunk_weights(statistics, row, rows, chunks, peak, temperature, CHUNKS: tl.constexpr):
    """By chunk: its maximum, and its weight at the temperature of the draw."""
    chunk = tl.arange(0, CHUNKS)
    at = statistics + row.to(tl.int64) * chunks + chunk
    step = rows.to(tl.int64) * chunks
    highest = tl.load(at, mask=chunk < chunks, other=-float("inf"))
    weights = tl.load(at + 3 * step, mask=chunk < chunks, other=0.0)
    return highest, weights * tl.exp((highest - peak) / temperature)


@triton.jit
def _draw_from_list(
    values_at,
    tokens_at,
    total,
    size,
    peak,
    temperature,
    top_p,
    seed,
    counter,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A draw from the nucleus of P_B: (id, 1 if the list is too short for the nucleus)."""
    index = tl.arange(0, HEAD)
    values = tl.load(values_at + index)
    tokens = tl.load(tokens_at + index)
    mass = tl.exp((values - peak) / temperature)
    limit = top_p * total
    above = tl.zeros((HEAD,), tl.float32)
    for start in range(0, HEAD, BLOCK):
        other = start + tl.arange(0, BLOCK)
        their = tl.load(values_at + other)
        before = (their[None, :] > values[:, None]) | (
            (their[None, :] == values[:, None]) & (other[None, :] < index[:, None])
        )
        theirs = tl.exp((their - peak) / temperature)
        above += tl.sum(tl.where(before, theirs[None, :], 0.0), axis=1)
    # Whatever is not listed has all that is listed above it.
    left = ((tl.sum(mass, axis=0) < limit) & (HEAD < size)).to(tl.int32)
    arrival = exponential(seed, counter, tokens, 0) / mass
    return _winner(arrival, (above < limit) & (mass > 0), tokens), left


@triton.jit
def _draw_from_chunk(
    logits,
    highest,
    weights,
    size,
    temperature,
    seed,
    counter,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """A draw from all of P_B: a chunk by its weight, then, reading it again, a token of it."""
    chunk = tl.arange(0, CHUNKS)
    drawn = _winner(exponential(seed, counter, chunk, 1) / weights, weights > 0, chunk)
    centre = tl.max(tl.where(chunk == drawn, highest, -float("inf")), axis=0)
    tokens = drawn * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + tokens, mask=tokens < size, other=-float("inf")).to(tl.float32)
    mass = tl.exp((x - centre) / temperature)
    return _winner(exponential(seed, counter, tokens, 0) / mass, mass > 0, tokens)


@triton.jit
def _draw_from_union(
    base_weights,
    base_tokens,
    guide_weights,
    guide_symbols,
    end_weight,
    end,
    best,
    temperature,
    top_p,
    seed,
    counter,
    union,
    union_symbols,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A draw from both lists and END, no symbol in two places; `union` is room for one row."""
    index = tl.arange(0, HEAD)
    scale = tl.log(best)
    base_q = tl.exp((tl.log(base_weights) - scale) / temperature)
    guide_q = tl.exp((tl.log(guide_weights) - scale) / temperature)
    end_q = tl.exp((tl.log(end_weight) - scale) / temperature)
    base_kept, guide_kept, end_kept = base_q > 0, guide_q > 0, end_q > 0
    if top_p < 1:
        limit = top_p * (tl.sum(base_q, axis=0) + tl.sum(guide_q, axis=0) + end_q)
        tl.store(union + index, base_weights)
        tl.store(union + HEAD + index, guide_weights)
        tl.store(union_symbols + index, base_tokens)
        tl.store(union_symbols + HEAD + index, guide_symbols)
        tl.debug_barrier()
        base_above = tl.where(end_weight > base_weights, end_q, 0.0)
        guide_above = tl.where(end_weight > guide_weights, end_q, 0.0)
        end_above = end_q * 0
        for start in range(0, 2 * HEAD, BLOCK):
            their = tl.load(union + start + tl.arange(0, BLOCK))
            symbol = tl.load(union_symbols + start + tl.arange(0, BLOCK))
            q = tl.exp((tl.log(their) - scale) / temperature)
            before = (their[None, :] > base_weights[:, None]) | (
                (their[None, :] == base_weights[:, None]) & (symbol[None, :] < base_tokens[:, None])
            )
            base_above += tl.sum(tl.where(before, q[None, :], 0.0), axis=1)
            before = (their[None, :] > guide_weights[:, None]) | (
                (their[None, :] == guide_weights[:, None])
                & (symbol[None, :] < guide_symbols[:, None])
            )
            guide_above += tl.sum(tl.where(before, q[None, :], 0.0), axis=1)
            end_above += tl.sum(tl.where(their >= end_weight, q, 0.0), axis=0)
        base_kept &= base_above < limit
        guide_kept &= guide_above < limit
        end_kept &= end_above < limit
    base_arrival = exponential(seed, counter, base_tokens, 0) / base_q
    base_arrival = tl.where(base_kept, base_arrival, float("inf"))
    guide_arrival = exponential(seed, counter, guide_symbols, 0) / guide_q
    guide_arrival = tl.where(guide_kept, guide_arrival, float("inf"))
    # A block of one, for the variates are drawn for blocks.
    noise = tl.max(exponential(seed, counter, tl.full((1,), 0, tl.int32) + end, 0), axis=0)
    first = tl.minimum(tl.min(base_arrival, axis=0), tl.min(guide_arrival, axis=0))
    first = tl.minimum(first, tl.where(end_kept, noise / end_q, float("inf")))
    base_winner = tl.min(tl.where(base_arrival == first, base_tokens, end), axis=0)
    guide_winner = tl.min(tl.where(guide_arrival == first, guide_symbols, end), axis=0)
    return tl.minimum(base_winner, guide_winner)


@triton.jit
def _edge(
    values_at,
    tokens_at,
    values,
    tokens,
    peak,
    mass,
    end_prob,
    k,
    whole,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where the top k ends: a token is in if its logit is above the first number returned, or
    equal to it and its id below the second. END takes the last place from a lesser token."""
    index = tl.arange(0, HEAD)
    rank = tl.zeros((HEAD,), tl.int32)
    for start in range(0, HEAD, BLOCK):
        other = start + tl.arange(0, BLOCK)
        their = tl.load(values_at + other)
        before = (their[None, :] > values[:, None]) | (
            (their[None, :] == values[:, None]) & (other[None, :] < index[:, None])
        )
        rank += tl.sum(before.to(tl.int32), axis=1)
    last = rank == k - 1
    value = tl.max(tl.where(last, values, -float("inf")), axis=0)
    token = tl.max(tl.where(last, tokens, -1), axis=0)
    keeps = (end_prob <= tl.exp(value - peak) / mass).to(tl.int32)
    value = tl.where(whole, -float("inf"), value)
    return value, tl.where(whole, 2147483647, token + keeps)


@triton.jit(do_not_specialize=["rows", "guide_count"])  # or batch sizes would be compiled anew
def _settle(
    base_logits,
    base_stride,
    base_statistics,
    guide_logits,
    guide_stride,
    guide_statistics,
    guide_rows,
    values,
    tokens,
    base_bits,
    base_open_bits,
    base_ends,
    guide_ends,
    partners,
    symbols,
    thresholds,
    bonuses,
    alphas,
    top_ks,
    temperatures,
    top_ps,
    do_sample,
    seeds,
    counters,
    may_intervene,
    union,
    union_symbols,
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
    CHUNK: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK: tl.constexpr,
    BASE_ENDS: tl.constexpr,
    GUIDE_ENDS: tl.constexpr,
    SAMPLED: tl.constexpr,
    MAPPED: tl.constexpr,
    GUIDED: tl.constexpr,
    SAME: tl.constexpr,
):
    row = tl.program_id(0)
    base = base_logits + row.to(tl.int64) * base_stride
    raw += row * 10
    far = 2147483647
    nan = tl.full((), float("nan"), tl.float32)
    end = base_size + guide_size
    peak, mass = combine(base_statistics, row, rows, base_chunks, BASE_CHUNKS)
    maxima = open_maxima(base_statistics, row, rows, base_chunks, BASE_CHUNKS)
    top = tl.max(maxima, axis=0)
    ends = end_logits(base, base_ends, base_end_count, BASE_ENDS)
    end_probs = tl.exp(ends - peak) / mass
    end_prob = tl.sum(end_probs, axis=0)
    top_prob = tl.maximum(tl.exp(top - peak) / mass, end_prob)
    fine = mass > 0
    allowed = tl.load(may_intervene + row) != 0
    if not GUIDED:
        allowed = allowed & False
    guide_row = row
    if MAPPED:
        guide_row = tl.load(guide_rows + row)
        allowed = allowed & (guide_row >= 0)
    intervenes = fine & allowed & (top_prob.to(tl.float64) < tl.load(thresholds + row))
    base_at = row.to(tl.int64) * HEAD
    guide_at = (rows + row).to(tl.int64) * HEAD
    left = 0
    if SAMPLED:
        sampled = tl.load(do_sample + row)
        temperature, top_p = tl.load(temperatures + row), tl.load(top_ps + row)
        seed, counter = tl.load(seeds + row), tl.load(counters + row)
    if not fine:
        write(raw, -1, -1, 0, nan, nan, -1, nan, nan, 0, 1)
    elif not intervenes:
        token = open_argmax(base, base_open_bits, base_size, maxima, BASE_CHUNKS, CHUNK)
        if end_score(ends) > top:
            at = tl.arange(0, BASE_ENDS)
            ids = tl.load(base_ends + at, mask=at < base_end_count, other=far)
            token = tl.min(tl.where(ends == tl.max(ends, axis=0), ids, far), axis=0)
        if SAMPLED:
            if sampled != 0:
                highest, weights = _chunk_weights(
                    base_statistics, row, rows, base_chunks, peak, temperature, BASE_CHUNKS
                )
                if top_p < 1:
                    token, left = _draw_from_list(
                        values + base_at, tokens + base_at, tl.sum(weights, axis=0), base_size,
                        peak, temperature, top_p, seed, counter, HEAD, BLOCK,
                    )  # fmt: skip
                else:
                    token = _draw_from_chunk(
                        base, highest, weights, base_size, temperature, seed, counter,
                        BASE_CHUNKS, CHUNK,
                    )  # fmt: skip
        is_end = is_among(token, base_ends, base_end_count, BASE_ENDS)
        symbol = tl.where(is_end, end, token)
        write(raw, symbol, tl.where(is_end, token, -1), 0, top_prob, nan, -1, nan, nan, 1, 0)
    else:
        guide = guide_logits + guide_row.to(tl.int64) * guide_stride
        guide_peak, guide_mass = combine(
            guide_statistics, guide_row, guide_count, guide_chunks, GUIDE_CHUNKS
        )
        if not (guide_mass > 0):
            write(raw, -1, -1, 1, top_prob, nan, -1, nan, nan, 0, 2)
        else:
            index = tl.arange(0, HEAD)
            base_values = tl.load(values + base_at + index)
            base_tokens = tl.load(tokens + base_at + index)
            guide_values = tl.load(values + guide_at + index)
            guide_tokens = tl.load(tokens + guide_at + index)

            # The guide's choice t_g, and α.
            guide_ends_x = end_logits(guide, guide_ends, guide_end_count, GUIDE_ENDS)
            guide_end_probs = tl.exp(guide_ends_x - guide_peak) / guide_mass
            guide_end_prob = tl.sum(guide_end_probs, axis=0)
            guide_top = tl.max(guide_values, axis=0)
            token = tl.min(tl.where(guide_values == guide_top, guide_tokens, far), axis=0)
            token = tl.minimum(token, guide_size - 1)
            ends_there = end_score(guide_ends_x) > guide_top
            choice = tl.where(ends_there, end, tl.load(symbols + token))
            guide_prob = tl.exp(guide_top - guide_peak) / guide_mass
            guide_prob = tl.where(ends_there, guide_end_prob, guide_prob)
            known = choice < base_size
            agreed = tl.load(base + choice, mask=known, other=-float("inf")).to(tl.float32)
            agreed = tl.where(ends_there, end_prob, tl.exp(agreed - peak) / mass)
            alpha = tl.load(alphas + row)
            if alpha != alpha:
                alpha = guide_prob / (top_prob + guide_prob) + tl.load(bonuses + row) * agreed
                alpha = tl.minimum(tl.maximum(alpha, 0.0), 1.0)

            # Both top-k sets, by where they end.
            k = tl.load(top_ks + row)
            base_whole = (k <= 0) | (k >= base_size)
            guide_whole = (k <= 0) | (k >= guide_size)
            base_edge, base_edge_token = _edge(
                values + base_at, tokens + base_at, base_values, base_tokens,
                peak, mass, end_prob, k, base_whole, HEAD, BLOCK,
            )  # fmt: skip
            guide_edge, guide_edge_token = _edge(
                values + guide_at, tokens + guide_at, guide_values, guide_tokens,
                guide_peak, guide_mass, guide_end_prob, k, guide_whole, HEAD, BLOCK,
            )  # fmt: skip

            # The base's list: each token's own weight, then its partner's.
            base_in = (base_values > base_edge) | (
                (base_values == base_edge) & (base_tokens < base_edge_token)
            )
            base_own = tl.where(base_in, (1 - alpha) * (tl.exp(base_values - peak) / mass), 0.0)
            partner = tl.load(partners + base_tokens, mask=base_tokens < base_size, other=-1)
            has = partner >= 0
            x = tl.load(guide + partner, mask=has, other=-float("inf")).to(tl.float32)
            has &= (x > guide_edge) | ((x == guide_edge) & (partner < guide_edge_token))
            base_theirs = tl.where(has, alpha * (tl.exp(x - guide_peak) / guide_mass), 0.0)
            base_weights = base_own + base_theirs

            # The guide's list likewise.
            guide_in = (guide_values > guide_edge) | (
                (guide_values == guide_edge) & (guide_tokens < guide_edge_token)
            )
            guide_own = tl.exp(guide_values - guide_peak) / guide_mass
            guide_own = tl.where(guide_in, alpha * guide_own, 0.0)
            symbol_of = tl.load(symbols + guide_tokens, mask=guide_tokens < guide_size, other=far)
            has = symbol_of < base_size
            x = tl.load(base + symbol_of, mask=has, other=-float("inf")).to(tl.float32)
            word = tl.load(base_bits + symbol_of // 32, mask=has, other=0)
            has &= ((word >> (symbol_of % 32)) & 1) != 0
            has &= (x > base_edge) | ((x == base_edge) & (symbol_of < base_edge_token))
            guide_theirs = tl.where(has, (1 - alpha) * (tl.exp(x - peak) / mass), 0.0)
            guide_weights = guide_theirs + guide_own

            base_end_weight, guide_end_weight = (1 - alpha) * end_prob, alpha * guide_end_prob
            end_weight = base_end_weight + guide_end_weight
            best = tl.maximum(tl.max(base_weights, axis=0), tl.max(guide_weights, axis=0))
            best = tl.maximum(best, end_weight)

            # What the lists leave out weighs at most as much as their last entries together.
            base_tail = (1 - alpha) * tl.exp(tl.min(base_values, axis=0) - peak) / mass
            guide_tail = alpha * tl.exp(tl.min(guide_values, axis=0) - guide_peak) / guide_mass
            base_cut = (HEAD < base_size) & ((k > HEAD) | base_whole)
            guide_cut = (HEAD < guide_size) & ((k > HEAD) | guide_whole)
            tail = tl.where(base_cut, base_tail, 0.0) + tl.where(guide_cut, guide_tail, 0.0)
            # k beyond the lists: the edges are unknown, not just the tails.
            lost = (k > HEAD) & (
                ((HEAD < base_size) & (k < base_size)) | ((HEAD < guide_size) & (k < guide_size))
            )
            left = (lost | (best * 0.999999 <= tail)).to(tl.int32)
            symbol = tl.min(tl.where(base_weights == best, base_tokens, end), axis=0)
            winner = tl.min(tl.where(guide_weights == best, symbol_of, end), axis=0)
            symbol = tl.minimum(symbol, winner)
            if SAMPLED:
                if sampled != 0:
                    left = (lost | base_cut | guide_cut).to(tl.int32)
                    # A symbol in both lists is drawn as the base's, unless it is not in its top k.
                    symbol = _draw_from_union(
                        tl.where(base_in, base_weights, 0.0), base_tokens,
                        tl.where(has, 0.0, guide_weights), symbol_of, end_weight, end, best,
                        temperature, top_p, seed, counter, union + 2 * base_at,
                        union_symbols + 2 * base_at, HEAD, BLOCK,
                    )  # fmt: skip

            from_base = tl.max(tl.where(base_tokens == symbol, base_own, 0.0), axis=0)
            other = tl.max(tl.where(symbol_of == symbol, guide_theirs, 0.0), axis=0)
            from_base = tl.maximum(from_base, other)
            from_guide = tl.max(tl.where(base_tokens == symbol, base_theirs, 0.0), axis=0)
            other = tl.max(tl.where(symbol_of == symbol, guide_own, 0.0), axis=0)
            from_guide = tl.maximum(from_guide, other)
            from_base = tl.where(symbol == end, base_end_weight, from_base)
            from_guide = tl.where(symbol == end, guide_end_weight, from_guide)
            sides = (from_base > 0).to(tl.int32) + 2 * (from_guide > 0).to(tl.int32)
            end_token = likeliest_end(
                end_probs, guide_end_probs, base_ends, guide_ends, base_end_count,
                guide_end_count, alpha, BASE_ENDS, GUIDE_ENDS, SAME,
            )  # fmt: skip
            none = tl.where(best > 0, 0, 4)
            left = tl.where(best > 0, left, 0)
            symbol = tl.where(best > 0, symbol, -1)
            # `whole` needs the likeliest end token too, so it is written for pending rows.
            end_token = tl.where((symbol == end) | (left != 0), end_token, -1)
            sides = tl.where(best > 0, sides, 0)
            write(
                raw, symbol, end_token, 1, top_prob, guide_prob, choice, agreed, alpha, sides, none
            )
    tl.store(pending + row, left)
