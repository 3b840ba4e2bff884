"""What the host is told of an intervention, in one small buffer."""

from __future__ import annotations

import torch
from torch import Tensor

from .fused import FusedMixture
from .mixture import Mixture
from .prediction import Prediction


def told(
    mixture: Mixture,
    symbols: Tensor,
    base: Prediction | None,
    guide: Prediction,
    guide_temperature: float = 1.0,
) -> Tensor:
    """The numbers of a step that emits one symbol a row, `[N]` int64; `[N, 7]` float32.

    The symbol, which float32 holds exactly; the base's and the guide's share; p_g; α; P_B(t_g) and
    the rank of t_g with the base (0 where it lacks it), NaN where the base was not run.
    """
    if isinstance(mixture, FusedMixture):
        return mixture.told(symbols)
    p_g = guide.top_prob_at(guide_temperature)
    columns = [symbols, *mixture.shares(symbols), p_g, mixture.alpha]
    if base is None or mixture.agreement is None:
        columns += [torch.full_like(mixture.alpha, torch.nan)] * 2
    else:
        columns += [mixture.agreement, base.rank_of(guide.choice)]
    return torch.stack([column.float() for column in columns], dim=1)
