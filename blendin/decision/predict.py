"""From what a model returned to a `Prediction`, whichever kind it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .gated import KERNEL_DTYPES, GatedLogits, Scored, logits_of, tensors_of, with_tensors
from .prediction import DensePrediction, Prediction
from .symbols import ModelSymbols
from .top_logprobs import ListedPrediction, TopLogprobs

if TYPE_CHECKING:
    from ..kernels.tables import KernelTables

NextTokens = Scored | TopLogprobs
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
    logits = logits_of(returned)
    if kernels is not None and logits.dtype in KERNEL_DTYPES:
        from .fused import FusedPrediction

        gated = None
        if isinstance(returned, GatedLogits) and returned.is_by(kernels, candidates_only):
            gated = returned.gated
        return FusedPrediction(logits, model, kernels, candidates_only, gated)
    return DensePrediction(logits, model, candidates_only)


def rows_of(returned: NextTokens, rows: list[int]) -> NextTokens:
    """Some of the rows; what was returned itself, uncopied, where that is all of them."""
    if isinstance(returned, TopLogprobs):
        return returned if rows == list(range(len(returned.tokens))) else returned.rows(rows)
    if rows == list(range(len(logits_of(returned)))):
        return returned
    return with_tensors(returned, [each[rows] for each in tensors_of(returned)])
