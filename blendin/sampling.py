"""From a distribution to one symbol: greedy, or drawn after transformers' own warpers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Sampling:
    """How a symbol is taken from the distribution that the policy arrived at.

    Names and meanings of transformers' `GenerationConfig`; they never touch the gate or α.

    Attributes:
        do_sample: draw; otherwise take the most probable.
        temperature: above 0.
        top_p: in (0, 1].
        sampling_top_k: `GenerationConfig.top_k` (a policy's own `top_k` is another thing).
        repetition_penalty: above 0; applies to greedy choices too.
        seed: of the sequence's own random generator; None draws a fresh one.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    sampling_top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(
                f"temperature is {self.temperature!r}; use a number above 0, or do_sample=False "
                "for the most probable token"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p!r}; use a number above 0 and up to 1")
        if self.sampling_top_k is not None and self.sampling_top_k < 1:
            raise ValueError(f"sampling_top_k is {self.sampling_top_k!r}; use an integer from 1 up")
        if not self.repetition_penalty > 0:
            raise ValueError(
                f"repetition_penalty is {self.repetition_penalty!r}; use a number above 0"
            )
        warped = self.temperature != 1 or self.top_p != 1 or self.sampling_top_k is not None
        if warped and not self.do_sample:
            raise ValueError(
                "temperature, top_p and sampling_top_k act on sampling only: add do_sample=True"
            )

    @property
    def is_argmax(self) -> bool:
        """Whether the choice is the distribution's own argmax."""
        return not self.do_sample and self.repetition_penalty == 1

    def generator(self, index: int = 0) -> torch.Generator:
        """The random generator of the `index`-th sequence of a call, on the CPU."""
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed + index)
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
        if self.temperature != 1:
            processors.append(TemperatureLogitsWarper(self.temperature))
        if self.sampling_top_k is not None:
            processors.append(TopKLogitsWarper(self.sampling_top_k))
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(self.top_p))
        return processors
