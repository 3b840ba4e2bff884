"""One forward over many sequences, each with its own number of new tokens; nothing is padded.

The new tokens of all sequences lie one after the other in a single row, as transformers' continuous
batching lays them out; positions, and an attention of our own (`attention_route`), keep the
sequences apart. The model stays transformers' own.

We decided against transformers' own paged attention: without a flash-attention package it copies
every sequence's keys and values together in every layer and masks all sequences against all others
in one dense mask, which grows with the square of the batch; its cache cannot undo a step; and its
interface changed between 5.17 and 5.23. Padding, as in `generate`, makes every row as long as the
longest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .devices import sent
from .kv_pool import KVSegment


class VarlenUnsupported(Exception):
    """Why a model's sequences are read one after the other."""


class View(NamedTuple):
    """What the new tokens of one sequence see.

    Attributes:
        keys: where its visible keys are.
        mask: `[1, 1, t, keys]`, added to the scores; None where all of them are seen, or `causal`.
        causal: token i sees the first i + 1 keys.
    """

    keys: slice
    mask: Tensor | None = None
    causal: bool = False


class VarlenBatch:
    """The new tokens of some sequences in one row.

    Attributes:
        ids: `[1, T]` int64.
        positions: `[1, T]` int64, each token's place in its own sequence.
        lengths: how many tokens each sequence has in the row.
        longest_new: the most new tokens of one sequence.
        longest: the most tokens of one sequence, or more.
        windows: the sliding window of each layer that has attended.
    """

    def __init__(
        self,
        rows: Sequence[tuple[KVSegment, Sequence[int]]],
        device: torch.device,
        attend: Callable[..., Tensor],
        attend_packed: Callable[..., Tensor] | None = None,
    ) -> None:
        """Lays out new tokens.

        Args:
            rows: each sequence's segment, all of one pool, and its new tokens.
            device: the device of the model's embedding.
            attend: `attend_sdpa`, or `attend_eager` for a model whose own attention is eager.
            attend_packed: torch's `varlen_attn`, which attends to all sequences in one call where
                they lie; None where it does not run.
        """
        self.pool, self.attend, self.attend_packed = rows[0][0].pool, attend, attend_packed
        self.lengths = [len(new) for _, new in rows]
        self.held = [segment.length for segment, _ in rows]
        self.starts = [segment.start for segment, _ in rows]
        self.longest_new = max(self.lengths)
        self.longest = max(map(sum, zip(self.held, self.lengths, strict=True)))
        self.ids = sent(torch.tensor([[id for _, new in rows for id in new]]), device)
        parts = [
            torch.arange(held, held + length)
            for held, length in zip(self.held, self.lengths, strict=True)
        ]
        positions = torch.cat(parts) if len(parts) > 1 else parts[0]
        self.positions = sent(positions, device)[None]
        self._places: slice | Tensor
        if len(rows) == 1:
            begin = self.starts[0] + self.held[0]
            self._places = slice(begin, begin + self.lengths[0])
        else:
            shifts = torch.tensor(self.starts).repeat_interleave(torch.tensor(self.lengths))
            self._places = sent(positions + shifts, device)
        # Where a launch costs more than the copy, single tokens are attended to in one call.
        self.together = batches_single_tokens(device) and self.lengths.count(1) > 1
        self.windows: dict[int, int | None] = {}
        self._views: dict[Any, list[View]] = {}
        self._singles: dict[Any, tuple[Tensor, Tensor, Tensor]] = {}
        self._bounds: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def attention(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, window: int | None, **how: Any
    ) -> Tensor:
        """Attention of `[1, heads, T, width]` queries within their own sequences.

        Returns `[1, T, heads, width]`, as transformers' attention functions do.
        """
        self.windows[module.layer_idx] = window
        if isinstance(self._places, Tensor):  # layers may lie on several devices
            self._places = self._places.to(key.device)
        keys, values = self.pool.write(module.layer_idx, self._places, key[0], value[0])
        if self.attend_packed is not None:
            return self._attend_where_they_lie(query, keys, values, window, **how)
        keys, values = keys[None], values[None]
        if self.together:
            return self._attend_in_groups(module, query, keys, values, window, how)
        queries = query.split(self.lengths, dim=2) if len(self.lengths) > 1 else (query,)
        attended = [
            self._attend(module, own, keys, values, view, how)
            for own, view in zip(queries, self._visible(window, query), strict=True)
        ]
        return (torch.cat(attended, dim=2) if len(attended) > 1 else attended[0]).transpose(1, 2)

    def _attend_where_they_lie(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        window: int | None,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """All sequences in one call, over the pool's `[heads, size, width]` as it is."""
        if softcap is not None or s_aux is not None:
            raise VarlenUnsupported("its attention caps its scores or has sinks")
        assert self.attend_packed is not None
        if query.device not in self._bounds:
            ends = [0, *accumulate(self.lengths)]
            # Only where a sequence's keys begin is read, for how many there are is given.
            begins = [*self.starts, keys.shape[1]]
            used = [held + new for held, new in zip(self.held, self.lengths, strict=True)]
            bounds = torch.tensor([*ends, *begins, *used], dtype=torch.int32)
            split = bounds.split([len(ends), len(begins), len(used)])
            self._bounds[query.device] = tuple(  # type: ignore[assignment]
                sent(part.contiguous(), query.device) for part in split
            )
        ends_at, begins_at, used_of = self._bounds[query.device]
        attended = self.attend_packed(
            query[0].transpose(0, 1),
            keys.transpose(0, 1),
            values.transpose(0, 1),
            ends_at,
            begins_at,
            self.longest_new,
            self.longest,
            scale=scaling,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=query.shape[1] != keys.shape[0],
            seqused_k=used_of,
        )
        return attended[None]

    def _attend(
        self,
        module: Any,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        view: View,
        how: dict[str, Any],
    ) -> Tensor:
        keys, values = keys[:, :, view.keys], values[:, :, view.keys]
        return self.attend(module, query, keys, values, view.mask, causal=view.causal, **how)

    def _visible(self, window: int | None, query: Tensor) -> list[View]:
        """What each sequence sees: made once, for all layers of that window and device."""
        known = self._views.get((window, query.device))
        if known is None:
            known = [self._view(row, window, query) for row in range(len(self.lengths))]
            self._views[window, query.device] = known
        return known

    def _view(self, row: int, window: int | None, query: Tensor) -> View:
        held, length, start = self.held[row], self.lengths[row], self.starts[row]
        first = 0 if window is None else max(0, held + 1 - window)
        keys = slice(start + first, start + held + length)
        if length == 1:
            return View(keys)
        narrow = window is not None and length > window
        if held == 0 and not narrow and self.attend is attend_sdpa:
            return View(keys, causal=True)
        queries = torch.arange(held, held + length, device=query.device)[:, None]
        columns = torch.arange(first, held + length, device=query.device)
        mask = columns <= queries
        if window is not None:
            mask &= columns > queries - window
        return View(keys, _additive(mask, query)[None, None])

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
        places, index, seen = self._single_tokens(window, query)
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
        for length, view in zip(self.lengths, self._visible(window, query), strict=True):
            end += length
            if length > 1:
                own = query[:, :, end - length : end]
                out[:, :, end - length : end] = self._attend(module, own, keys, values, view, how)
        return out.transpose(1, 2)

    def _single_tokens(self, window: int | None, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of sequences with one new token: its place, `[N]`; its keys', `[N, W]`; their mask.

        Padding points at a key that is there: memory that was never written may hold NaN.
        """
        device = query.device
        if (window, device) not in self._singles:
            rows = [row for row, length in enumerate(self.lengths) if length == 1]
            places = torch.tensor(self.lengths).cumsum(0)[rows] - 1
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
            self._singles[window, device] = places.to(device), index, mask
        return self._singles[window, device]


def _additive(seen: Tensor, query: Tensor) -> Tensor:
    """A mask to be added to scores: 0 where a key is seen, -inf elsewhere."""
    return query.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)


def batches_single_tokens(device: torch.device) -> bool:
    """Whether gathering keys into one padded call is cheaper than a call a sequence."""
    return device.type != "cpu"


def attend_sdpa(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    causal: bool = False,
    **_: Any,
) -> Tensor:
    """`[R, heads, t, width]` attended values."""
    if softcap is not None or s_aux is not None:
        raise VarlenUnsupported("its attention caps its scores or has sinks, which SDPA lacks")
    groups = query.shape[1] // key.shape[1]
    # Masked GQA falls back on slow kernels on CUDA.
    if query.shape[2] == 1 and groups > 1 and mask is not None:
        grouped = query.reshape(len(query), key.shape[1], groups, query.shape[-1])
        out = F.scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
        return out.reshape(*query.shape[:3], value.shape[-1])
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal,
        scale=scaling,
        enable_gqa=groups > 1,
    )


def attend_eager(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool = False,
    **how: Any,
) -> Tensor:
    """The model's own eager attention, which knows masks alone."""
    assert not causal
    eager = sys.modules[type(module).__module__].eager_attention_forward
    return eager(module, query, key, value, mask, **how)[0].transpose(1, 2)
