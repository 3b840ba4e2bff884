"""A step's whole decision on a GPU: `blendin.decision` in a handful of launches.

    stream    each logit read once: softmax statistics by chunk, maxima by group
    heads     the top logits of each row and model, from the maxima
    verdict   gate, α, blend, choice or draw
    whole     the rows for which a list of top logits is not enough (launched where there may be)

The k-th and the (k+1)-th logit of a model may tie: the lower id is a candidate, the higher is not
(`torch.topk` promises nothing). Equal weights at the top: the lower symbol, as in `argmax`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .gate import Gated
from .heads import head_size, list_heads
from .parameters import Parameters
from .stream import stream, workspace
from .tables import KernelTables
from .verdict import settle
from .whole import settle_whole


class Decision(NamedTuple):
    """What was decided, and the trace's numbers.

    Attributes:
        raw: `[N, 10]` int32 with all of the following, so that one copy takes a step to the host.
    """

    raw: Tensor

    @property
    def symbol(self) -> Tensor:
        """`[N]` int32 in the joint space of `blendin.decision`; -1 at an error, never a token."""
        return self.raw[:, 0]

    @property
    def end_token(self) -> Tensor:
        """`[N]` int32: where the symbol is END, the id behind it (drawn, or the likeliest of both
        models' where they share a vocabulary); else -1."""
        return self.raw[:, 1]

    @property
    def intervened(self) -> Tensor:
        """`[N]` bool."""
        return self.raw[:, 2] != 0

    @property
    def base_top_prob(self) -> Tensor:
        """`[N]` float32, p_b; NaN at an error of the base."""
        return self.raw.view(torch.float32)[:, 3]

    @property
    def guide_top_prob(self) -> Tensor:
        """`[N]` float32, p_g; NaN where the row did not intervene, as in the next three."""
        return self.raw.view(torch.float32)[:, 4]

    @property
    def guide_choice(self) -> Tensor:
        """`[N]` int32, the symbol t_g, or -1."""
        return self.raw[:, 5]

    @property
    def agreement(self) -> Tensor:
        """`[N]` float32, P_B(t_g)."""
        return self.raw.view(torch.float32)[:, 6]

    @property
    def alpha(self) -> Tensor:
        """`[N]` float32, α."""
        return self.raw.view(torch.float32)[:, 7]

    @property
    def sides(self) -> Tensor:
        """`[N]` int32: 1 if the base gave the chosen symbol weight, plus 2 if the guide did."""
        return self.raw[:, 8]

    @property
    def error(self) -> Tensor:
        """`[N]` int32: 1, the base's row is not numbers; 2, the guide's is not; 4, no candidate
        has any weight; 0, fine. A row of NaN, +inf or -inf alone is not numbers."""
        return self.raw[:, 9]


def decide(
    base_logits: Tensor,
    guide_logits: Tensor | None,
    tables: KernelTables,
    parameters: Parameters,
    *,
    gated: Gated | None = None,
    guide_rows: Tensor | None = None,
) -> Decision:
    """Decides N steps; nothing is copied to the host or waited for.

    Args:
        base_logits: `[N, V_b]` float16, bfloat16 or float32, rows strided at will.
        guide_logits: `[M, V_g]` likewise, M = N without `guide_rows`; None: no row intervenes.
        tables: the alignment, on the device of the logits.
        parameters: of the N rows, there too.
        gated: what `gate` said of these base logits and parameters, lest they be read again.
        guide_rows: `[N]` int32, each row's place in `guide_logits`; -1: the base goes on alone.

    Raises:
        ValueError: where sizes, strides or devices do not fit.
    """
    _check(base_logits, tables.base_size, "base")
    if guide_logits is not None:
        _check(guide_logits, tables.guide_size, "guide")
        if guide_rows is None and len(guide_logits) != len(base_logits):
            raise ValueError(
                f"{len(guide_logits)} rows of the guide's logits for {len(base_logits)} of the "
                "base's: say which belong together with guide_rows"
            )
        if not len(guide_logits):
            guide_logits = guide_rows = None
    if gated is not None and gated.streamed.logits is not base_logits:
        raise ValueError("`gated` is of other base logits")
    if not len(base_logits):
        return Decision(torch.empty(0, 10, dtype=torch.int32, device=base_logits.device))
    sampled = parameters.any_sampled
    base = gated.streamed if gated else workspace(base_logits, tables.geometry, sampled=sampled)
    guide = None
    if guide_logits is not None:
        guide = workspace(guide_logits, tables.geometry, sampled=False)
    else:
        guide_rows = None
    stream(None if gated else base, guide, tables, parameters.temperature, sampled=sampled)
    heads = list_heads(base, guide, guide_rows, tables, parameters)
    raw, pending = settle(base, guide, guide_rows, heads, tables, parameters)
    head = head_size(parameters, tables)
    if sampled or parameters.any_whole or parameters.largest_top_k > head:
        settle_whole(base, guide, guide_rows, raw, pending, tables, parameters)
    return Decision(raw)


def _check(logits: Tensor, size: int, name: str) -> None:
    if logits.dim() != 2 or logits.shape[1] != size or logits.stride(1) != 1:
        raise ValueError(
            f"the {name}'s logits are {tuple(logits.shape)} with strides {logits.stride()}; they "
            f"must be [N, {size}], each row contiguous"
        )
    if logits.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ValueError(f"the {name}'s logits are {logits.dtype}; the kernels read 16 or 32 bits")
