"""Logits whose gate was read where they were made, as the graph of a forward does.

The gate (`kernels.gate`: the softmax's statistics, p_b or p_g, and its symbol) then takes no launch
of its own, and a step's decision begins with what it kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..kernels.gate import Gated
    from ..kernels.tables import KernelTables

KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False)
class Gate:
    """How a model's logits are read at a step.

    Attributes:
        kernels: the model's tables.
        candidates_only: the choice is among its candidates and END.
    """

    kernels: KernelTables
    candidates_only: bool

    def read(self, logits: Tensor) -> Scored:
        """Reads `[N, V]` logits, in two launches; the logits alone where kernels read no such."""
        if logits.dtype not in KERNEL_DTYPES:
            return logits
        from ..kernels.gate import gate
        from ..kernels.rows import aligned_rows

        rows = aligned_rows(logits, self.kernels)
        gated = gate(rows, self.kernels, candidates_only=self.candidates_only)
        return GatedLogits(logits, gated.raw, gated.maxima, self)


class GatedLogits(NamedTuple):
    """N rows of logits and what a gate kept of them.

    Attributes:
        logits: `[N, V]`.
        raw: `[N, 3]` int64, `Gated.raw`.
        maxima: `[N, G]`, `Gated.maxima`.
        gate: which one read them.
    """

    logits: Tensor
    raw: Tensor
    maxima: Tensor
    gate: Gate

    @property
    def gated(self) -> Gated:
        """What the gate kept."""
        from ..kernels.gate import Gated

        return Gated(self.raw, self.maxima)

    def to(self, device: torch.device) -> Scored:
        """Themselves on their own device; on another the logits alone, for the gate's tables are
        not there."""
        return self if self.logits.device == device else self.logits.to(device)

    def is_by(self, kernels: KernelTables | None, candidates_only: bool) -> bool:
        """Whether they were read as a prediction by these tables would read them."""
        return self.gate.kernels is kernels and self.gate.candidates_only == candidates_only


Scored = Tensor | GatedLogits
"""What a forward makes: N rows of logits, read by a gate or not."""


def logits_of(scored: Scored) -> Tensor:
    """`[N, V]`, the logits alone."""
    return scored if isinstance(scored, Tensor) else scored.logits


def tensors_of(scored: Scored) -> tuple[Tensor, ...]:
    """All that was made, each with N rows."""
    return (scored,) if isinstance(scored, Tensor) else scored[:3]


def with_tensors(scored: Scored, tensors: Sequence[Tensor]) -> Scored:
    """The same with other tensors in the places of `tensors_of`."""
    if isinstance(scored, Tensor):
        return tensors[0]
    logits, raw, maxima = tensors
    return GatedLogits(logits, raw, maxima, scored.gate)


def says_the_same(one: GatedLogits, other: GatedLogits) -> bool:
    """Whether two gates of the same logits kept the same, to the bit."""
    # What lies behind a row's numbers is arbitrary.
    return (
        torch.equal(one.raw[:, :2], other.raw[:, :2])
        and torch.equal(one.gated.top_prob, other.gated.top_prob)
        and torch.equal(one.maxima, other.maxima)
    )
