"""The exact k largest of a block: bisection on the integers that order float32 as floats do."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ordered(x):
    """float32 to the int32 that sorts alike; -0.0 and 0.0 are one value."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def middle(low, high):
    """(low + high) / 2 rounded up, without overflow."""
    return (low | high) - ((low ^ high) >> 1)


@triton.jit
def top_slots(key, SIZE: tl.constexpr, k):
    """Which k of SIZE >= k keys are the largest, ties to the lower index, and their new places.

    Returns `[SIZE]` (chosen, slot): slots run from 0 to k-1 in the order of the indices. About ten
    rounds of counting where values differ, as many as bits differ where they tie.
    """
    low, high = tl.min(key, axis=0), tl.max(key, axis=0)
    above = SIZE
    while (low < high) & (above != k):
        mid = middle(low, high)
        count = tl.sum((key >= mid).to(tl.int32), axis=0)
        if count >= k:
            low = mid
            above = count
        else:
            high = mid - 1
    greater, equal = (key > low).to(tl.int32), (key == low).to(tl.int32)
    # Two counters in one scan; blocks have fewer than 2^15 keys.
    ranks = tl.cumsum(greater + (equal << 16), axis=0)
    wanted = k - tl.sum(greater, axis=0)
    ties = ranks >> 16
    chosen = (greater != 0) | ((equal != 0) & (ties <= wanted))
    return chosen, (ranks & 0xFFFF) + tl.minimum(ties, wanted) - 1
