"""A `Prediction` made by the Triton kernels."""

from __future__ import annotations

from .symbols import ModelSymbols


def checked_kernel_tables(model: ModelSymbols) -> None:
    return None
