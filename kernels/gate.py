"""What a model chooses by itself and how sure it is of it: p_b and its symbol, or p_g and t_g.

One pass reads each logit once, split over programs. Per chunk the maximum and the softmax's partial
sum are kept; per group of 32 the maximum of the candidates, by which `topk` finds the exact list
without reading the row again. Then a program a row adds the chunks up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import Rows, on_device, split
from .tables import KernelTables

# The maximum of a chunk's logits, Σ exp(logit - maximum), and the maximum of those that `choice`
# is among.
STATISTICS = 3

WARPS = 4
COLUMNS = 3  # of 64 bits


class Gated(NamedTuple):
    """What is kept of N rows of logits.

    Attributes:
        raw: `[N, 3]` int64, the four properties below in one buffer.
        maxima: `[N, G]`, dtype of the logits: of the candidates in each group, for `topk`.
    """

    raw: Tensor
    maxima: Tensor

    @property
    def choice(self) -> Tensor:
        """`[N]` int64, the argmax symbol, of equal tokens the lowest; arbitrary at NaN."""
        return self.raw[:, 0]

    @property
    def log_total(self) -> Tensor:
        """`[N]` float32, log Σ exp of the logits; NaN where they have NaN or +inf, or only -inf."""
        return self.raw.view(torch.float32)[:, 2]

    @property
    def end_score(self) -> Tensor:
        """`[N]` float32, log Σ exp of the end tokens' logits."""
        return self.raw.view(torch.float32)[:, 3]

    @property
    def top_prob(self) -> Tensor:
        """`[N]` float32, the probability of `choice`; NaN where `log_total` is."""
        return self.raw.view(torch.float32)[:, 4]


