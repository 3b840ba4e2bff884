"""From a distribution to one symbol: greedy, or drawn after transformers' own warpers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .values import Flag, Integer, Real, check_fields, setting, shown

# Logits are divided by both: beyond these bounds float32 has no words for the quotients.
TEMPERATURES = 1e-20, 1e20
PENALTIES = 1e-12, 1e12

SEEDS = -(2**63), 2**64 - 1
"""What torch's generators take."""


@dataclass(frozen=True)
class Sampling:
    """How a symbol is taken from the distribution that the policy arrived at.

    Names and meanings of transformers' `GenerationConfig`; they never touch the gate or α.

    Attributes:
        do_sample: draw; otherwise take the most probable. False where `temperature` is 0.
        temperature: above 0; or 0, which is greedy with and without `do_sample`. `top_p`, `min_p`
            and `sampling_top_k` never remove the most probable symbol, so that they change nothing
            then, nor does `seed`; `repetition_penalty` counts.
        top_p: in (0, 1].
        min_p: from 0 to 1: what is less probable than this share of the most probable symbol's
            probability is not drawn.
        sampling_top_k: `GenerationConfig.top_k` (a policy's own `top_k` is another thing).
        repetition_penalty: above 0; applies to greedy choices too.
        repetition_penalty_range: how many of the last tokens of each model's context, its prompt
            included, the penalty looks at; None: all of them, as in transformers. Not one of
            transformers' settings.
        penalize_nl: whether the penalty counts line feeds, as in transformers; llama.cpp's name.
        seed: of the sequence's own random generator, from -2^63 to 2^64 - 1; None takes a fresh one
            from torch's global generator (`torch.manual_seed`, `transformers.set_seed`).

    Raises:
        ValueError: for a value of the wrong type or out of range.
    """

    do_sample: bool = setting(False, Flag())
    temperature: float = setting(
        1.0,
        Real(0, TEMPERATURES[1], advice="use a number above 0, or 0 for the most probable token"),
    )
    top_p: float = setting(1.0, Real(0, 1, above=True))
    min_p: float = setting(0.0, Real(0, 1))
    sampling_top_k: int | None = setting(None, Integer(1, none="no limit"))
    repetition_penalty: float = setting(1.0, Real(*PENALTIES, advice="use a number above 0"))
    repetition_penalty_range: int | None = setting(None, Integer(1, none="all of the text"))
    penalize_nl: bool = setting(True, Flag())
    seed: int | None = setting(None, Integer(*SEEDS, none="a fresh one"))

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 < self.temperature < TEMPERATURES[0]:
            raise ValueError(
                f"{shown('temperature')} is {self.temperature!r}; use 0 for the most probable "
                f"token, or {TEMPERATURES[0]:g} and more"
            )
        if self.temperature == 0:
            object.__setattr__(self, "do_sample", False)
        elif self._acting and not self.do_sample:
            raise ValueError(
                f"{' and '.join(map(shown, self._acting))} act on sampling only: add "
                f"{shown('do_sample', True)}"
            )

    @property
    def without_effect(self) -> list[str]:
        """The settings that were given beside temperature=0 and change nothing there."""
        return self._acting[1:] if self.temperature == 0 else []

    @property
    def _acting(self) -> list[str]:
        """The settings given that act on a draw alone."""
        names = ("temperature", "top_p", "min_p", "sampling_top_k")
        return [name for name in names if getattr(self, name) != getattr(Sampling, name)]

    @property
    def is_argmax(self) -> bool:
        """Whether the choice is the distribution's own argmax."""
        return not self.do_sample and self.repetition_penalty == 1

    def penalized(self, ids: Sequence[int], tokens: Sequence[bytes | None]) -> Sequence[int]:
        """Those of a context's tokens that the repetition penalty looks at.

        Args:
            ids: the context.
            tokens: the bytes of each id.
        """
        if self.repetition_penalty_range is not None:
            ids = ids[-self.repetition_penalty_range :]
        return ids if self.penalize_nl else [id for id in ids if tokens[id] != b"\n"]

    def generator(self, index: int = 0) -> torch.Generator:
        """The random generator of the `index`-th sequence of a call, on the CPU."""
        generator = torch.Generator()
        if self.seed is not None:
            seed = self.seed + index
            generator.manual_seed(seed if seed <= SEEDS[1] else seed - 2**64)
        elif self.do_sample:
            generator.manual_seed(fresh_seed())
        return generator

    def pick(self, scores: Tensor, seen: Sequence[int], generator: torch.Generator) -> int:
        """One index of a row of scores.

        Args:
            scores: `[V]` float, logits or log-probabilities.
            seen: the indices that `repetition_penalty` is about.
            generator: on the CPU, whatever the device of `scores`: the same seed draws the same.
        """
        seen_ids: Any = torch.tensor([list(seen)], dtype=torch.long, device=scores.device)
        processors: Any = self._processors()
        warped = processors(seen_ids, scores[None].float())[0]
        if not self.do_sample:
            return int(warped.argmax())
        probs = torch.softmax(warped, dim=-1).cpu()
        return int(torch.multinomial(probs, 1, generator=generator))

    def _processors(self) -> LogitsProcessorList:
        """In the order in which `generate` applies them."""
        processors = LogitsProcessorList()
        if self.repetition_penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.temperature not in (0, 1):
            processors.append(TemperatureLogitsWarper(self.temperature))
        if self.sampling_top_k is not None:
            processors.append(TopKLogitsWarper(self.sampling_top_k))
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(self.top_p))
        if self.min_p > 0:
            processors.append(MinPLogitsWarper(self.min_p))
        return processors


def fresh_seed() -> int:
    """From torch's global generator, so that whoever seeds that repeats what is drawn."""
    return int(torch.randint(2**62, ()))
