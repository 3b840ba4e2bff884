"""What a model chooses by itself and how sure it is of it: p_b and its symbol, or p_g and t_g."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .stream import combine, stream
from .tables import KernelTables

WARPS = 4
COLUMNS = 3  # of 64 bits


class Gated(NamedTuple):
    """What is kept of N rows of logits.

    Attributes:
        raw: `[N, 3]` int64 with the four properties below, so that one selection takes rows of all.
        maxima: `[N, G]`, dtype of the logits: of the candidates in each group, for `heads`.
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

    def rows(self, places: Tensor) -> Gated:
        """Some of the rows: `[M]` int64."""
        return Gated(self.raw.index_select(0, places), self.maxima.index_select(0, places))


def gate(logits: Tensor, tables: KernelTables, *, candidates_only: bool = False) -> Gated:
    """Reads the logits once and chooses a symbol of each row, in two launches.

    Args:
        logits: `[N, V]` float16, bfloat16 or float32; rows may be strided.
        tables: of the model that they are of.
        candidates_only: choose among the candidates and END, not among all tokens.

    Raises:
        ValueError: where size, strides or dtype do not fit.
    """
    statistics, maxima = stream(logits, tables, candidates_only=candidates_only)
    rows, chunks = len(logits), statistics.shape[2]
    raw = torch.empty(rows, COLUMNS, dtype=torch.int64, device=logits.device)
    if rows:
        _gate[(rows,)](
            logits,
            logits.stride(0),
            statistics,
            tables.bits if candidates_only else tables.open_bits,
            tables.ends,
            tables.symbols,
            raw,
            raw.view(torch.float32),
            tables.size,
            tables.end,
            rows,
            chunks,
            tables.ends.numel(),
            CHUNKS=triton.next_power_of_2(chunks),
            CHUNK=tables.geometry.chunk,
            ENDS=tables.ends_rounded_up,
            num_warps=WARPS,
        )
    return Gated(raw, maxima)


@triton.jit(do_not_specialize=["rows"])  # or each batch size would be compiled anew
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
    peak, mass, maxima = combine(statistics, row, rows, chunks, CHUNKS)
    log_total = tl.where(mass > 0, peak + tl.log(mass), float("nan"))
    score = tl.max(maxima, axis=0)
    token = _argmax(logits, allowed_bits, size, maxima, score, CHUNKS, CHUNK)
    choice = tl.load(symbols + token)
    end_score = _log_sum_exp(end_logits(logits, ends, end_count, ENDS))
    if end_score > score:
        score = end_score
        choice = end.to(tl.int64)
    tl.store(raw + row * 3, choice)
    tl.store(raw_floats + row * 6 + 2, log_total)
    tl.store(raw_floats + row * 6 + 3, end_score)
    tl.store(raw_floats + row * 6 + 4, tl.exp(score - log_total))


@triton.jit
def end_logits(logits, ends, count, ENDS: tl.constexpr):
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
