"""Varlen forwards of one model: whether it can do them, and which sequences read what in which."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..decision.gated import Scored
from .attention_route import no_mask, routed
from .captured_varlen import CapturedVarlen
from .context import Context
from .devices import input_device, is_offloaded, run_devices, sent
from .forward_mode import forward_mode
from .graph_capture import GraphContents
from .kv_pool import MIN_SHARED_PREFIX, KVSegment, Pool, shared_prefix
from .trial import Trial
from .varlen_batch import VarlenBatch, VarlenUnsupported, attend_eager, attend_sdpa

logger = logging.getLogger("blendin")

MAX_FORWARD_TOKENS = 2048
"""Bounds the activations, however many prompts arrive at once. One alone is read in one forward, as
`generate` reads it: its causal attention then needs no mask, and takes half the time."""


def packed_attention(model: PreTrainedModel) -> Callable[..., Tensor] | None:
    """torch's flash attention over sequences that lie anywhere (2.12), where it can be used."""
    if input_device(model).type != "cuda" or model.dtype not in (torch.bfloat16, torch.float16):
        return None
    if model.config.get_text_config()._attn_implementation != "sdpa":
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    has_lengths = "seqused_k" in inspect.signature(varlen_attn).parameters
    attention: Callable[..., Any] = varlen_attn
    return attention if has_lengths else None


class VarlenForward:
    """A model that reads many sequences in one forward.

    Attributes:
        attend_packed: torch's `varlen_attn` where it can be used.
        captured: the same forwards as CUDA graphs; None where none are made.
    """

    attend_packed: Callable[..., Tensor] | None
    captured: CapturedVarlen | None = None

    def __init__(
        self, model: PreTrainedModel, trial: Trial | None, tried: VarlenForward | None = None
    ) -> None:
        """Checks that it can, by a trial beside the plain forward.

        Args:
            model: the model.
            trial: its own; None where its first layers were tried.
            tried: the forward of those.

        Raises:
            VarlenUnsupported: where it cannot, with the reason.
        """
        self.model, self._config = model, model.config.get_text_config()
        if not getattr(model, "_supports_attention_backend", False):
            raise VarlenUnsupported("its attention cannot be exchanged")
        if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
            raise VarlenUnsupported("torch.compile would compile it anew for every batch")
        kinds = set(getattr(self._config, "layer_types", None) or ())
        if unknown := kinds - {"full_attention", "sliding_attention"}:
            raise VarlenUnsupported(f"it has layers of the kind {', '.join(sorted(unknown))}")
        self._is_spread = len(run_devices(model)) > 1
        self._attend: Callable[..., Tensor] = attend_sdpa
        if self._config._attn_implementation == "eager":
            self._attend = attend_eager
        self.attend_packed = packed_attention(model)
        if trial is None:
            if tried is not None:
                self.attend_packed = tried.attend_packed
            return
        if self.attend_packed is not None:
            try:
                return self._try(trial)
            except Exception as error:  # head sizes, caps, a GPU that is too old ...
                logger.info("%s attends without varlen_attn: %s", type(model).__name__, error)
                self.attend_packed = None
        try:
            self._try(trial)
        except VarlenUnsupported:
            raise
        except Exception as error:  # a model that was not made for it may raise anything
            raise VarlenUnsupported(f"{type(error).__name__}: {error}") from error

    def read(self, rows: Sequence[tuple[KVSegment, Sequence[int]]], score: Sequence[int]) -> Scored:
        """Reads each sequence's new tokens into its segment.

        Args:
            rows: each sequence's segment, with room, and its new tokens, at least one.
            score: the number of each sequence's last new tokens after which logits are wanted.

        Returns:
            `[sum(score), V]` logits, and what a captured forward's gate kept of them.
        """

        def plain() -> Tensor:
            return self._read(rows, score)[0]

        scored: Scored | None = None
        if self.captured is not None and min(score) > 0:
            scored = self.captured.read(rows, score, plain)
        if scored is None:
            scored = plain()
        for segment, new in rows:
            segment.ids += new
        return scored

    def capture(self, name: str, contents: GraphContents) -> None:
        """Lets frequent forwards be captured as CUDA graphs, where `varlen_attn` can be used."""
        if self.attend_packed is not None and not self._is_spread and not is_offloaded(self.model):
            self.captured = CapturedVarlen(self.model, self.attend_packed, name, contents)

    def _read(
        self, rows: Sequence[tuple[KVSegment, Sequence[int]]], score: Sequence[int]
    ) -> tuple[Tensor, VarlenBatch]:
        """The logits, and the batch as it was attended to; the segments are not told of it."""
        device = input_device(self.model)
        batch = VarlenBatch(rows, device, self._attend, self.attend_packed)
        wanted: int | list[int] | Tensor = score[0]
        if len(rows) > 1 or wanted == 0:
            ends = zip(accumulate(batch.lengths), score, strict=True)
            places = [place for end, count in ends for place in range(end - count, end)]
            # accelerate would move a tensor to the first of several devices; the head may be on
            # another.
            wanted = places
            if not self._is_spread:
                wanted = sent(torch.tensor(places, dtype=torch.int64), device)
        with forward_mode(self.model), routed(batch):
            output = self.model(
                input_ids=batch.ids,
                position_ids=batch.positions,
                attention_mask=no_mask(self.model.dtype, device),
                use_cache=False,
                return_dict=True,
                logits_to_keep=wanted,
            )
        return output.logits[0], batch

    @torch.inference_mode()
    def _try(self, trial: Trial) -> None:
        """Both texts in two varlen forwards, with one and with several tokens over what is read."""
        pool = Pool()
        one, other = (pool.reserve(text, len(text)) for text in trial.texts)
        assert one is not None and other is not None
        for ends in ((5, 8), (12, 9)):
            segments = zip((one, other), trial.texts, ends, strict=True)
            rows = [(segment, text[segment.length : end]) for segment, text, end in segments]
            logits, batch = self._read(rows, [1, 1])
            for segment, new in rows:
                segment.ids += new
            if not batch.windows:
                raise VarlenUnsupported("its attention cannot be exchanged")
            self._check_windows(batch.windows, trial.layers)
            for text, end in enumerate(ends):
                if error := trial.off_by(logits[text : text + 1], text, end):
                    raise VarlenUnsupported(f"on trial its logits were off by {error:.2g}")
        if not trial.has_numbers:
            raise VarlenUnsupported("its logits are not numbers")

    def _check_windows(self, seen: dict[int, int | None], layers: int | None) -> None:
        """Layers must pass their own window on: the masks that transformers makes are not used."""
        kinds = getattr(self._config, "layer_types", None) or ()
        for layer, kind in enumerate(kinds[:layers]):
            window = self._config.sliding_window if kind == "sliding_attention" else None
            if seen.get(layer) != window:
                raise VarlenUnsupported(
                    f"layer {layer} attends within {seen.get(layer)}, not {window}"
                )

    def read_contexts(
        self, contexts: Sequence[Context], positions: Sequence[int]
    ) -> list[tuple[list[int], Scored]]:
        """Reads what each context has gained, in as few forwards as their sizes allow.

        Args:
            contexts: with segments of one pool, with room in them and new tokens.
            positions: how many of each context's last positions to score, all of them new.

        Returns:
            For each forward, which contexts it read to their end, and the logits of all their
            positions, one context's after the other's.
        """
        found = []
        waiting = list(range(len(contexts)))
        while waiting:
            chosen, waiting = _next_forward(waiting, contexts, positions)
            rows, score, whole = [], [], []
            for index, length in chosen:
                segment, ids = _segment(contexts[index]), contexts[index].ids
                rows.append((segment, ids[segment.length : length]))
                if length == len(ids):
                    whole.append(index)
                score.append(positions[index] if length == len(ids) else 0)
            found.append((whole, self.read(rows, score)))
        return found


