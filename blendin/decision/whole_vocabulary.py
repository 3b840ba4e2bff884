"""The greedy blend over the whole vocabulary, from two short lists where these prove its argmax."""

from __future__ import annotations

import torch
from torch import Tensor

from .mixture import Mixture
from .prediction import DensePrediction, Prediction

LISTED = 100
"""How many candidates of each model are looked at."""


def proven_mixture(
    base: Prediction, guide: Prediction, alpha: Tensor, agreement: Tensor
) -> Mixture | None:
    """The mixture over both models' likeliest candidates, if the argmax is certain to be there.

    A symbol outside both lists weighs at most α·(the guide's k-th) + (1 - α)·(the base's k-th). The
    weights are exact; `Mixture.total` is of what is listed.

    Args:
        base: N rows.
        guide: N rows.
        alpha: `[N]` float32, the guide's weight.
        agreement: `[N]` float32, P_B(t_g), for the trace.

    Returns:
        None where a row's argmax is not certain, or a model's predictions are lists already.
    """
    if not isinstance(base, DensePrediction) or not isinstance(guide, DensePrediction):
        return None
    of_base, of_guide = base.top(LISTED).symbols, guide.top(LISTED).symbols
    symbols = torch.cat([of_base, of_guide], dim=-1)
    repeated = (of_guide[:, :, None] == of_base[:, None, :]).any(dim=-1)
    first = torch.cat([torch.ones_like(of_base, dtype=torch.bool), ~repeated], dim=-1)
    base_probs, guide_probs = base.candidate_probs(symbols), guide.candidate_probs(symbols)
    mixture = Mixture(
        symbols,
        base_probs * first * (1 - alpha)[:, None],
        guide_probs * first * alpha[:, None],
        alpha,
        agreement,
        torch.zeros_like(alpha),
    )
    count = of_base.shape[1]  # the last of each list is END, wherever it ranks
    elsewhere = (1 - alpha) * base_probs[:, : count - 1].amin(dim=-1)
    elsewhere = elsewhere + alpha * guide_probs[:, count:-1].amin(dim=-1)
    return mixture if bool((mixture.weight.amax(dim=-1) > elsewhere).all()) else None
