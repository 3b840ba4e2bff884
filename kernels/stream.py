"""The pass over the logits: each is read once, and of each chunk only a few numbers are kept.

Per chunk the maximum and the softmax's partial sum; per group of 32 the maximum of the candidates,
by which `heads` finds the exact top k without reading the row again. This is the memory-bound
kernel: the others read a few per cent of what it reads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tables import KernelTables

# The maximum of a chunk's logits, Σ exp(logit - maximum), and the maximum of those that `choice`
# is among.
STATISTICS = 3

# Enough programs in flight to hide each other's latency: about 16 of 4 warps fit a multiprocessor.
PROGRAMS_PER_MULTIPROCESSOR = 64
WARPS = 4

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Streamed(NamedTuple):
    """What is kept of `[N, V]` logits.

    Attributes:
        statistics: `[3, N, C]` float32, by chunk.
        maxima: `[N, C · chunk / group]`, dtype of the logits: of the candidates in each group.
    """

    statistics: Tensor
    maxima: Tensor


def chunks_per_program(chunks: int, longest: int, multiprocessors: int) -> int:
    """How many chunks a program reads: one in small batches, in very large ones a whole row.

    Args:
        chunks: of all rows.
        longest: of one row.
        multiprocessors: of the GPU.
    """
    return max(1, min(longest, chunks // (PROGRAMS_PER_MULTIPROCESSOR * multiprocessors)))


def multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count


def stream(logits: Tensor, tables: KernelTables, *, candidates_only: bool) -> Streamed:
    """Reads the logits once, in one launch.

    Args:
        logits: `[N, V]` float16, bfloat16 or float32; rows may be strided.
        tables: of the model that they are of.
        candidates_only: the third statistic is the maximum of the candidates, not of all tokens
            but the end tokens.

    Raises:
        ValueError: where size, strides or dtype do not fit.
    """
    if logits.dim() != 2 or logits.shape[1] != tables.size or logits.stride(1) != 1:
        raise ValueError(
            f"the logits are {tuple(logits.shape)} with strides {logits.stride()}; they must be "
            f"[N, {tables.size}], each row contiguous"
        )
    if logits.dtype not in DTYPES:
        raise ValueError(f"the logits are {logits.dtype}; the kernels read 16 or 32 bits")
    rows, geometry = len(logits), tables.geometry
    chunks = triton.cdiv(tables.size, geometry.chunk)
    streamed = Streamed(
        torch.empty(STATISTICS, rows, chunks, dtype=torch.float32, device=logits.device),
        logits.new_empty(rows, chunks * geometry.chunk // geometry.group),
    )
    each = chunks_per_program(rows * chunks, chunks, multiprocessors(logits.device))
    programs = triton.cdiv(chunks, each)
    if rows:
        _stream[(rows * programs,)](
            logits,
            logits.stride(0),
            streamed.statistics,
            streamed.maxima,
            tables.bits,
            tables.open_bits,
            tables.plain,
            tables.size,
            rows,
            programs,
            chunks,
            EACH=each,
            CHUNK=geometry.chunk,
            GROUP=geometry.group,
            CANDIDATES_ONLY=candidates_only,
            num_warps=WARPS,
        )
    return streamed


# Counts that follow the batch: unspecialised, or each batch size would be compiled anew.
@triton.jit(do_not_specialize=["rows", "programs"])
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
    row = tl.program_id(0) // programs
    for step in range(EACH):
        chunk = (tl.program_id(0) % programs) * EACH + step
        if chunk < chunks:
            _read_chunk(
                logits + row.to(tl.int64) * stride,
                statistics,
                maxima,
                bits,
                open_bits,
                plain,
                size,
                row,
                rows,
                chunk,
                chunks,
                CHUNK,
                GROUP,
                CANDIDATES_ONLY,
            )


@triton.jit
def _read_chunk(
    logits,
    statistics,
    maxima,
    bits,
    open_bits,
    plain,
    size,
    row,
    rows,
    chunk,
    chunks,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    CANDIDATES_ONLY: tl.constexpr,
):
    """One chunk of one row; `logits` points at the row."""
    GROUPS: tl.constexpr = CHUNK // GROUP
    group = chunk * GROUPS + tl.arange(0, GROUPS)
    token = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    place = row.to(tl.int64) * chunks * GROUPS + group
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
            allowed = tl.max(tl.max(tl.where(no_end != 0, x, -float("inf")), axis=1), axis=0)
    tl.store(maxima + place, best.to(maxima.dtype.element_ty))
    # A chunk of -inf sums to 0; NaN and +inf make the sum NaN, which `combine` reports.
    centre = tl.where(highest == -float("inf"), 0.0, highest)
    at = statistics + row.to(tl.int64) * chunks + chunk
    step = rows.to(tl.int64) * chunks
    tl.store(at, highest)
    tl.store(at + step, tl.sum(tl.sum(tl.exp(x - centre), axis=1), axis=0))
    tl.store(at + 2 * step, allowed)


@triton.jit
def combine(statistics, row, rows, chunks, CHUNKS: tl.constexpr):
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
