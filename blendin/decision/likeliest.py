"""The few likeliest symbols of each row, for a trace."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Likeliest(NamedTuple):
    """The likeliest symbols of N rows.

    Attributes:
        symbols: `[N, n]` int64, from the likeliest down; of equals the first.
        probs: `[N, n]` float32; 0 where a row has no more.
    """

    symbols: Tensor
    probs: Tensor


def likeliest(symbols: Tensor, probs: Tensor, scores: Tensor, places: Tensor, n: int) -> Likeliest:
    """The first n of some, by their scores.

    Args:
        symbols: `[N, C]` int64.
        probs: `[N, C]` float32.
        scores: `[N, C]`, what they are ordered by.
        places: `[N, C]` int64, what equals are ordered by.
        n: how many, at most.
    """
    first = places.argsort(dim=-1)
    order = scores.gather(-1, first).sort(dim=-1, descending=True, stable=True).indices
    order = first.gather(-1, order)[:, :n]
    return Likeliest(symbols.gather(-1, order), probs.gather(-1, order))
