"""A row's k likeliest candidates, exactly, from the maxima of its groups.

The k groups with the largest maxima (ties to the lower group) hold the k largest logits (ties to
the lower id): were one of them in another group, each of those k groups would have a logit before
it. So two selections, of k groups and then among their k · 32 logits, replace a sort of the
vocabulary; of the logits, k groups are read again. What a sample of the row would make likely (GVR,
flashinfer#4811: a bracket around the k-th logit) the maxima make certain, at no pass more.

A selection counts the keys between two brackets in 256 bins, puts the brackets around the bin that
the k-th key falls into, and ends where that bin is wanted whole: two rounds at 16 bits, up to four
at 32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gate import Gated
from .rows import Rows, on_device
from .tables import MAX_LIST, KernelTables

WARPS = 8
BITS = tl.constexpr(8)  # of a key are settled in a round
BINS = tl.constexpr(256)
# Keys at once, some a thread: a histogram of fewer would count copies. More of those that are
# looked up in the chosen groups would take more registers than there are.
MIN_BLOCK = 1024
UNUSED_BITS = {torch.bfloat16: 16, torch.float16: 13, torch.float32: 0}
"""The low bits of a float32 that are alike for all values of a dtype."""


def largest_list(tables: KernelTables) -> int:
    """The largest k: a list of all V tokens is not a selection."""
    return min(MAX_LIST, tables.size - 1)


def topk(
    rows: Rows, gated: Gated, places: Tensor, tables: KernelTables, k: int
) -> tuple[Tensor, Tensor]:
    """The top k candidates of some rows in the order of their ids, then END, in one launch.

    END competes for a place among the k: where it is likelier than the least likely of them (the
    one with the highest id of equals), that one has probability 0.

    Args:
        rows: N rows of logits.
        gated: what `gate` kept of them.
        places: `[M]` int64, the rows that are listed.
        tables: of the model that they are of.
        k: from 1 to `largest_list`.

    Returns:
        Symbols, `[M, k + 1]` int64, and their probabilities, `[M, k + 1]` float32. Tokens that are
        no candidates fill up a list where there are not k candidates, with probability 0.
    """
    if not 0 < k <= largest_list(tables):
        raise ValueError(f"a list of the top {k} of {tables.size} tokens is not for the kernels")
    logits, geometry, count = rows.logits, tables.geometry, len(places)
    groups = gated.maxima.shape[1]
    symbols = torch.empty(count, k + 1, dtype=torch.int64, device=logits.device)
    probs = torch.empty(count, k + 1, dtype=torch.float32, device=logits.device)
    chosen = torch.empty(count, k, dtype=torch.int32, device=logits.device)
    block = min(MIN_BLOCK, geometry.block)
    if count:
        with on_device(logits):
            _topk[(count,)](
                logits,
                rows.stride,
                places,
                gated.maxima,
                gated.raw.view(torch.float32),
                tables.bits,
                tables.symbols,
                chosen,
                symbols,
                probs,
                tables.size,
                tables.end,
                groups,
                k,
                GROUP_BLOCK=min(geometry.block, max(block, triton.next_power_of_2(groups))),
                BLOCK=block,
                GROUP=geometry.group,
                UNUSED=UNUSED_BITS[logits.dtype],
                num_warps=WARPS,
            )
    return symbols, probs


@triton.jit(do_not_specialize=["size", "end", "k"])
def _topk(
    logits,
    stride,
    places,
    maxima,
    raw_floats,
    bits,
    symbols,
    chosen_groups,
    listed,
    probs,
    size,
    end,
    groups,
    k,
    GROUP_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    UNUSED: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(places + place)
    logits += row * stride
    maxima += row * groups
    chosen_groups += place * k
    listed += place * (k + 1)
    probs += place * (k + 1)

    wanted = tl.minimum(k, groups)
    low, high, left = _bracket(maxima, bits, bits, groups, size, wanted, GROUP_BLOCK, 0, UNUSED)
    taken = 0
    for begin in range(0, groups, GROUP_BLOCK):
        group = begin + tl.arange(0, GROUP_BLOCK)
        _, _, key, inside = _keys(maxima, bits, bits, group, groups, size, 0, UNUSED)
        chosen, slot, count, ties = _slots(key, inside, low, high, left)
        tl.store(chosen_groups + taken + slot, group, mask=chosen)
        taken += count
        left -= ties
    tl.debug_barrier()

    count = wanted * GROUP
    low, high, left = _bracket(logits, chosen_groups, bits, count, size, k, BLOCK, GROUP, UNUSED)
    log_total = tl.load(raw_floats + row * 6 + 2)
    taken, least, last = 0, float("inf"), 0
    for begin in range(0, count, BLOCK):
        item = begin + tl.arange(0, BLOCK)
        token, x, key, inside = _keys(logits, chosen_groups, bits, item, count, size, GROUP, UNUSED)
        chosen, slot, of_block, ties = _slots(key, inside, low, high, left)
        tl.store(listed + taken + slot, tl.load(symbols + token, mask=chosen, other=0), mask=chosen)
        tl.store(probs + taken + slot, tl.exp(x - log_total), mask=chosen)
        if of_block > 0:  # the last of the least likely so far: ids ascend
            lowest = tl.min(tl.where(chosen, x, float("inf")), axis=0)
            if lowest <= least:
                least = lowest
                last = taken + tl.max(tl.where(chosen & (x == lowest), slot, 0), axis=0)
        taken += of_block
        left -= ties
    end_prob = tl.exp(tl.load(raw_floats + row * 6 + 3) - log_total)
    tl.debug_barrier()
    if end_prob > tl.exp(least - log_total):
        tl.store(probs + last, 0.0)
    tl.store(listed + k, end.to(tl.int64))
    tl.store(probs + k, end_prob)


@triton.jit
def _keys(values, chosen, bits, item, count, size, GROUP: tl.constexpr, UNUSED: tl.constexpr):
    """Some items as (token, float32, the integer that sorts like it, whether they are there).

    An item is a value, or with GROUP a token of the chosen groups, -inf where it is no candidate.
    -0.0 and 0.0 are one value.
    """
    inside = item < count
    token = item
    readable = inside
    if GROUP > 0:
        token = tl.load(chosen + item // GROUP, mask=inside, other=0) * GROUP + item % GROUP
        inside &= token < size
        word = tl.load(bits + token // 32, mask=inside, other=0)
        readable = inside & (((word >> (token % 32)) & 1) != 0)
    x = tl.load(values + token, mask=readable, other=-float("inf")).to(tl.float32)
    plain = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return token, x, (plain ^ ((plain >> 31) & 0x7FFFFFFF)) >> UNUSED, inside


@triton.jit
def _bracket(
    values,
    chosen,
    bits,
    count,
    size,
    wanted,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    UNUSED: tl.constexpr,
):
    """(low, high, left): of the `wanted` largest keys, those above `high`, and of those from low
    to high the first `left`; they are equal, or all are wanted."""
    low = -2147483648 >> UNUSED
    high = 2147483647 >> UNUSED
    shift = 32 - BITS - UNUSED
    left = wanted
    while shift >= 0:
        counts = tl.zeros([BINS], dtype=tl.int32)
        for begin in range(0, count, BLOCK):
            item = begin + tl.arange(0, BLOCK)
            _, _, key, inside = _keys(values, chosen, bits, item, count, size, GROUP, UNUSED)
            inside &= (key >= low) & (key <= high)
            # Unsigned, for the whole range is 2^32 wide.
            place = (key - low).to(tl.uint32, bitcast=True) >> shift.to(tl.uint32)
            counts += tl.histogram(tl.where(inside, place.to(tl.int32), 0), BINS, mask=inside)
        from_here = tl.cumsum(counts, axis=0, reverse=True)
        bin = tl.arange(0, BINS)
        found = tl.sum((from_here >= left).to(tl.int32), axis=0) - 1
        left -= tl.sum(tl.where(bin > found, counts, 0), axis=0)
        low += found << shift
        high = low + ((1 << shift) - 1)
        whole = tl.sum(tl.where(bin == found, counts, 0), axis=0) == left
        shift = tl.where(whole | (shift == 0), -1, tl.maximum(shift - BITS, 0))
    return low, high, left


@triton.jit
def _slots(key, inside, low, high, left):
    """(chosen, slot, how many, how many of them in the bracket) of a block of keys."""
    above = (inside & (key > high)).to(tl.int32)
    within = (inside & (key >= low) & (key <= high)).to(tl.int32)
    # Two counters in one scan: blocks have fewer than 2^15 keys.
    ranks = tl.cumsum(above + (within << 16), axis=0)
    ties = ranks >> 16
    chosen = (above != 0) | ((within != 0) & (ties <= left))
    taken = tl.minimum(tl.sum(within, axis=0), left)
    slot = (ranks & 0xFFFF) + tl.minimum(ties, left) - 1
    return chosen, slot, tl.sum(above, axis=0) + taken, taken
