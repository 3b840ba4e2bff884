"""A `Prediction` from logits through the Triton kernels, and whether these run on a device."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from ..forks import cached_property
from .mixture import Candidates
from .prediction import DensePrediction
from .symbols import ModelSymbols

if TYPE_CHECKING:
    from ..kernels.gate import Gated
    from ..kernels.tables import KernelTables

logger = logging.getLogger("blendin")


class FusedPrediction(DensePrediction):
    """`DensePrediction` that reads its logits once, in two launches; the host never waits.

    What no kernel computes (`prob_of`, `rank_of`, lists longer than `MAX_HEAD`, probabilities at
    another temperature than 1, which read the logits once more) is torch's.
    A row's numbers are the same to the bit in any company.
    """

    def __init__(
        self,
        logits: Tensor,
        model: ModelSymbols,
        kernels: KernelTables,
        candidates_only: bool = False,
    ) -> None:
        """Reads nothing yet.

        Args:
            logits: `[N, V]` float16, bfloat16 or float32; rows may be strided.
            model: whose they are; its tensors on the same device.
            kernels: the same packed.
            candidates_only: `choice` is among the candidates and END.
        """
        super().__init__(logits, model, candidates_only)
        self.kernels = kernels

    @cached_property
    def _gated(self) -> Gated:
        from ..kernels.gate import gate

        return gate(self.logits, self.kernels, candidates_only=self.candidates_only)

    @cached_property
    def log_total(self) -> Tensor:
        """`[N]` float32, log Σ exp of the logits."""
        return self._gated.log_total

    @cached_property
    def choice(self) -> Tensor:
        return self._gated.choice

    @cached_property
    def top_prob(self) -> Tensor:
        return self._gated.top_prob

    @cached_property
    def _end_score(self) -> Tensor:
        return self._gated.end_score

    def top(self, k: int | None) -> Candidates:
        from ..kernels.heads import largest_list, list_heads

        if k is None or k > largest_list(self.kernels):
            return super().top(k)
        symbols, probs = list_heads(self.logits, self._gated, self.kernels, k)
        return Candidates(symbols, probs, probs.new_zeros(len(probs)), self.model.end)

    def rows(self, rows: list[int]) -> Self:
        if rows == list(range(len(self.logits))):
            return self
        device = self.logits.device
        # Pinned, or the host would wait for the copy.
        places = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda")
        places = places.to(device, non_blocking=True)
        some = type(self)(
            self.logits.index_select(0, places), self.model, self.kernels, self.candidates_only
        )
        if "_gated" in self.__dict__:
            some.__dict__["_gated"] = self._gated.rows(places)
        some._log_totals = {
            key: each.index_select(0, places) for key, each in self._log_totals.items()
        }
        return some


def checked_kernel_tables(model: ModelSymbols) -> KernelTables | None:
    """A model's tokens packed for the kernels, or None, with a reason logged, where they fail.

    They are tried on random logits first, beside `DensePrediction`: compiled once by then, and
    never trusted on a device or with a version of Triton on which they go wrong.

    Args:
        model: on the device of the logits.
    """
    try:
        from ..kernels.tables import kernel_tables

        tables = kernel_tables(model)
        _try(model, tables)
    except Exception as error:  # a compiler's errors are of many kinds
        logger.warning("logits are read without the Triton kernels: %s", error)
        return None
    return tables


def _try(model: ModelSymbols, tables: KernelTables) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(3, model.candidates.numel(), generator=generator)).to(
        model.ends.device
    )
    for candidates_only in (False, True):
        fused = FusedPrediction(logits, model, tables, candidates_only)
        dense = DensePrediction(logits, model, candidates_only)
        pairs = {
            "the choice": (fused.choice.float(), dense.choice.float()),
            "its probability": (fused.top_prob, dense.top_prob),
            "the list of candidates": (fused.top(100).dense(), dense.top(100).dense()),
        }
        for name, (ours, theirs) in pairs.items():
            if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6):
                off = float((ours - theirs).abs().max())
                raise ValueError(f"on trial {name} was off by up to {off:.2g}")
