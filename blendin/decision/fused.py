"""A `Prediction` from logits through the Triton kernels, and a `Mixture` of two of them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from ..forks import cached_property
from .mixture import Candidates, Mixture
from .prediction import DensePrediction
from .symbols import ModelSymbols

if TYPE_CHECKING:
    from ..kernels.gate import Gated
    from ..kernels.rows import Rows
    from ..kernels.tables import KernelTables


@dataclass(eq=False)
class _Read:
    """Logits that the kernels read, once for all predictions of some of their rows."""

    logits: Tensor
    kernels: KernelTables
    candidates_only: bool
    already: Gated | None = None

    @cached_property
    def rows(self) -> Rows:
        from ..kernels.rows import aligned_rows

        return aligned_rows(self.logits, self.kernels)

    @cached_property
    def gated(self) -> Gated:
        if self.already is not None:
            return self.already
        from ..kernels.gate import gate

        return gate(self.rows, self.kernels, candidates_only=self.candidates_only)


@lru_cache(maxsize=256)
def _every_place(count: int, device: torch.device) -> Tensor:
    """`[count]` int64, the places of all rows; kept, or each step would launch it anew."""
    with torch.inference_mode(False):
        return torch.arange(count, device=device)


class FusedPrediction(DensePrediction):
    """`DensePrediction` that reads its logits once, in at most two launches; the host never waits.

    What no kernel computes (`prob_of`, lists longer than `MAX_LIST`, probabilities at another
    temperature than 1, which read the logits once more) is torch's. A row's numbers are the same
    to the bit in any company.
    """

    def __init__(
        self,
        logits: Tensor,
        model: ModelSymbols,
        kernels: KernelTables,
        candidates_only: bool = False,
        gated: Gated | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            logits: `[N, V]` float16, bfloat16 or float32; rows may be strided.
            model: whose they are; its tensors on the same device.
            kernels: the same packed.
            candidates_only: `choice` is among the candidates and END.
            gated: what a gate kept of these rows; None: it is launched when it is needed.
        """
        super().__init__(logits, model, candidates_only)
        self.kernels = kernels
        self.read = _Read(logits, kernels, candidates_only, gated)
        self._some: Tensor | None = None

    @property
    def places(self) -> Tensor:
        """`[N]` int64, which of the rows that were read these are."""
        logits = self.read.logits
        return _every_place(len(logits), logits.device) if self._some is None else self._some

    @cached_property
    def logits(self) -> Tensor:  # type: ignore[override]
        """Copied where they are some of the rows, which no kernel needs."""
        return self.read.logits.index_select(0, self.places)

    @cached_property
    def _gated(self) -> Gated:
        gated = self.read.gated
        if self._some is None:
            return gated
        return gated._replace(raw=gated.raw.index_select(0, self._some))

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

    def lists(self, k: int | None) -> bool:
        """Whether the kernels list the top k."""
        from ..kernels.topk import largest_list

        return k is not None and k <= largest_list(self.kernels)

    def top(self, k: int | None) -> Candidates:
        if k is None or not self.lists(k):
            return super().top(k)
        symbols, probs = self.listed(k)
        return Candidates(symbols, probs, probs.new_zeros(len(probs)), self.model.end)

    def listed(self, k: int) -> tuple[Tensor, Tensor]:
        """`[N, k + 1]` symbols and probabilities, in one launch."""
        from ..kernels.topk import topk

        return topk(self.read.rows, self.read.gated, self.places, self.kernels, k)

    def rows(self, rows: list[int]) -> Self:
        count = len(self.read.logits if self._some is None else self._some)
        if rows == list(range(count)):
            return self
        device = self.read.logits.device
        # Pinned, or the host would wait for the copy.
        index = torch.tensor(rows, dtype=torch.int64, pin_memory=device.type == "cuda")
        index = index.to(device, non_blocking=True)
        some = copy.copy(self)
        kept = ("model", "candidates_only", "kernels", "read")
        some.__dict__ = {name: self.__dict__[name] for name in kept}
        some._some = index if self._some is None else self._some.index_select(0, index)
        some._log_totals = {
            key: each.index_select(0, index) for key, each in self._log_totals.items()
        }
        return some


@dataclass(frozen=True, eq=False, kw_only=True)
class FusedMixture(Mixture):
    """A `Mixture` by the blend kernel.

    Attributes:
        numbers: `[N, 7]` float32, what `decision.told` tells of the argmax.
    """

    numbers: Tensor

    @cached_property
    def choice(self) -> Tensor:  # type: ignore[override]
        return self.numbers[:, 0].long()

    def told(self, symbols: Tensor) -> Tensor:
        """As `decision.told`."""
        if symbols is self.choice:
            return self.numbers
        drawn = torch.stack([symbols.float(), *self.shares(symbols)], dim=1)
        return torch.cat([drawn, self.numbers[:, 3:]], dim=1)


def fused_blend(
    base: FusedPrediction,
    guide: FusedPrediction,
    k: int,
    alpha: float | None,
    agreement_bonus: float,
) -> FusedMixture:
    """`decision.blend` of lists, in four launches."""
    from ..kernels.blend import Side, blend

    of_base, of_guide = (
        Side(each.read.rows, each.read.gated, each.places, *each.listed(k))
        for each in (base, guide)
    )
    made = blend(of_base, of_guide, base.kernels, alpha=alpha, agreement_bonus=agreement_bonus)
    numbers = made.numbers
    return FusedMixture(
        made.symbols,
        made.base,
        made.guide,
        alpha=numbers[:, 4],
        agreement=numbers[:, 5],
        unlisted=torch.zeros_like(numbers[:, 4]),
        numbers=numbers,
    )
