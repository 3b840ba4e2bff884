"""A base and a guide, their vocabularies aligned, on the device where steps are decided."""

from __future__ import annotations

from ..decision.fused import checked_kernel_tables
from ..speculation.cost_model import Pace
from ..vocab.alignment import Alignment
from .context import Context
from .local import Model


class Pair:
    """A base and a guide with their vocabularies aligned.

    Attributes:
        tables: the alignment on the device of the base's logits, where steps are decided.
        fused: the same for the Triton kernels; None where they do not run.
        pace: what their steps cost here, learned while they run.
        is_remote: whether a server has a part in it.
        base_seconds: spent so far on asking the base, its decisions included.
    """

    def __init__(self, base: Model, guide: Model, fused: bool | None = None) -> None:
        """Aligns two models.

        Args:
            base: the base.
            guide: the guide.
            fused: whether the kernels decide greedy blends; by default on CUDA devices.
        """
        self.base, self.guide = base, guide
        self.pace, self.base_seconds = Pace(), 0.0
        self.alignment = Alignment(base.vocabulary, guide.vocabulary, base.end_ids, guide.end_ids)
        self.tables = self.alignment.tables.to(base.device)
        self.is_remote = base.is_remote or guide.is_remote
        if fused is None:
            fused = base.device.type == "cuda" and not self.is_remote
        self.fused = checked_kernel_tables(self.tables, self.alignment.same) if fused else None

    def leave(self, base: Context | None, guide: Context | None) -> None:
        """Frees the caches of a sequence's contexts, and ends what servers are still asked for."""
        for model, context in ((self.base, base), (self.guide, guide)):
            if context is not None:
                model.leave(context)
