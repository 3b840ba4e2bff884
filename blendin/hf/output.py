"""What `generate` returns where it is asked for more than tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.generation import GenerateDecoderOnlyOutput

from ..trace import Generation


@dataclass
class BlendInOutput(GenerateDecoderOnlyOutput):
    """`GenerateDecoderOnlyOutput` with the record of what was done.

    Attributes:
        sequences: `[B, L]` int64, prompts and all that was written, in the base's vocabulary; rows
            that ended early are filled up with the pad token.
        intervention_rate: `[B]` float32, interventions over steps.
        trace: a `Generation` for each row, with one record a step. Where a stopping criterion or
            `max_length` cut a symbol of several tokens in two, its step is there whole.

    The other fields are None: a blend has no scores of the base's vocabulary.
    """

    intervention_rate: Tensor | None = None
    trace: tuple[Generation, ...] | None = None
