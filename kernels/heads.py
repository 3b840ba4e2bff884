"""A row's k likeliest candidates, exactly, from the maxima of its groups.

The k groups with the largest maxima (ties to the lower group) hold the k largest logits (ties to
the lower id): were one of them in another group, each of those k groups would have a logit before
it. So two selections in registers, of HEAD >= k groups and then among HEAD · 32 logits, replace a
sort of the vocabulary; of the logits, HEAD groups are read again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gate import Gated, end_logits
from .selection import ordered, top_slots
from .tables import MAX_HEAD, KernelTables

WARPS = 8


def largest_list(tables: KernelTables) -> int:
    """The largest k: a list of all V tokens is not a selection."""
    return min(MAX_HEAD, tables.size - 1)


def list_heads(logits: Tensor, gated: Gated, tables: KernelTables, k: int) -> tuple[Tensor, Tensor]:
    """The top k candidates of each row in the order of their ids, then END, in one launch.

    END competes for a place among the k: where it is likelier than the least likely of them (the
    one with the highest id of equals), that one has probability 0.

    Args:
        logits: `[N, V]`; rows may be strided.
        gated: what `gate` kept of them.
        tables: of the model that they are of.
        k: from 1 to `largest_list`.

    Returns:
        Symbols, `[N, k + 1]` int64, and their probabilities, `[N, k + 1]` float32. Tokens that are
        no candidates fill up a list where there are not k candidates, with probability 0.
    """
    if not 0 < k <= largest_list(tables):
        raise ValueError(f"a list of the top {k} of {tables.size} tokens is not for the kernels")
    rows, groups = gated.maxima.shape
    log_total = gated.log_total
    head = triton.next_power_of_2(k)
    symbols = torch.empty(rows, k + 1, dtype=torch.int64, device=logits.device)
    probs = torch.empty(rows, k + 1, dtype=torch.float32, device=logits.device)
    chosen = torch.empty(rows, head, dtype=torch.int32, device=logits.device)
    if rows:
        _heads[(rows,)](
            logits,
            logits.stride(0),
            gated.maxima,
            log_total,
            log_total.stride(0),
            tables.bits,
            tables.ends,
            tables.symbols,
            chosen,
            symbols,
            probs,
            tables.size,
            tables.end,
            groups,
            k,
            tables.ends.numel(),
            GROUPS=max(head, triton.next_power_of_2(groups)),
            GROUP=tables.geometry.group,
            HEAD=head,
            ENDS=tables.ends_rounded_up,
            num_warps=WARPS,
        )
    return symbols, probs


@triton.jit(do_not_specialize=["k"])
def _heads(
    logits,
    stride,
    maxima,
    log_totals,
    log_total_stride,
    bits,
    ends,
    symbols,
    chosen_groups,
    listed,
    probs,
    size,
    end,
    groups,
    k,
    end_count,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD: tl.constexpr,
    ENDS: tl.constexpr,
):
    row = tl.program_id(0)
    wide = row.to(tl.int64)
    logits += wide * stride
    chosen_groups += wide * HEAD
    listed += wide * (k + 1)
    probs += wide * (k + 1)
    group = tl.arange(0, GROUPS)
    best = tl.load(maxima + wide * groups + group, mask=group < groups, other=-float("inf"))
    lowest = -2147483648
    key = tl.where(group < groups, ordered(best.to(tl.float32)), lowest)
    chosen, slot = top_slots(key, GROUPS, HEAD)
    tl.store(chosen_groups + slot, group, mask=chosen)
    tl.debug_barrier()

    place = tl.arange(0, HEAD * GROUP)
    token = tl.load(chosen_groups + place // GROUP) * GROUP + place % GROUP
    inside = token < size
    x = tl.load(logits + token, mask=inside, other=-float("inf")).to(tl.float32)
    word = tl.load(bits + token // 32, mask=inside, other=0)
    x = tl.where(((word >> (token % 32)) & 1) != 0, x, -float("inf"))
    chosen, slot = top_slots(tl.where(inside, ordered(x), lowest), HEAD * GROUP, k)

    log_total = tl.load(log_totals + row * log_total_stride)
    prob = tl.exp(x - log_total)
    end_prob = tl.sum(tl.exp(end_logits(logits, ends, end_count, ENDS) - log_total), axis=0)
    least = tl.min(tl.where(chosen, x, float("inf")), axis=0)
    last = tl.max(tl.where(chosen & (x == least), token, -1), axis=0)
    prob = tl.where((token == last) & (end_prob > prob), 0.0, prob)
    symbol = tl.load(symbols + token, mask=inside, other=0)
    tl.store(listed + slot, symbol, mask=chosen)
    tl.store(probs + slot, prob, mask=chosen)
    tl.store(listed + k, end.to(tl.int64))
    tl.store(probs + k, end_prob)
