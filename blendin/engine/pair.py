"""A base and a guide, their vocabularies aligned, on the device where steps are decided."""

from __future__ import annotations

from ..decision.fused import checked_kernel_tables
from ..models.context import Context
from ..models.protocol import Model
from ..speculation.speculator import Speculation
from ..vocab.alignment import Alignment


class Pair:
    """A base and a guide with their vocabularies aligned.

    Attributes:
        tables: the alignment on the device of the base's logits, where steps are decided.
        fused: the same for the Triton kernels; None where they do not run.
        speculation: the drafts of its sequences.
        is_async: whether predictions take a while to arrive, as servers' do.
    """

    def __init__(self, base: Model, guide: Model, fused: bool | None = None) -> None:
        """Aligns two models.

        Args:
            base: the base.
            guide: the guide.
            fused: whether the kernels decide greedy blends; by default on CUDA devices.
        """
        self.base, self.guide = base, guide
        self.alignment = Alignment(base.vocabulary, guide.vocabulary, base.end_ids, guide.end_ids)
        self.tables = self.alignment.tables.to(base.device)
        self.speculation = Speculation(base, guide, self.alignment)
        self.is_async = base.is_async or guide.is_async
        if fused is None:
            fused = base.device.type == "cuda" and not self.is_async
        self.fused = checked_kernel_tables(self.tables, self.alignment.same) if fused else None

    def leave(self, base: Context | None, guide: Context | None) -> None:
        """Frees the caches of a sequence's contexts, and ends what servers are still asked for."""
        for model, context in ((self.base, base), (self.guide, guide)):
            if context is not None:
                model.leave(context)
