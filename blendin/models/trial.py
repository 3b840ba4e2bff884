"""Whether a model can be read in pieces, and how: asked at loading, never assumed.

A short text is read whole, and again in pieces: several tokens and single ones over a live state,
another text in between, and after a rollback. The logits must be those of the whole text.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .devices import input_device
from .forward_mode import forward_mode
from .transformers_cache import STATE_NAMES, StateUse, TransformersCache

POSITION_NAMES = ("position_ids", "cache_position")


class NotCausal(ValueError):
    """Why a model cannot be decoded with at all."""


class Trial:
    """Two short texts read whole, beside which other ways of reading them are measured.

    Attributes:
        layers: how many of the model's layers are there; None: all of them.
        texts: the token ids of each.
        expected: `[2, LENGTH - FIRST, V]` logits after each of their tokens but the first ones.
    """

    LENGTH, FIRST = 12, 4

    def __init__(
        self, model: PreTrainedModel, keeps_logits: bool, layers: int | None = None
    ) -> None:
        """Reads both.

        Args:
            model: the model.
            keeps_logits: whether it takes `logits_to_keep`.
            layers: how many of its layers it has; None: all of them.

        Raises:
            NotCausal: where the model cannot read a text as it is.
        """
        self.model, self._keeps_logits, self.layers = model, keeps_logits, layers
        size = min(model.config.get_text_config().vocab_size, 1000)
        generator = torch.Generator().manual_seed(0)
        # The first ids are padding and the like, which some models count apart.
        shape = (2, self.LENGTH)
        texts = torch.randint(min(10, size // 2), size, shape, generator=generator)
        self.texts: list[list[int]] = texts.tolist()
        if _is_given_other_tokens(model, texts):
            raise NotCausal("its own generate() gives its forward other tokens than the text's")
        self.expected = self._whole(texts)

    @torch.inference_mode()
    def _whole(self, texts: Tensor) -> Tensor:
        ids, count = texts.to(input_device(self.model)), texts.shape[1] - self.FIRST
        kept = {"logits_to_keep": count} if self._keeps_logits else {}
        try:
            with forward_mode(self.model):
                output = self.model(input_ids=ids, use_cache=False, return_dict=True, **kept)
                return output.logits[:, -count:]
        except Exception as error:  # a model may raise anything
            raise NotCausal(f"it cannot read a text ({type(error).__name__}: {error})") from error

    @property
    def has_numbers(self) -> bool:
        """Whether the logits can be compared at all."""
        return not bool(self.expected.isnan().any())

    @cached_property
    def noise(self) -> float:
        """How far the logits of a text read alone are from those of a longer text's beginning.

        Nothing, but for rounding, in a causal model; some where activations are quantized.
        """
        beginnings = self._whole(torch.tensor(self.texts)[:, :7])
        errors = zip(beginnings, self.expected[:, : 7 - self.FIRST], strict=True)
        return max(relative_error(found, expected) for found, expected in errors)

    def off_by(self, found: Tensor, text: int, end: int) -> float:
        """How far logits are from those of the whole text; 0 where it is no more than rounding.

        Args:
            found: `[positions, V]`, after the last of the text's first `end` tokens.
            text: which of both.
            end: how many of its tokens were read.
        """
        end -= self.FIRST
        error = relative_error(found, self.expected[text, end - len(found) : end])
        exact = (torch.float32, torch.float64)
        rounding = 2e-3 if self.expected.dtype in exact and self.model.dtype in exact else 0.1
        if error <= rounding:
            return 0.0
        return 0.0 if error <= 3 * self.noise <= 0.45 else error


def _is_given_other_tokens(model: PreTrainedModel, texts: Tensor) -> bool:
    """Whether `generate` changes the ids before the model reads them: mask tokens and the like."""
    try:
        given = model.prepare_inputs_for_generation(
            texts, attention_mask=torch.ones_like(texts), use_cache=False
        )
    except Exception:  # some want what only generate() prepares
        return False
    ids = given.get("input_ids")
    return isinstance(ids, Tensor) and not ids.equal(texts)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two `[N, V]` logits, relative to the spread of the expected ones.

    Not of probabilities: those of a model that is unsure throughout hardly differ. Logits so low
    that their token is never chosen count as equal.
    """
    floor = expected.double().amax(dim=-1, keepdim=True) - 30
    one, other = found.double().maximum(floor), expected.double().maximum(floor)
    spread = float((other - other.mean(dim=-1, keepdim=True)).abs().max())
    return float((one - other).abs().max()) / (spread or 1.0)