def _next_forward(
    waiting: list[int], contexts: Sequence[Context], positions: Sequence[int]
) -> tuple[list[tuple[int, int]], list[int]]:
    """What the next forward reads: (which context, how far), and which read on later.

    A prompt that begins like one of this forward waits for it and copies what it has read.
    """
    chosen: list[tuple[int, int]] = []
    later: list[int] = []
    budget = MAX_FORWARD_TOKENS if len(contexts) > 1 else len(contexts[0].ids)
    for index in waiting:
        segment, ids = _segment(contexts[index]), contexts[index].ids
        length, scored = len(ids), len(ids) - positions[index]
        begins_alike = False
        if length - segment.length >= MIN_SHARED_PREFIX:
            segment.pool.copy_prefix(segment, ids[: scored + 1])
            begins_alike = any(
                shared_prefix(contexts[other].ids[:end], ids[: scored + 1])
                >= segment.length + MIN_SHARED_PREFIX
                for other, end in chosen
            )
        if segment.length + budget < length:  # all that is scored is read in one forward
            length = min(segment.length + budget, scored)
            if length <= segment.length and not chosen:
                length = len(ids)
        if begins_alike or length <= segment.length:
            later.append(index)
            continue
        budget = max(0, budget - (length - segment.length))
        chosen.append((index, length))
        if length < len(ids):
            later.append(index)
    return chosen, later


def _segment(context: Context) -> KVSegment:
    assert isinstance(context.cache, KVSegment)
    return context.cache
