"""transformers' own state of a text, for models whose attention cannot be exchanged.

Keys and values, recurrent states, or both: what a forward returns is given to the next one. How a
model takes it is found by trial (`trial.find_state_use`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .devices import input_device
from .forward_mode import forward_mode

STATE_NAMES = ("cache", "past_key_values", "cache_params", "state", "mems", "past_buckets_states")
"""What transformers' models call what they keep of a text, in their signatures and outputs."""


@dataclass(frozen=True)
class StateUse:
    """How a model reads on from where it was.

    Attributes:
        argument: the parameter of its `forward` that takes the state; None where it takes none, so
            that a text is read anew from its start each time.
        positions: the parameters that take the positions of the tokens read, if they must be given.
        single_tokens: only one token at a time is read over a live state.
        can_crop: whether a state can be taken back by some tokens.
    """

    argument: str | None = "past_key_values"
    positions: tuple[str, ...] = ()
    single_tokens: bool = False
    can_crop: bool = True

    @property
    def described(self) -> str:
        """What follows a model's name in a message."""
        if self.reads_anew:
            return "reads each text anew from its start at every step, which is slow"
        if self.single_tokens:
            return "reads a text's tokens one by one after its prompt"
        return f"is given {' and '.join(self.positions)}"

    @property
    def is_plain(self) -> bool:
        """Whether it reads as a model with keys and values alone does."""
        return not (self.reads_anew or self.positions or self.single_tokens) and self.can_crop

    @property
    def reads_anew(self) -> bool:
        """Whether there is no state at all."""
        return self.argument is None


class TransformersCache:
    """One sequence's own state.

    Attributes:
        length: how many tokens it holds.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        window: int | None,
        keeps_logits: bool,
        use: StateUse | None = None,
    ) -> None:
        """Holds nothing yet.

        Args:
            model: that reads into it.
            window: of the model's sliding layers, if it has any.
            keeps_logits: whether the model takes `logits_to_keep`.
            use: how the model reads over a live state.
        """
        self._model, self._window, self._keeps_logits = model, window, keeps_logits
        self._use = StateUse() if use is None else use
        self._state: Any = None
        self._ids: list[int] = []

    @property
    def length(self) -> int:
        return len(self._ids)

    def read(self, ids: list[int], positions: int) -> Tensor:
        """Reads new tokens; `[positions, V]` logits, after the last of them."""
        use = self._use
        if use.reads_anew:
            output = self._forward([*self._ids, *ids], positions, use_cache=False)
            self._ids += ids
            return output.logits[0, -positions:]
        if use.single_tokens and self._ids and len(ids) > 1:
            rows = [self._read_on([id], 1) for id in ids]
            return torch.cat(rows[-positions:])
        return self._read_on(ids, positions)

    def crop(self, length: int) -> None:
        """Keeps the first `length` tokens; none where the state cannot be taken back so far."""
        if self._use.reads_anew:
            del self._ids[length:]
        elif self._can_crop():
            self._state.crop(length - self.length)  # negative: as many as that come off the end
            del self._ids[length:]
        else:
            self._state, self._ids = None, []

    def draft_room(self, length: int) -> int:
        """As many tokens as keep a sliding window where it is; none beside a recurrent state."""
        if self._use.reads_anew:
            return 2**31
        if not self._use.can_crop or (self._state is not None and not self._can_crop()):
            return 0
        return 2**31 if self._window is None else self._window - 1 - length

    def _can_crop(self) -> bool:
        state = self._state
        if not (self._use.can_crop and hasattr(state, "layers")):
            return False
        return getattr(state, "is_croppable", True) and all(
            not getattr(layer, "is_sliding", False) or layer.get_seq_length() < layer.sliding_window
            for layer in state.layers
        )

    def _read_on(self, ids: list[int], positions: int) -> Tensor:
        """Reads new tokens over the state; `[positions, V]` logits."""
        use = self._use
        assert use.argument is not None
        given: dict[str, Any] = {use.argument: self._state}
        places = torch.arange(self.length, self.length + len(ids), device=input_device(self._model))
        for name in use.positions:
            given[name] = places[None] if name == "position_ids" else places
        try:
            output = self._forward(ids, positions, use_cache=True, **given)
        except BaseException:  # half of its layers may have read the tokens
            self._state, self._ids = None, []
            raise
        states = [output[name] for name in STATE_NAMES if output.get(name) is not None]
        if not states:
            raise NotImplementedError("its forward returns no state of what it has read")
        self._state = states[0]
        self._ids += ids
        return output.logits[0, -positions:]

    def _forward(self, ids: list[int], positions: int, **given: Any) -> Any:
        if self._keeps_logits:
            given["logits_to_keep"] = positions
        ids_in_place = torch.tensor([ids], device=input_device(self._model))
        with forward_mode(self._model):
            return self._model(input_ids=ids_in_place, return_dict=True, **given)