@torch.inference_mode()
def find_state_use(
    model: PreTrainedModel, trial: Trial, window: int | None, keeps_logits: bool
) -> tuple[StateUse, str | None]:
    """The first way of reading in pieces that is right.

    Args:
        model: the model.
        trial: its own.
        window: of its sliding layers, if it has any.
        keeps_logits: whether it takes `logits_to_keep`.

    Returns:
        The way, and why it is not the plain one; None where it is.

    Raises:
        NotCausal: where a text's beginning is read otherwise once more follows.
    """
    ways = _ways(model)
    if not trial.has_numbers:
        return next(ways, StateUse()), None  # an error when it is decoded with
    reason = None
    for use in ways:
        caches = [TransformersCache(model, window, keeps_logits, use) for _ in trial.texts]
        try:
            failure = _read_in_pieces(caches, trial)
        except Exception as error:  # a model may raise anything
            failure = f"{type(error).__name__}: {error}"
        if failure is None:
            return replace(use, can_crop=_can_crop(caches[0], trial, window)), reason
        reason = reason or failure
    if trial.noise > 0.15:
        raise NotCausal(
            "what it says after the beginning of a text depends on what follows (its logits are "
            f"off by {trial.noise:.2g}), so it is no causal language model"
        )
    return StateUse(argument=None), reason or "its forward returns no state of what it has read"


def _ways(model: PreTrainedModel) -> Iterator[StateUse]:
    """Ways of reading over a state, the plain ones first."""
    states = state_arguments(model)
    positions = tuple(_arguments_named(POSITION_NAMES, model, "position_ids"))
    for single_tokens in (False, True):
        for given in dict.fromkeys(((), positions)):
            for name in states:
                yield StateUse(name, given, single_tokens)


def state_arguments(model: Any) -> list[str]:
    """The parameters of a model's forward that may take what it keeps of a text."""
    return _arguments_named(STATE_NAMES, model, "past_key_values")


def _arguments_named(names: tuple[str, ...], model: Any, usual: str) -> list[str]:
    """Which of these parameters a model's forward has; the usual one where a wrapper hides them."""
    parameters = inspect.signature(without_wrappers(model).forward).parameters
    takes_any = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    return [name for name in names if name in parameters] or [usual] * takes_any


def _read_in_pieces(caches: list[TransformersCache], trial: Trial) -> str | None:
    """Reads both texts by turns; what is wrong, if anything is."""
    for text, end, count, what in (
        (0, 5, 1, "a text's beginning"),
        (1, 8, 1, "another text's beginning"),
        (0, 6, 1, "a token over a live state"),
        (0, 9, 3, "several tokens over a live state"),
        (1, 9, 1, "a token over a live state"),
        (1, 12, 3, "several tokens over a live state"),
        (0, 10, 1, "a token over a live state"),
    ):
        cache, ids = caches[text], trial.texts[text]
        if error := trial.off_by(cache.read(ids[cache.length : end], count), text, end):
            return f"the logits after {what} were off by {error:.2g}"
    return None


def _can_crop(cache: TransformersCache, trial: Trial, window: int | None) -> bool:
    """Whether it goes on rightly from where it was some tokens ago."""
    try:
        cache.crop(7)
        start = cache.length
        if start == 0 and (window is None or window > Trial.LENGTH):
            return False
        return not trial.off_by(cache.read(trial.texts[0][start:], 5), 0, Trial.LENGTH)
    except Exception:  # a state that cannot be taken back may raise anything
        return False


def without_wrappers(model: Any) -> Any:
    """The transformers model inside PEFT's and torch.compile's wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        else:
            return model
