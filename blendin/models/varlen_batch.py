"""One forward over many sequences, each with its own number of new tokens; nothing is padded.

The new tokens of all sequences lie one after the other in a single row, as transformers' continuous
batching lays them out; positions, and an attention function registered with transformers, keep the
sequences apart. The model stays transformers' own.

transformers' own paged attention was weighed and left: without a flash-attention package it copies
every sequence's keys and values together in every layer and masks all sequences against all others
in one dense mask, which grows with the square of the batch; its cache cannot undo a step; and its
interface changed between 5.17 and 5.23. Padding, as in `generate`, makes every row as long as the
longest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from .kv_pool import Pool, Span

ATTENTION = "blendin_ragged"
"""The attention's name in transformers' registry."""


class CannotPack(Exception):
    """Why a model's sequences are read one after the other."""


class Packed:
    """The new tokens of some sequences in one row.

    Attributes:
        ids: `[1, T]` int64.
        positions: `[1, T]` int64, each token's place in its own sequence.
        last: `[R]` int64, where the last new token of each sequence lies in the row.
        windows: of each layer that has attended, its sliding window.
    """

    def __init__(
        self,
        pool: Pool,
        rows: Sequence[tuple[Span, Sequence[int]]],
        device: torch.device,
        attend: Callable[..., Tensor],
    ) -> None:
        """Lays out new tokens.

        Args:
            pool: where the keys and values go.
            rows: each sequence's span and its new tokens.
            device: of the model's embedding.
            attend: `attend_sdpa`, or `attend_eager` of the model.
        """
        self.pool, self.attend = pool, attend
        self.lengths = [len(new) for _, new in rows]
        self.held = [len(span.ids) for span, _ in rows]
        self.starts = [span.start for span, _ in rows]
        positions = [
            held + i
            for held, length in zip(self.held, self.lengths, strict=True)
            for i in range(length)
        ]
        starts = [
            start
            for start, length in zip(self.starts, self.lengths, strict=True)
            for _ in range(length)
        ]
        self.ids = torch.tensor([[id for _, new in rows for id in new]], device=device)
        self.positions = torch.tensor([positions], device=device)
        self.last = torch.tensor(self.lengths, device=device).cumsum(0) - 1
        self._write = self.positions[0] + torch.tensor(starts, device=device)
        # Where a launch costs more than the copy, single tokens are attended to in one call.
        self.together = batches_single_tokens(device)
        self.windows: dict[int, int | None] = {}
        self._plans: dict[Any, Any] = {}

    def attention(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, window: int | None, **how: Any
    ) -> Tensor:
        """Attention of `[1, heads, T, width]` queries within their own sequences.

        Returns `[1, T, heads, width]`, as transformers' attention functions do.
        """
        self.windows[module.layer_idx] = window
        write = self._write.to(key.device)
        keys, values = self.pool.write(
            module.layer_idx, write, key[0].transpose(0, 1), value[0].transpose(0, 1)
        )
        keys, values = keys.transpose(0, 1)[None], values.transpose(0, 1)[None]
        if self.together and self.lengths.count(1) > 1:
            return self._attend_in_groups(module, query, keys, values, window, how)
        attended = [
            self.attend(module, own, keys[:, :, at], values[:, :, at], mask, **how)
            for own, (at, mask) in zip(
                query.split(self.lengths, dim=2), self._views(window, query), strict=True
            )
        ]
        return torch.cat(attended, dim=2).transpose(1, 2)

    def _views(self, window: int | None, query: Tensor) -> list[tuple[slice, Tensor | None]]:
        """Where each sequence's visible keys are, and which of them each new token sees.

        A mask is `[1, 1, t, keys]`, to be added to the scores of a query like `query`: made once,
        for all layers. None for one token, which sees all.
        """
        if (window, query.device) not in self._plans:
            self._plans[window, query.device] = [
                self._view(row, window, query) for row in range(len(self.lengths))
            ]
        return self._plans[window, query.device]

    def _view(self, row: int, window: int | None, query: Tensor) -> tuple[slice, Tensor | None]:
        device = query.device
        held, length, start = self.held[row], self.lengths[row], self.starts[row]
        first = 0 if window is None else max(0, held + 1 - window)
        at = slice(start + first, start + held + length)
        if length == 1:
            return at, None
        queries = torch.arange(held, held + length, device=device)[:, None]
        columns = torch.arange(first, held + length, device=device)
        mask = columns <= queries
        if window is not None:
            mask &= columns > queries - window
        return at, _additive(mask, query)[None, None]

    def _attend_in_groups(
        self,
        module: Any,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        window: int | None,
        how: dict[str, Any],
    ) -> Tensor:
        """All sequences with one new token in one call, their keys gathered and padded."""
        out = query.new_empty(*query.shape[:3], values.shape[-1])
        places, index, seen = self._singles(window, query)
        attended = self.attend(
            module,
            query[0, :, places].transpose(0, 1)[:, :, None],
            keys[0, :, index].transpose(0, 1),
            values[0, :, index].transpose(0, 1),
            seen,
            **how,
        )
        out[0, :, places] = attended[:, :, 0].transpose(0, 1)
        end = 0
        for length, (at, mask) in zip(self.lengths, self._views(window, query), strict=True):
            end += length
            if length > 1:
                own = query[:, :, end - length : end]
                out[:, :, end - length : end] = self.attend(
                    module, own, keys[:, :, at], values[:, :, at], mask, **how
                )
        return out.transpose(1, 2)

    def _singles(self, window: int | None, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of sequences with one new token: its place, `[N]`; its keys', `[N, W]`; their mask.

        Padding points at a key that is there: what was never written may be NaN.
        """
        device = query.device
        if ("singles", window, device) not in self._plans:
            rows = [row for row, length in enumerate(self.lengths) if length == 1]
            lengths = torch.tensor([self.held[row] + 1 for row in rows], device=device)
            starts = torch.tensor([self.starts[row] for row in rows], device=device)
            first = lengths * 0 if window is None else (lengths - window).clamp(min=0)
            widest = max(
                self.held[row] + 1 if window is None else min(self.held[row] + 1, window)
                for row in rows
            )
            columns = first[:, None] + torch.arange(widest, device=device)
            index = starts[:, None] + columns.minimum(lengths[:, None] - 1)
            mask = _additive(columns < lengths[:, None], query)[:, None, None]
            self._plans["singles", window, device] = self.last.to(device)[rows], index, mask
        return self._plans["singles", window, device]


def _additive(seen: Tensor, query: Tensor) -> Tensor:
    """A mask to be added to scores: 0 where a key is seen, -inf elsewhere."""
    return query.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)


def batches_single_tokens(device: torch.device) -> bool:
    """Whether gathering keys into one padded call is cheaper than a call a sequence."""
    return device.type != "cpu"


def _ragged_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    blendin_packed: Packed,
    sliding_window: int | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in place of its own attention; causal masks are made here."""
    assert attention_mask is None, "transformers masks for an attention that it does not know"
    how.pop("position_ids", None)
    return blendin_packed.attention(module, query, key, value, sliding_window, **how), None


def attend_sdpa(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """`[R, heads, t, width]` attended values."""
    if softcap is not None or s_aux is not None:
        raise CannotPack("its attention caps its scores or has sinks, which SDPA has not")
    groups = query.shape[1] // key.shape[1]
    if (
        query.shape[2] == 1 and groups > 1 and mask is not None
    ):  # masked GQA falls back on slow kernels on CUDA
        packed = query.reshape(len(query), key.shape[1], groups, query.shape[-1])
        out = F.scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scaling)
        return out.reshape(*query.shape[:3], value.shape[-1])
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scaling, enable_gqa=groups > 1
    )


def attend_eager(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **how: Any
) -> Tensor:
    """The model's own eager attention."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return eager(module, query, key, value, mask, **how)[0].transpose(1, 2)


AttentionInterface.register(ATTENTION, _ragged_attention)