def gate(rows: Rows, tables: KernelTables, *, candidates_only: bool = False) -> Gated:
    """Reads the logits once and chooses a symbol of each row, in two launches.

    Args:
        rows: N rows of logits.
        tables: of the model that they are of.
        candidates_only: choose among the candidates and END, not among all tokens.
    """
    logits, count, geometry = rows.logits, len(rows.logits), tables.geometry
    statistics = torch.empty(
        STATISTICS, count, tables.chunks, dtype=torch.float32, device=logits.device
    )
    maxima = logits.new_empty(count, tables.chunks * geometry.chunk // geometry.group)
    raw = torch.empty(count, COLUMNS, dtype=torch.int64, device=logits.device)
    if not count:
        return Gated(raw, maxima)
    programs, each = split(count, tables, logits.device)
    with on_device(logits):
        _stream[(count * programs,)](
            logits,
            rows.stride,
            statistics,
            maxima,
            tables.bits,
            tables.open_bits,
            tables.plain,
            tables.size,
            count,
            programs,
            tables.chunks,
            EACH=each,
            CHUNK=geometry.chunk,
            GROUP=geometry.group,
            CANDIDATES_ONLY=candidates_only,
            num_warps=WARPS,
        )
        _gate[(count,)](
            logits,
            rows.stride,
            statistics,
            tables.bits if candidates_only else tables.open_bits,
            tables.ends,
            tables.symbols,
            raw,
            raw.view(torch.float32),
            tables.size,
            tables.end,
            count,
            tables.chunks,
            tables.ends.numel(),
            CHUNKS=triton.next_power_of_2(tables.chunks),
            CHUNK=geometry.chunk,
            ENDS=tables.ends_rounded_up,
            num_warps=WARPS,
        )
    return Gated(raw, maxima)


# Unspecialised, or each batch size and each vocabulary would be compiled anew.
@triton.jit(do_not_specialize=["size", "rows", "programs", "chunks"])
def _stream(
    logits,
    stride,
    statistics,
    maxima,
    bits,
    open_bits,
    plain,
    size,
    rows,
    programs,
    chunks,
    EACH: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    CANDIDATES_ONLY: tl.constexpr,
):
    """A program reads EACH neighbouring chunks of one row."""
    GROUPS: tl.constexpr = CHUNK // GROUP
    row = (tl.program_id(0) // programs).to(tl.int64)
    logits += row * stride
    maxima += row * chunks * GROUPS
    statistics += row * chunks
    column = rows.to(tl.int64) * chunks
    for step in range(EACH):
        chunk = (tl.program_id(0) % programs) * EACH + step
        if chunk < chunks:
            group = chunk * GROUPS + tl.arange(0, GROUPS)
            token = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
            if tl.load(plain + chunk) != 0:
                # Without masks the loads are full vectors; nearly all chunks are plain.
                x = tl.load(logits + token).to(tl.float32)
                best = tl.max(x, axis=1)
                highest = tl.max(best, axis=0)
                allowed = highest
            else:
                inside = token < size
                x = tl.load(logits + token, mask=inside, other=-float("inf")).to(tl.float32)
                word, shift = group * GROUP // 32, group * GROUP % 32
                some = group * GROUP < size
                shifts = shift[:, None] + tl.arange(0, GROUP)[None, :]
                candidate = (tl.load(bits + word, mask=some, other=0)[:, None] >> shifts) & 1
                best = tl.max(tl.where(candidate != 0, x, -float("inf")), axis=1)
                highest = tl.max(tl.max(x, axis=1), axis=0)
                if CANDIDATES_ONLY:
                    allowed = tl.max(best, axis=0)
                else:
                    no_end = (tl.load(open_bits + word, mask=some, other=0)[:, None] >> shifts) & 1
                    highest_open = tl.max(tl.where(no_end != 0, x, -float("inf")), axis=1)
                    allowed = tl.max(highest_open, axis=0)
            tl.store(maxima + group, best.to(maxima.dtype.element_ty))
            # A chunk of -inf sums to 0; NaN and +inf make the sum NaN, which `_combine` reports.
            centre = tl.where(highest == -float("inf"), 0.0, highest)
            tl.store(statistics + chunk, highest)
            mass = tl.sum(tl.sum(tl.exp(x - centre), axis=1), axis=0)
            tl.store(statistics + column + chunk, mass)
            tl.store(statistics + 2 * column + chunk, allowed)


@triton.jit(do_not_specialize=["size", "end", "rows", "chunks", "end_count"])
def _gate(
    logits,
    stride,
    statistics,
    allowed_bits,
    ends,
    symbols,
    raw,
    raw_floats,
    size,
    end,
    rows,
    chunks,
    end_count,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    ENDS: tl.constexpr,
):
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    peak, mass, maxima = _combine(statistics, row, rows, chunks, CHUNKS)
    log_total = tl.where(mass > 0, peak + tl.log(mass), float("nan"))
    score = tl.max(maxima, axis=0)
    token = _argmax(logits, allowed_bits, size, maxima, score, CHUNKS, CHUNK)
    choice = tl.load(symbols + token)
    end_score = _log_sum_exp(_end_logits(logits, ends, end_count, ENDS))
    if end_score > score:
        score = end_score
        choice = end.to(tl.int64)
    tl.store(raw + row * 3, choice)
    tl.store(raw_floats + row * 6 + 2, log_total)
    tl.store(raw_floats + row * 6 + 3, end_score)
    tl.store(raw_floats + row * 6 + 4, tl.exp(score - log_total))


@triton.jit
def _end_logits(logits, ends, count, ENDS: tl.constexpr):
    """`[ENDS]`, a model's end tokens' logits, -inf beyond them; `logits` points at the row."""
    end = tl.arange(0, ENDS)
    token = tl.load(ends + end, mask=end < count, other=0)
    return tl.load(logits + token, mask=end < count, other=-float("inf")).to(tl.float32)


@triton.jit
def _log_sum_exp(x):
    peak = tl.max(x, axis=0)
    centre = tl.where(peak == -float("inf"), 0.0, peak)
    return centre + tl.log(tl.sum(tl.exp(x - centre), axis=0))


@triton.jit
def _argmax(logits, bits, size, maxima, best, CHUNKS: tl.constexpr, CHUNK: tl.constexpr):
    """The lowest token at the highest of the maxima: one chunk is read again (from L2)."""
    chunk = tl.min(tl.where(maxima == best, tl.arange(0, CHUNKS), CHUNKS - 1), axis=0)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + token, mask=token < size, other=-float("inf")).to(tl.float32)
    word = tl.load(bits + token // 32, mask=token < size, other=0)
    hit = (x == best) & (((word >> (token % 32)) & 1) != 0)
    return tl.min(tl.where(hit, token, size - 1), axis=0)


@triton.jit
def _combine(statistics, row, rows, chunks, CHUNKS: tl.constexpr):
    """A row's (maximum, Σ exp(logit - maximum)), and by chunk the maximum that `choice` is among.

    The sum is NaN or 0 where the row is not numbers. CHUNKS is `chunks` rounded up to a power of
    two.
    """
    chunk = tl.arange(0, CHUNKS)
    at = statistics + row.to(tl.int64) * chunks + chunk
    step = rows.to(tl.int64) * chunks
    highest = tl.load(at, mask=chunk < chunks, other=-float("inf"))
    total = tl.load(at + step, mask=chunk < chunks, other=0.0)
    allowed = tl.load(at + 2 * step, mask=chunk < chunks, other=-float("inf"))
    peak = tl.max(highest, axis=0)
    peak = tl.where(peak == -float("inf"), 0.0, peak)
    return peak, tl.sum(total * tl.exp(highest - peak), axis=0), allowed
