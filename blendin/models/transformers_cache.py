"""transformers' own growing cache, for models whose attention cannot be exchanged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .devices import input_device
from .forward_mode import forward_mode


class TransformersCache:
    """One sequence's own cache.

    Attributes:
        length: how many tokens it holds.
    """

    def __init__(self, model: PreTrainedModel, window: int | None, keeps_logits: bool) -> None:
        """Holds nothing yet.

        Args:
            model: that reads into it.
            window: of the model's sliding layers, if it has any.
            keeps_logits: whether the model takes `logits_to_keep`.
        """
        self.length = 0
        self._model, self._window, self._keeps_logits = model, window, keeps_logits
        self._states: Any = None

    def read(self, ids: list[int], positions: int) -> Tensor:
        """Reads new tokens; `[positions, V]` logits, after the last of them."""
        device = input_device(self._model)
        with forward_mode(self._model):
            output = self._model(
                input_ids=torch.tensor([ids], device=device),
                past_key_values=self._states,
                use_cache=True,
                return_dict=True,
                **({"logits_to_keep": positions} if self._keeps_logits else {}),
            )
        self._states, self.length = output.past_key_values, self.length + len(ids)
        return output.logits[0, -positions:]

    def crop(self, length: int) -> None:
        """Keeps the first `length` tokens; none where a layer has dropped states for good."""
        if self._can_crop():
            self._states.crop(length - self.length)  # negative: as many as that come off the end
            self.length = length
        else:
            self._states, self.length = None, 0

    def draft_room(self, length: int) -> int:
        """As many tokens as keep a sliding window where it is; none beside a recurrent state."""
        if self._states is not None and not self._can_crop():
            return 0
        return 2**31 if self._window is None else self._window - 1 - length

    def _can_crop(self) -> bool:
        if not hasattr(self._states, "layers") or not getattr(self._states, "is_croppable", True):
            return False
        return all(
            not getattr(layer, "is_sliding", False) or layer.get_seq_length() < layer.sliding_window
            for layer in self._states.layers
        )
