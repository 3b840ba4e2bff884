"""The gate alone: p_b, the base's choice, and whether a row needs the guide at all."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .parameters import Parameters
from .stream import Streamed, combine, stream, workspace
from .tables import KernelTables


class Gated(NamedTuple):
    """What the base's logits say alone.

    Attributes:
        raw: `[N, 4]` int32, all of the following, to be copied to the host at once.
        streamed: spares `decide` another reading of the base's logits.
    """

    raw: Tensor
    streamed: Streamed

    @property
    def choice(self) -> Tensor:
        """`[N]` int32, the base's argmax symbol: a base id, or END; -1 at an error."""
        return self.raw[:, 0]

    @property
    def top_prob(self) -> Tensor:
        """`[N]` float32, p_b; NaN at an error."""
        return self.raw.view(torch.float32)[:, 1]

    @property
    def needs_guide(self) -> Tensor:
        """`[N]` bool: p_b < τ, the policy lets the row intervene, and there is no error."""
        return self.raw[:, 2] != 0

    @property
    def error(self) -> Tensor:
        """`[N]` bool: the row has NaN or +inf, or nothing but -inf."""
        return self.raw[:, 3] != 0


def gate(base_logits: Tensor, tables: KernelTables, parameters: Parameters) -> Gated:
    """Reads `[N, V_b]` logits (float16, bfloat16 or float32; rows may be strided) once.

    Rows that are sampled and confident are drawn by `decide`, which needs no guide for them.
    """
    streamed = workspace(base_logits, tables.geometry, sampled=parameters.any_sampled)
    stream(streamed, None, tables, parameters.temperature, sampled=parameters.any_sampled)
    rows, chunks = base_logits.shape[0], streamed.statistics.shape[2]
    raw = torch.empty(rows, 4, dtype=torch.int32, device=base_logits.device)
    if rows:
        _gate[(rows,)](
            base_logits,
            base_logits.stride(0),
            streamed.statistics,
            tables.base_open_bits,
            tables.base_ends,
            parameters.threshold,
            parameters.may_intervene.view(torch.uint8),
            raw,
            tables.base_size,
            tables.guide_size,
            rows,
            chunks,
            tables.base_ends.numel(),
            CHUNKS=triton.next_power_of_2(chunks),
            CHUNK=tables.geometry.chunk,
            ENDS=triton.next_power_of_2(max(1, tables.base_ends.numel())),
            num_warps=4,
        )
    return Gated(raw, streamed)


@triton.jit
def end_logits(logits, ends, count, ENDS: tl.constexpr):
    """The logits of a model's end tokens, -inf beyond them; `logits` points at the row."""
    end = tl.arange(0, ENDS)
    token = tl.load(ends + end, mask=end < count, other=0)
    return tl.load(logits + token, mask=end < count, other=-float("inf")).to(tl.float32)


@triton.jit
def end_score(x):
    """logsumexp of `end_logits`: END's logit."""
    peak = tl.max(x, axis=0)
    centre = tl.where(peak == -float("inf"), 0.0, peak)
    return centre + tl.log(tl.sum(tl.exp(x - centre), axis=0))


@triton.jit
def open_maxima(statistics, row, rows, chunks, CHUNKS: tl.constexpr):
    """By chunk, the base's highest logit of a token that is no end token."""
    chunk = tl.arange(0, CHUNKS)
    at = statistics + 2 * rows.to(tl.int64) * chunks + row.to(tl.int64) * chunks
    return tl.load(at + chunk, mask=chunk < chunks, other=-float("inf"))


@triton.jit
def open_argmax(logits, open_bits, size, maxima, CHUNKS: tl.constexpr, CHUNK: tl.constexpr):
    """The lowest id at the maximum of `open_maxima`: one chunk is read again (from L2)."""
    best = tl.max(maxima, axis=0)
    chunk = tl.min(tl.where(maxima == best, tl.arange(0, CHUNKS), CHUNKS - 1), axis=0)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + token, mask=token < size, other=-float("inf")).to(tl.float32)
    word = tl.load(open_bits + token // 32, mask=token < size, other=0)
    hit = (x == best) & (((word >> (token % 32)) & 1) != 0)
    return tl.min(tl.where(hit, token, size), axis=0)


@triton.jit(do_not_specialize=["rows"])  # or each batch size would be compiled anew
def _gate(
    base_logits,
    base_stride,
    statistics,
    open_bits,
    base_ends,
    thresholds,
    may_intervene,
    raw,
    base_size,
    guide_size,
    rows,
    chunks,
    end_count,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    ENDS: tl.constexpr,
):
    row = tl.program_id(0)
    logits = base_logits + row.to(tl.int64) * base_stride
    peak, mass = combine(statistics, row, rows, chunks, CHUNKS)
    maxima = open_maxima(statistics, row, rows, chunks, CHUNKS)
    top = tl.max(maxima, axis=0)
    ends = end_logits(logits, base_ends, end_count, ENDS)
    end_prob = tl.sum(tl.exp(ends - peak), axis=0) / mass
    top_prob = tl.maximum(tl.exp(top - peak) / mass, end_prob)
    fine = mass > 0
    token = open_argmax(logits, open_bits, base_size, maxima, CHUNKS, CHUNK)
    choice = tl.where(end_score(ends) > top, base_size + guide_size, token)
    allowed = tl.load(may_intervene + row) != 0
    needs = fine & allowed & (top_prob.to(tl.float64) < tl.load(thresholds + row))
    at = raw + row * 4
    tl.store(at, tl.where(fine, choice, -1))
    tl.store(at + 1, tl.where(fine, top_prob, float("nan")).to(tl.int32, bitcast=True))
    tl.store(at + 2, needs.to(tl.int32))
    tl.store(at + 3, 1 - fine.to(tl.int32))
