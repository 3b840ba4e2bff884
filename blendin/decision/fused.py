"""Whether the Triton kernels decide as the eager mathematics does, on this device."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from .dense import SymbolTables, blend, consult, gate

if TYPE_CHECKING:
    from ..kernels.tables import KernelTables

logger = logging.getLogger("blendin")


def checked_kernel_tables(tables: SymbolTables, same: bool) -> KernelTables | None:
    """The alignment packed for the kernels, or None, with a reason logged, where they fail.

    They are tried on random logits first, beside the eager mathematics: compiled once by then,
    and never trusted on a device or a version of Triton on which they go wrong.

    Args:
        tables: on the device of the logits.
        same: both models have one vocabulary.
    """
    try:
        from ..kernels.tables import kernel_tables

        packed = kernel_tables(tables, same=same)
        _try(tables, packed)
    except Exception as error:  # a compiler's errors are of many kinds
        logger.warning("steps are decided without the Triton kernels: %s", error)
        return None
    return packed


def _try(tables: SymbolTables, packed: KernelTables) -> None:
    from ..kernels.decide import decide
    from ..kernels.parameters import Parameters

    device = tables.base_ends.device
    generator = torch.Generator().manual_seed(0)
    logits = [
        (4 * torch.randn(3, mask.numel(), generator=generator)).to(device)
        for mask in (tables.base_candidates, tables.guide_candidates)
    ]
    told = decide(*logits, packed, Parameters.of(3, device, threshold=2.0))
    base, guide = gate(logits[0], tables), consult(logits[1], tables)
    eager = blend(base, guide, tables, agreement_bonus=0.1, top_k=100, alpha=None)
    pairs = {
        "p_b": (told.base_top_prob, base.top_prob),
        "p_g": (told.guide_top_prob, guide.top_prob),
        "alpha": (told.alpha, eager.alpha),
        "the chosen symbol": (told.symbol.float(), eager.choice.float()),
    }
    for name, (ours, theirs) in pairs.items():
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6):
            raise ValueError(f"on trial {name} was {ours.tolist()}, not {theirs.tolist()}")
