"""From what a model returned to a `Prediction`, whichever kind it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .prediction import DensePrediction, Prediction
from .symbols import ModelSymbols
from .top_logprobs import ListedPrediction, TopLogprobs

if TYPE_CHECKING:
    from ..kernels.tables import KernelTables

KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

NextTokens = Tensor | TopLogprobs
"""What a model returns for N contexts: `[N, V]` logits, or its likeliest tokens."""


def predict(
    returned: NextTokens,
    model: ModelSymbols,
    *,
    candidates_only: bool = False,
    kernels: KernelTables | None = None,
) -> Prediction:
    """N rows of one model.

    Args:
        returned: N rows on the device of `model`.
        model: whose they are.
        candidates_only: for a guide at an intervention: `choice` is among its candidates and END.
        kernels: the model's tables for the Triton kernels; None where these do not run.
    """
    if isinstance(returned, TopLogprobs):
        return ListedPrediction(returned, model, candidates_only)
    if kernels is not None and returned.dtype in KERNEL_DTYPES:
        from .fused import FusedPrediction

        return FusedPrediction(returned, model, kernels, candidates_only)
    return DensePrediction(returned, model, candidates_only)


def rows_of(returned: NextTokens, rows: list[int]) -> NextTokens:
    """Some of the rows; what was returned itself, uncopied, where that is all of them."""
    count = len(returned.tokens if isinstance(returned, TopLogprobs) else returned)
    if rows == list(range(count)):
        return returned
    return returned.rows(rows) if isinstance(returned, TopLogprobs) else returned[rows]
