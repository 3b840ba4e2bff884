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

from .tables import Geometry, KernelTables

# [HIGHEST] the maximum of a chunk's logits, [TOTAL] Σ exp(logit - maximum), [OPEN] the maximum
# without the end tokens, [WARPED] Σ exp((logit - maximum) / temperature) where rows are sampled.
STATISTICS = 4

# Enough programs in flight to hide each other's latency: about 16 of 4 warps fit a multiprocessor.
PROGRAMS_PER_MULTIPROCESSOR = 64
WARPS = 4


class Streamed(NamedTuple):
    """What is kept of `[N, V]` logits.

    Attributes:
        logits: `[N, V]`, as they were given; rows may be strided.
        statistics: `[4, N, C]` float32, by chunk.
        maxima: `[N, C · chunk / group]`, dtype of the logits: of the candidates in each group.
        all_maxima: likewise of all tokens; `maxima` itself where nothing is sampled.
    """

    logits: Tensor
    statistics: Tensor
    maxima: Tensor
    all_maxima: Tensor


def chunks_per_program(chunks: int, longest: int, multiprocessors: int) -> int:
    """How many chunks a program reads: one in small batches, in very large ones a whole row.

    Args:
        chunks: of all rows of both models.
        longest: chunks of the longer row.
        multiprocessors: of the GPU.
    """
    return max(1, min(longest, chunks // (PROGRAMS_PER_MULTIPROCESSOR * multiprocessors)))


def multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count


def workspace(logits: Tensor, geometry: Geometry, *, sampled: bool) -> Streamed:
    """Room for what `stream` keeps of these logits."""
    rows, size = logits.shape
    chunks = triton.cdiv(size, geometry.chunk)
    groups = chunks * geometry.chunk // geometry.group
    maxima = logits.new_empty(rows, groups)
    return Streamed(
        logits,
        torch.empty(STATISTICS, rows, chunks, dtype=torch.float32, device=logits.device),
        maxima,
        torch.empty_like(maxima) if sampled else maxima,
    )


def stream(
    base: Streamed | None,
    guide: Streamed | None,
    tables: KernelTables,
    temperature: Tensor,
    *,
    sampled: bool,
) -> None:
    """Fills the workspaces of the base's logits, the guide's, or both in one launch.

    Args:
        base: None where it was streamed before.
        guide: None where it is not asked; may have other rows than the base.
        tables: the alignment.
        temperature: `[N]` float32, of the base's rows.
        sampled: whether any row may be drawn from the base alone.
    """
    geometry = tables.geometry
    either = base or guide
    if either is None:
        return
    counts = [0 if side is None else side.statistics.shape[1] for side in (base, guide)]
    chunks = [0 if side is None else side.statistics.shape[2] for side in (base, guide)]
    total = sum(rows * each for rows, each in zip(counts, chunks, strict=True))
    each = chunks_per_program(total, max(chunks), multiprocessors(either.logits.device))
    programs = [triton.cdiv(count, each) for count in chunks]
    base_side, guide_side = base or either, guide or either
    grid = (counts[0] * programs[0] + counts[1] * programs[1],)
    if not grid[0]:
        return
    _stream[grid](
        base_side.logits,
        base_side.logits.stride(0),
        base_side.statistics,
        base_side.maxima,
        base_side.all_maxima,
        tables.base_bits,
        tables.base_open_bits,
        tables.base_plain,
        tables.base_size,
        counts[0],
        programs[0],
        chunks[0],
        guide_side.logits,
        guide_side.logits.stride(0),
        guide_side.statistics,
        guide_side.maxima,
        tables.guide_bits,
        tables.guide_plain,
        tables.guide_size,
        counts[1],
        programs[1],
        chunks[1],
        temperature,
        EACH=each,
        CHUNK=geometry.chunk,
        GROUP=geometry.group,
        SAMPLED=sampled,
        HAS_BASE=base is not None,
        HAS_GUIDE=guide is not None,
        num_warps=WARPS,
    )


@triton.jit
def _read_chunk(
    logits,
    statistics,
    maxima,
    all_maxima,
    bits,
    open_bits,
    plain,
    size,
    row,
    rows,
    chunk,
    chunks,
    temperature,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    SAMPLED: tl.constexpr,
    IS_BASE: tl.constexpr,
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
        opened = highest
        tl.store(maxima + place, best.to(maxima.dtype.element_ty))
        if SAMPLED and IS_BASE:
            tl.store(all_maxima + place, best.to(maxima.dtype.element_ty))
    else:
        inside = token < size
        x = tl.load(logits + token, mask=inside, other=-float("inf")).to(tl.float32)
        word, shift = group * GROUP // 32, group * GROUP % 32
        some = group * GROUP < size
        shifts = shift[:, None] + tl.arange(0, GROUP)[None, :]
        candidate = (tl.load(bits + word, mask=some, other=0)[:, None] >> shifts) & 1
        best = tl.max(tl.where(candidate != 0, x, -float("inf")), axis=1)
        highest = tl.max(tl.max(x, axis=1), axis=0)
        opened = highest
        if IS_BASE:
            no_end = (tl.load(open_bits + word, mask=some, other=0)[:, None] >> shifts) & 1
            opened = tl.max(tl.max(tl.where(no_end != 0, x, -float("inf")), axis=1), axis=0)
        tl.store(maxima + place, best.to(maxima.dtype.element_ty))
        if SAMPLED and IS_BASE:
            tl.store(all_maxima + place, tl.max(x, axis=1).to(maxima.dtype.element_ty))
    # A chunk of -inf sums to 0; NaN and +inf make the sum NaN, which `combine` reports.
    centre = tl.where(highest == -float("inf"), 0.0, highest)
    at = row.to(tl.int64) * chunks + chunk
    step = rows.to(tl.int64) * chunks
    tl.store(statistics + at, highest)
    tl.store(statistics + step + at, tl.sum(tl.sum(tl.exp(x - centre), axis=1), axis=0))
    if IS_BASE:
        tl.store(statistics + 2 * step + at, opened)
        if SAMPLED:
            warped = tl.exp((x - centre) / temperature)
            tl.store(statistics + 3 * step + at, tl.sum(tl.sum(warped, axis=1), axis=0))


# Counts that follow the batch: unspecialised, or each batch size would be compiled anew.
@triton.jit(
    do_not_specialize=["base_rows", "base_programs", "guide_rows", "guide_programs"],
)
def _stream(
    base_logits,
    base_stride,
    base_statistics,
    base_maxima,
    base_all_maxima,
    base_bits,
    base_open_bits,
    base_plain,
    base_size,
    base_rows,
    base_programs,
    base_chunks,
    guide_logits,
    guide_stride,
    guide_statistics,
    guide_maxima,
    guide_bits,
    guide_plain,
    guide_size,
    guide_rows,
    guide_programs,
    guide_chunks,
    temperatures,
    EACH: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    SAMPLED: tl.constexpr,
    HAS_BASE: tl.constexpr,
    HAS_GUIDE: tl.constexpr,
):
    """A program reads EACH neighbouring chunks of one row of one model."""
    program = tl.program_id(0)
    of_base = base_rows * base_programs
    if HAS_BASE:
        if program < of_base:
            row = program // base_programs
            temperature = 1.0
            if SAMPLED:
                temperature = tl.load(temperatures + row)
            for step in range(EACH):
                chunk = (program % base_programs) * EACH + step
                if chunk < base_chunks:
                    _read_chunk(
                        base_logits + row.to(tl.int64) * base_stride,
                        base_statistics,
                        base_maxima,
                        base_all_maxima,
                        base_bits,
                        base_open_bits,
                        base_plain,
                        base_size,
                        row,
                        base_rows,
                        chunk,
                        base_chunks,
                        temperature,
                        CHUNK,
                        GROUP,
                        SAMPLED,
                        True,
                    )
    if HAS_GUIDE:
        if program >= of_base:
            row = (program - of_base) // guide_programs
            for step in range(EACH):
                chunk = ((program - of_base) % guide_programs) * EACH + step
                if chunk < guide_chunks:
                    _read_chunk(
                        guide_logits + row.to(tl.int64) * guide_stride,
                        guide_statistics,
                        guide_maxima,
                        guide_maxima,
                        guide_bits,
                        guide_bits,
                        guide_plain,
                        guide_size,
                        row,
                        guide_rows,
                        chunk,
                        guide_chunks,
                        1.0,
                        CHUNK,
                        GROUP,
                        False,
                        False,
                    )


@triton.jit
def combine(statistics, row, rows, chunks, CHUNKS: tl.constexpr):
    """A row's (maximum, Σ exp(logit - maximum)); the sum is NaN or 0 where the row is no good.

    CHUNKS is `chunks` rounded up to a power of two.
    """
    chunk = tl.arange(0, CHUNKS)
    at = statistics + row.to(tl.int64) * chunks + chunk
    highest = tl.load(at, mask=chunk < chunks, other=-float("inf"))
    total = tl.load(at + rows.to(tl.int64) * chunks, mask=chunk < chunks, other=0.0)
    peak = tl.max(highest, axis=0)
    peak = tl.where(peak == -float("inf"), 0.0, peak)
    return peak, tl.sum(total * tl.exp(highest - peak), axis=0)
