"""torch's `varlen_attn` by its documentation, on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor,
    max_q: int, max_k: int, *, scale: float | None = None, window_size: tuple[int, int],
    enable_gqa: bool, seqused_k: Tensor,
) -> Tensor:  # fmt: skip
    """What the documentation says of `torch.nn.attention.varlen.varlen_attn`, on a CPU."""
    out = torch.empty_like(query)
    ends, begins, used = cu_seq_q.tolist(), cu_seq_k.tolist(), seqused_k.tolist()
    assert {each.dtype for each in (cu_seq_q, cu_seq_k, seqused_k)} == {torch.int32}
    for row, count in enumerate(used):
        own = slice(ends[row], ends[row + 1])
        length = own.stop - own.start
        assert length <= max_q and count <= max_k
        keys = slice(begins[row], begins[row] + count)
        at = torch.arange(count - length, count)[:, None]
        seen = torch.arange(count) <= at
        if window_size[0] >= 0:
            seen &= torch.arange(count) >= at - window_size[0]
        out[own] = F.scaled_dot_product_attention(
            *(part.transpose(0, 1) for part in (query[own], key[keys], value[keys])),
            attn_mask=seen, scale=scale, enable_gqa=enable_gqa,
        ).transpose(0, 1)  # fmt: skip
    return out
