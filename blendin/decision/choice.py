"""One symbol of a mixture, for every policy: its argmax, or a draw."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..sampling import Sampling
from .mixture import Mixture


def draw(
    mixture: Mixture,
    row: int,
    sampling: Sampling,
    seen: Collection[int],
    generator: torch.Generator,
) -> Tensor:
    """One symbol of a row, after the sampling settings; `[]` int64.

    Args:
        mixture: N rows.
        row: which of them.
        sampling: temperature, top-p and the like; they act on the listed symbols.
        seen: the symbols that `repetition_penalty` is about.
        generator: on the CPU.

    Raises:
        FloatingPointError: where no symbol has a weight.
    """
    listed = mixture.weight[row] > 0
    if not bool(listed.any()):
        raise FloatingPointError("neither model gave any candidate a probability")
    # In the order of the symbols, so that a seed draws alike however they are listed.
    symbols, order = mixture.symbols[row][listed].sort()
    log_probs = (mixture.weight[row][listed][order] / mixture.total[row]).log()
    repeated: list[int] = []
    if sampling.repetition_penalty != 1:
        before = torch.tensor(sorted(seen), dtype=symbols.dtype, device=symbols.device)
        repeated = torch.isin(symbols, before).nonzero()[:, 0].tolist()
    return symbols[sampling.pick(log_probs, repeated, generator)]
