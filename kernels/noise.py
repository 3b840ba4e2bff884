"""Randomness that belongs to a symbol of a row's step, whoever draws it and in what order."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exponential(seed, counter, symbol, STREAM: tl.constexpr):
    """One exponential variate for each symbol of a `[B]` int32 block (Philox 4x32-10).

    The symbol with the smallest variate over its weight is a draw in proportion to the weights.
    `seed` is int64, `counter` int64; STREAM tells apart uses within one draw.
    """
    zero = symbol * 0
    low = zero + (counter & 0x7FFFFFFF).to(tl.int32)
    high = zero + ((counter >> 31) & 0x7FFFFFFF).to(tl.int32)
    bits, _, _, _ = tl.philox(seed, symbol, low, high, zero + STREAM)
    # Half a step up, so never 0; and fine near 0, where the winners of a large vocabulary are:
    # -log(1 - u) with 1 - u rounded would be as coarse as 2^-24 there.
    u = (bits >> 1).to(tl.int32).to(tl.float32) * 4.656612873077393e-10 + 2.3283064365386963e-10
    series = u * (1.0 + u * (0.5 + u * (0.3333333333 + u * 0.25)))
    return tl.where(u < 0.01, series, -tl.log(tl.maximum(1.0 - u, 1e-38)))
