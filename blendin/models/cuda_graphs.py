"""Decoding forwards as CUDA graphs over static KV caches.

At batch 1 a GPU reads a model's weights in less time than Python takes to launch the forward's
kernels. A captured forward is one launch. The model is transformers' own, run once under capture;
what changes from step to step (ids, position) lies in buffers that the graph reads.

A `GraphRunner` is one static cache with the graphs over it; a sequence holds it while it decodes,
then the next one takes it over, so that a model is captured a few times and not once a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel, StaticCache, StaticLayer

from ..decision.gated import Gate, Scored, tensors_of, with_tensors
from ..forks import Lock
from .devices import input_device, is_offloaded, run_devices, sent
from .graph_capture import (
    CannotCapture,
    GraphContents,
    Refusals,
    check_alike,
    read_by,
    record,
    spoil,
)
from .kv_pool import SMALLEST_CAPACITY, capacity_for
from .trial import state_arguments

WIDTHS = (1, 2, 4, 8, 16)
"""How many tokens a captured forward reads; fewer are padded, more are read uncaptured."""


class PrefixLayer(StaticLayer):
    """A static layer of which a forward sees a prefix: the rest of it is not read.

    Attributes:
        visible: how many tokens from its beginning attention reads.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.visible = capacity

    def update(self, *states: Any, **how: Any) -> tuple[Tensor, Tensor]:
        """Writes `[1, heads, T, width]` keys and values; gives the prefix of all of them."""
        keys, values = super().update(*states, **how)
        return keys[:, :, : self.visible], values[:, :, : self.visible]


class PrefixCache(Cache):
    """A cache whose updates torch.compile leaves out of its graphs, as each is its layer's own."""

    @torch.compiler.disable
    def update(self, *states: Any, **how: Any) -> tuple[Tensor, Tensor]:
        """As `Cache.update`."""
        return super().update(*states, **how)


def prefix_of(length: int, capacity: int) -> int:
    """How many tokens a forward reads that needs `length` of them: at most half as many again.

    A captured forward reads as many each time; there is a graph for each such prefix.
    """
    prefix = SMALLEST_CAPACITY
    while prefix < length:
        prefix = prefix * 3 // 2 if prefix & (prefix - 1) == 0 else prefix // 3 * 4
    return min(prefix, capacity)


@dataclass
class _Forward:
    """One captured forward of `width` tokens.

    Attributes:
        ids: `[1, width]` int64, read by the graph.
        scored: `[width, V]` logits, written by the graph, and what the gate kept of them.
        replay: runs it.
    """

    ids: Tensor
    scored: Scored
    replay: Callable[[], None]


