"""Whether the Triton kernels run on a device and are right there, tried as decoding uses them."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .blend import blend
from .fused import FusedPrediction
from .prediction import DensePrediction
from .symbols import SymbolTables
from .told import told

if TYPE_CHECKING:
    from ..kernels.tables import KernelTables

logger = logging.getLogger("blendin")

LISTED = 100
ROWS = 4


def checked_kernel_tables(
    tables: SymbolTables, dtypes: tuple[torch.dtype, torch.dtype]
) -> tuple[KernelTables, KernelTables] | None:
    """Both models' tokens packed for the kernels, or None, with a reason logged, where they fail.

    A step is tried on random logits first, beside torch: gates, lists and blend of the very
    vocabularies and dtypes, so that they are compiled by then, and never trusted on a device or
    with a version of Triton on which they go wrong.

    Args:
        tables: both vocabularies, on the device of the logits.
        dtypes: of the base's logits and of the guide's.
    """
    try:
        from ..kernels.tables import kernel_tables

        packed = kernel_tables(tables.base), kernel_tables(tables.guide)
        _try(tables, packed, dtypes)
    except Exception as error:  # a compiler's errors are of many kinds
        logger.warning("logits are read without the Triton kernels: %s", error)
        return None
    return packed


def _try(
    tables: SymbolTables,
    packed: tuple[KernelTables, KernelTables],
    dtypes: tuple[torch.dtype, torch.dtype],
) -> None:
    """One row, as a sequence alone, and some of several, in another order than they lie in."""
    generator = torch.Generator().manual_seed(0)
    logits = []
    for spread, each, dtype in zip((64, 128), packed, dtypes, strict=True):
        # Whole numbers in a random order, scaled by a power of two: in any dtype no two of the
        # largest are equal, so that lists do not end in a tie and no choice is one.
        order = torch.stack([torch.randperm(each.size, generator=generator) for _ in range(ROWS)])
        scale = 2.0 ** round(math.log2(spread / each.size))
        logits.append(((order - each.size) * scale).to(tables.base_ends.device, dtype))
    for count, rows in ((1, [0]), (ROWS, [2, 0])):
        fused, dense = [], []
        for side, (model, kernels) in enumerate(
            zip((tables.base, tables.guide), packed, strict=True)
        ):
            part, only = logits[side][:count], side == 1
            fused.append(FusedPrediction(part, model, kernels, only).rows(rows))
            dense.append(DensePrediction(part, model, only).rows(rows))
        _compare(fused, dense)


def _compare(fused: list[FusedPrediction], dense: list[DensePrediction]) -> None:
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, ours, theirs in zip(("base", "guide"), fused, dense, strict=True):
        # Of equal logits the kernels and torch may keep others: probabilities are compared.
        lists = [each.top(min(LISTED, each.logits.shape[1] - 1)) for each in (ours, theirs)]
        pairs |= {
            f"the {name}'s choice": (ours.choice, theirs.choice),
            f"its probability with the {name}": (ours.top_prob, theirs.top_prob),
            f"the {name}'s list": tuple(each.probs.sort().values for each in lists),  # type: ignore[dict-item]
        }
    blends = []
    for base, guide in (fused, dense):
        mixture = blend(base, guide, top_k=LISTED, alpha=None, agreement_bonus=0.1)
        blends.append(told(mixture, mixture.choice, base, guide))
    pairs["the blend"] = blends[0], blends[1]
    pairs["the symbol of the blend, or a rank"] = blends[0][:, [0, 6]], blends[1][:, [0, 6]]
    for name, (own, expected) in pairs.items():
        rtol = 0 if expected.dtype == torch.int64 or "symbol" in name else 1e-4
        if not torch.allclose(own.double(), expected.double(), rtol=rtol, atol=1e-9):
            off = float((own.double() - expected.double()).abs().max())
            raise ValueError(f"on trial {name} was off by up to {off:.2g}")
