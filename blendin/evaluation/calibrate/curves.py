"""A row of logits in a few numbers, from which its softmax at any temperature follows.

With d = max − logit, a token has the probability exp(−βd − g(β)) at the temperature T = 1/β, where
g(β) = log Σ exp(−βd). g is kept at nodes of x = log β with its slope, and read between them by
cubic Hermite interpolation: within 1e-4 of the exact value, in 448 bytes where a large vocabulary
has a megabyte.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float32]

LOWEST, HIGHEST = 0.2, 6.0
"""Between these temperatures g is known."""

NODES = np.linspace(-math.log(HIGHEST), -math.log(LOWEST), 56)
"""x = log β of each node."""

LISTED = 64
"""Logits that count one by one; the others count by bins, in which exp(−βd) hardly differs."""

NEAREST, FARTHEST, BINS = 0.25, 300.0, 4096
"""Bins of d, as wide as d + 0.25 is far: at a distance d only β up to about 20/d matters, for what
lies farther has no weight, so that the farther ones may be wider."""

SCALE = BINS / math.log1p(FARTHEST / NEAREST)


def curve(logits: Tensor) -> Tensor:
    """g and dg/dx at the nodes, `[N, len(NODES), 2]` float32, of `[N, V]` logits."""
    import torch

    from ...decision.cpu import row_top

    scores = logits.float()
    listed, places = row_top(scores, min(LISTED, scores.shape[1]))
    distances, weights = (listed[:, :1] - listed).double(), torch.ones_like(listed).double()
    if scores.shape[1] > LISTED:
        centres, counts = _binned(listed[:, :1] - scores, places)
        distances = torch.cat([distances, centres], dim=-1)
        weights = torch.cat([weights, counts], dim=-1)
    weights.masked_fill_(distances.isinf(), 0)
    distances.masked_fill_(distances.isinf(), 0)
    found = []
    for beta in np.exp(NODES).tolist():
        mass = weights * (-beta * distances).exp()
        total = mass.sum(dim=-1)
        slope = -beta * (mass * distances).sum(dim=-1) / total
        found.append(torch.stack([total.log(), slope], dim=-1))
    return torch.stack(found, dim=1).float()


def _binned(below: Tensor, listed: Tensor) -> tuple[Tensor, Tensor]:
    """The bins' distances and how many logits each has, `[N, BINS]` float64.

    Args:
        below: `[N, V]`, d.
        listed: `[N, LISTED]`, the tokens that count one by one.
    """
    import torch

    bins = (below / NEAREST).log1p_().mul_(SCALE).nan_to_num_(posinf=BINS).clamp_(max=BINS).int()
    bins.scatter_(1, listed, BINS)  # listed, never emitted or too far: of no bin
    rows = len(bins)
    flat = bins + (BINS + 1) * torch.arange(rows, dtype=torch.int32, device=bins.device)[:, None]
    counts = torch.bincount(flat.flatten(), minlength=rows * (BINS + 1)).view(rows, -1)[:, :BINS]
    centres = torch.arange(BINS, dtype=torch.float64, device=bins.device).add_(0.5)
    centres = (centres / SCALE).expm1_().mul_(NEAREST).expand(rows, -1)
    return centres, counts.double()


def log_total(curves: Floats, temperature: float) -> NDArray[np.float64]:
    """g at a temperature, `[N]`, of `[N, len(NODES), 2]`.

    Raises:
        ValueError: for one outside `LOWEST`..`HIGHEST`.
    """
    if not LOWEST <= temperature <= HIGHEST:
        raise ValueError(f"the temperature {temperature:g} is outside {LOWEST:g}..{HIGHEST:g}")
    width = NODES[1] - NODES[0]
    place = (-math.log(temperature) - NODES[0]) / width
    left = min(max(int(place), 0), len(NODES) - 2)
    t = place - left
    (g0, s0), (g1, s1) = (curves[:, node].astype(np.float64).T for node in (left, left + 1))
    return (
        (2 * t**3 - 3 * t**2 + 1) * g0
        + (t**3 - 2 * t**2 + t) * width * s0
        + (3 * t**2 - 2 * t**3) * g1
        + (t**3 - t**2) * width * s1
    )
