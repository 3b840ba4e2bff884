"""A row's HEAD largest logits, exactly, from the maxima of its groups.

The HEAD groups with the largest maxima (ties to the lower group) hold the HEAD largest logits (ties
to the lower id): were one of them in another group, each of those HEAD groups would have a logit
before it. So two selections in registers, of groups and then among HEAD · 32 logits, replace a sort
of the vocabulary; of the logits, HEAD groups are read again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gate import end_logits, open_maxima
from .parameters import Parameters
from .selection import ordered, top_slots
from .stream import Streamed, combine
from .tables import MAX_HEAD, KernelTables

WARPS = 8


class Heads(NamedTuple):
    """Lists of the base (0) and the guide (1), in the order of the ids; unset where not needed.

    Attributes:
        values: `[2, N, HEAD]` float32 logits; -inf for what is no candidate or beyond the row.
        tokens: `[2, N, HEAD]` int32 ids; V and more where a vocabulary is shorter than HEAD.
    """

    values: Tensor
    tokens: Tensor


def head_size(parameters: Parameters, tables: KernelTables) -> int:
    """HEAD: the largest k where it fits, else as many as help most rows; a power of two."""
    wanted = min(MAX_HEAD, max(tables.geometry.head, parameters.largest_top_k))
    return triton.next_power_of_2(wanted)


def list_heads(
    base: Streamed,
    guide: Streamed | None,
    guide_rows: Tensor | None,
    tables: KernelTables,
    parameters: Parameters,
) -> Heads:
    """Lists the candidates of rows that intervene; of rows drawn from the base, all tokens."""
    rows, head = base.logits.shape[0], head_size(parameters, tables)
    device, geometry = base.logits.device, tables.geometry
    heads = Heads(
        torch.empty(2, rows, head, dtype=torch.float32, device=device),
        torch.empty(2, rows, head, dtype=torch.int32, device=device),
    )
    groups = torch.empty_like(heads.tokens)
    other = guide or base
    sides = 1 if guide is None else 2
    chunks = [side.statistics.shape[2] for side in (base, other)]
    counts = [side.maxima.shape[1] for side in (base, other)]
    _heads[(rows * sides,)](
        base.logits,
        base.logits.stride(0),
        base.statistics,
        base.maxima,
        base.all_maxima,
        other.logits,
        other.logits.stride(0),
        other.maxima,
        base.statistics if guide_rows is None else guide_rows,
        tables.base_bits,
        tables.guide_bits,
        tables.base_ends,
        parameters.threshold,
        parameters.may_intervene.view(torch.uint8),
        parameters.do_sample.view(torch.uint8),
        parameters.top_p,
        groups,
        heads.values,
        heads.tokens,
        tables.base_size,
        tables.guide_size,
        rows,
        chunks[0],
        counts[0],
        counts[1],
        tables.base_ends.numel(),
        CHUNKS=triton.next_power_of_2(chunks[0]),
        BASE_GROUPS=max(head, triton.next_power_of_2(counts[0])),
        GUIDE_GROUPS=max(head, triton.next_power_of_2(counts[1])),
        GROUP=geometry.group,
        HEAD=head,
        ENDS=triton.next_power_of_2(max(1, tables.base_ends.numel())),
        SAMPLED=parameters.any_sampled,
        MAPPED=guide_rows is not None,
        SIDES=sides,
        num_warps=WARPS,
    )
    return heads


@triton.jit
def _list(
    logits,
    maxima,
    bits,
    groups,
    values,
    tokens,
    size,
    count,
    everything,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
):
    """One row of one model; every pointer points at its row."""
    group = tl.arange(0, GROUPS)
    best = tl.load(maxima + group, mask=group < count, other=-float("inf")).to(tl.float32)
    lowest = -2147483648
    chosen, slot = top_slots(tl.where(group < count, ordered(best), lowest), GROUPS, HEAD)
    tl.store(groups + slot, group, mask=chosen)
    tl.debug_barrier()
    place = tl.arange(0, HEAD * GROUP)
    token = tl.load(groups + place // GROUP) * GROUP + place % GROUP
    inside = token < size
    x = tl.load(logits + token, mask=inside, other=-float("inf")).to(tl.float32)
    word = tl.load(bits + token // 32, mask=inside, other=0)
    candidate = ((word >> (token % 32)) & 1) != 0
    x = tl.where(candidate | (everything != 0), x, -float("inf"))
    chosen, slot = top_slots(tl.where(inside, ordered(x), lowest), HEAD * GROUP, HEAD)
    tl.store(values + slot, x, mask=chosen)
    tl.store(tokens + slot, token, mask=chosen)


@triton.jit(do_not_specialize=["rows"])  # or each batch size would be compiled anew
def _heads(
    base_logits,
    base_stride,
    base_statistics,
    base_maxima,
    base_all_maxima,
    guide_logits,
    guide_stride,
    guide_maxima,
    guide_rows,
    base_bits,
    guide_bits,
    base_ends,
    thresholds,
    may_intervene,
    do_sample,
    top_ps,
    groups,
    values,
    tokens,
    base_size,
    guide_size,
    rows,
    chunks,
    base_groups,
    guide_groups,
    end_count,
    CHUNKS: tl.constexpr,
    BASE_GROUPS: tl.constexpr,
    GUIDE_GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
    ENDS: tl.constexpr,
    SAMPLED: tl.constexpr,
    MAPPED: tl.constexpr,
    SIDES: tl.constexpr,
):
    """A program lists one row of one model, or finds that nobody will ask for it."""
    row, side = tl.program_id(0) // SIDES, tl.program_id(0) % SIDES
    logits = base_logits + row.to(tl.int64) * base_stride
    peak, mass = combine(base_statistics, row, rows, chunks, CHUNKS)
    top = tl.max(open_maxima(base_statistics, row, rows, chunks, CHUNKS), axis=0)
    end_prob = tl.sum(tl.exp(end_logits(logits, base_ends, end_count, ENDS) - peak), axis=0) / mass
    top_prob = tl.maximum(tl.exp(top - peak) / mass, end_prob).to(tl.float64)
    allowed = tl.load(may_intervene + row) != 0
    if SIDES == 1:
        allowed = allowed & False
    guide_row = row
    if MAPPED:
        guide_row = tl.load(guide_rows + row)
        allowed = allowed & (guide_row >= 0)
    fine = mass > 0
    intervenes = fine & allowed & (top_prob < tl.load(thresholds + row))
    list_at = (side * rows + row).to(tl.int64) * HEAD
    if side == 0:
        drawn = fine & False
        maxima = base_maxima
        if SAMPLED:
            drawn = fine & (tl.load(do_sample + row) != 0) & (tl.load(top_ps + row) < 1)
            if not intervenes:
                maxima = base_all_maxima
        if intervenes | drawn:
            _list(
                logits,
                maxima + row.to(tl.int64) * base_groups,
                base_bits,
                groups + list_at,
                values + list_at,
                tokens + list_at,
                base_size,
                base_groups,
                1 - intervenes.to(tl.int32),
                BASE_GROUPS,
                GROUP,
                HEAD,
            )
    elif intervenes:
        _list(
            guide_logits + guide_row.to(tl.int64) * guide_stride,
            guide_maxima + guide_row.to(tl.int64) * guide_groups,
            guide_bits,
            groups + list_at,
            values + list_at,
            tokens + list_at,
            guide_size,
            guide_groups,
            0,
            GUIDE_GROUPS,
            GROUP,
            HEAD,
        )