class GraphRunner:
    """A static cache of one sequence, with the captured forwards over it.

    Attributes:
        capacity: how many tokens the cache has room for, the padding of the widest forward
            included.
        length: how many tokens it holds.
        is_closed: its memory was freed.
    """

    is_closed = False

    def __init__(self, model: PreTrainedModel, capacity: int, contents: GraphContents) -> None:
        """Allocates nothing yet: the first forward does.

        Args:
            model: on one device.
            capacity: as the attribute.
            contents: of the model's captured forwards.

        Raises:
            CannotCapture: where the model's attention or cache cannot be static.
        """
        config = model.config.get_text_config()
        attention = getattr(config, "_attn_implementation", None)
        if attention not in ("sdpa", "eager"):
            raise CannotCapture(f"its attention is {attention!r}, neither 'sdpa' nor 'eager'")
        window = getattr(config, "sliding_window", None)
        kinds = getattr(config, "layer_types", None)
        self._window = window if window is not None and capacity > window else None
        if self._window is not None and kinds is None:
            raise CannotCapture(f"{capacity} tokens do not fit into its sliding window of {window}")
        self._kinds = set(kinds or ())
        self.model, self.capacity, self.length = model, capacity, 0
        self._contents = contents
        self._boolean_mask = attention == "sdpa"
        arguments = state_arguments(model)
        if not arguments:
            raise CannotCapture("its forward takes no state")
        self._argument = arguments[0]
        own_layers = StaticCache(config=model.config, max_cache_len=capacity).layers
        if not all(_is_plain(layer) for layer in own_layers):
            raise CannotCapture("its layers keep a state that is not keys and values alone")
        # For sliding ones as well: they move their keys as they fill up, which a graph cannot.
        self.cache = PrefixCache(layers=[PrefixLayer(capacity) for _ in own_layers])
        self._layers: list[Any] = self.cache.layers
        if is_offloaded(model):
            raise CannotCapture("its weights are brought in for each forward (accelerate)")
        self.device = input_device(model)
        if run_devices(model) - {self.device}:
            raise CannotCapture("it is spread over several devices")
        self._position = torch.zeros((), dtype=torch.int64, device=self.device)
        self._columns = torch.arange(capacity, device=self.device)
        self._forwards: dict[tuple[int, int], _Forward] = {}  # by width and prefix

    def read(self, ids: list[int], positions: int) -> Scored:
        """Reads new tokens after those that the cache already holds.

        Args:
            ids: the new tokens, for which there is room (`fits`).
            positions: how many of the last of them to score.

        Returns:
            `[positions, V]` logits, of which the next call may overwrite those of a captured
            forward, and what the gate kept of them there.
        """
        self._position.fill_(self.length)
        width = next((width for width in WIDTHS if width >= len(ids)), None)
        prefix = prefix_of(self.length + (width or len(ids)), self.capacity)
        if width is None or not self._layers[0].is_initialized:
            new = torch.tensor([ids], device=self.device)
            logits = self._run(new, positions, prefix)[-positions:]
            self.length += len(ids)
            return logits
        if (width, prefix) not in self._forwards:
            self._forwards[width, prefix] = self._contents.captured(
                self.model, partial(self._capture, width, prefix, ids)
            )
        forward = self._forwards[width, prefix]
        # The padding's keys and values lie past the sequence's end, where the next call writes.
        padded = torch.tensor([ids + [0] * (width - len(ids))])
        forward.ids.copy_(sent(padded, self.device))
        forward.replay()
        self.length += len(ids)
        rows = slice(len(ids) - positions, len(ids))
        return with_tensors(forward.scored, [each[rows] for each in tensors_of(forward.scored)])

    def fits(self, length: int) -> bool:
        """Whether a context of `length` tokens can be read, in any split."""
        return length + max(WIDTHS) <= self.capacity

    def crop(self, length: int) -> None:
        """Keeps the first `length` tokens; the next forward writes over the others."""
        self.length = length

    @torch.inference_mode()
    def clear(self) -> None:
        """Forgets a sequence: padding reads what it left, and a NaN would not be masked away."""
        self.length = 0
        for layer in self._layers:
            if layer.is_initialized:
                layer.keys.zero_()
                layer.values.zero_()

    def close(self) -> None:
        """Frees its memory; it cannot be used any more."""
        self.is_closed = True
        self._forwards.clear()
        self._layers = []
        del self.cache

    def draft_room(self, length: int) -> int:
        """How many tokens can be read beyond `length`."""
        return self.capacity - max(WIDTHS) - length

    def _run(
        self, ids: Tensor, positions: int, prefix: int, model: Callable[..., Any] | None = None
    ) -> Tensor:
        """The forward itself; everything that varies comes out of buffers."""
        _set_length(self._layers, self._position)
        for layer in self._layers:
            layer.visible = prefix
        rows = self._position + torch.arange(ids.shape[1], device=self.device)
        output = (model or self.model)(
            input_ids=ids,
            position_ids=rows[None],
            attention_mask=self._masks(rows, prefix),
            use_cache=True,
            return_dict=True,
            logits_to_keep=positions,
            **{self._argument: self.cache},
        )
        return output.logits[0]

    def _masks(self, rows: Tensor, prefix: int) -> Tensor | dict[str, Tensor]:
        """What the tokens at some positions see; by kind of layer where a window slides."""
        columns = self._columns[None, :prefix]
        seen = columns <= rows[:, None]
        full = self._as_mask(seen)
        if self._window is None or "sliding_attention" not in self._kinds:
            return full
        near = seen & (columns > rows[:, None] - self._window)
        return {"full_attention": full, "sliding_attention": self._as_mask(near)}

    def _as_mask(self, seen: Tensor) -> Tensor:
        """`[1, 1, T, prefix]`, as the model's attention takes it."""
        if self._boolean_mask:
            return seen[None, None]
        lowest = torch.finfo(self.model.dtype).min
        mask = torch.zeros_like(seen, dtype=self.model.dtype).masked_fill(~seen, lowest)
        return mask[None, None]

    def _capture(
        self, width: int, prefix: int, ids: list[int], model: Callable[..., Any], gate: Gate | None
    ) -> _Forward:
        static_ids = torch.tensor([ids + [0] * (width - len(ids))], device=self.device)
        self._position.fill_(self.length)
        run = partial(self._run, static_ids, width, prefix, model)
        forward = _Forward(static_ids, *record(lambda: read_by(gate, run()), self.device))
        # At another position than the captured one, or a position that was baked in would pass.
        self._position.fill_(self.length + 1)
        expected = self._run(static_ids, width, prefix).clone()
        spoil(forward.scored)
        forward.replay()
        self._position.fill_(self.length)
        check_alike(forward.scored, expected)
        return forward


class GraphRunners:
    """The runners of one model: taken by a sequence, handed back, taken again."""

    def __init__(self, model: PreTrainedModel, name: str, contents: GraphContents) -> None:
        self.model, self._contents = model, contents
        self._free: dict[int, list[GraphRunner]] = {}
        self._lock = Lock()
        self.refusals = Refusals(f"{name} decodes")

    def take(self, tokens: int) -> GraphRunner | None:
        """A runner with room for `tokens`; None where the model cannot be captured."""
        if self.refusals.is_final:
            return None
        capacity = capacity_for(tokens)
        with self._lock:
            free = self._free[capacity].pop() if self._free.get(capacity) else None
        if free is not None:
            free.clear()
            return free
        try:
            return GraphRunner(self.model, capacity, self._contents)
        except CannotCapture as reason:
            self.refusals.say(reason)
            return None

    def give_back(self, runner: GraphRunner) -> None:
        """Makes a runner free for the next sequence."""
        if runner.is_closed or self.refusals.is_final:
            return
        with self._lock:
            self._free.setdefault(runner.capacity, []).append(runner)

    def give_up(self, runner: GraphRunner, reason: Exception) -> None:
        """Takes the plain path: from now on, or where memory was short this time alone."""
        self.refusals.failed(reason)
        runner.close()
        with self._lock:
            self._free.clear()
        self.refusals.free_memory()


def _is_plain(layer: object) -> bool:
    return type(layer).__name__ in ("StaticLayer", "StaticSlidingWindowLayer")


def _set_length(layers: list[Any], length: Tensor) -> None:
    """Sets how many tokens every layer of a static cache holds."""
    lengths = [layer.cumulative_length for layer in layers]
    if lengths[0].device != length.device:  # not initialized: the first forward moves them
        return
    torch._foreach_copy_(lengths, [length] * len(lengths))
