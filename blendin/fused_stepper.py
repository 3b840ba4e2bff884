"""The moves of a greedy blend, decided by the Triton kernels: a few bytes a step to the host."""

from __future__ import annotations

import torch
from torch import Tensor

from .decision import SymbolTables
from .model import LanguageModel
from .policy import BaseOnly, Blend, Nudge
from .sampling import Sampling
from .sequence import Sequence
from .stepper import OwnView, Pair, Stepper, source
from .trace import Step

KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def stepper(
    pair: Pair,
    sequence: Sequence,
    policy: Blend | Nudge | BaseOnly,
    sampling: Sampling,
    generator: torch.Generator,
) -> Stepper:
    """The fused moves where the kernels run and know the policy, else the eager ones."""
    narrow = all(lm.model.dtype in KERNEL_DTYPES for lm in (pair.base, pair.guide))
    if pair.fused is None or not narrow or not sampling.is_argmax or isinstance(policy, Nudge):
        return Stepper(pair, sequence, sampling, generator)
    return FusedStepper(pair, sequence, policy, sampling, generator)


class FusedStepper(Stepper):
    """`Stepper` for greedy `Blend` and `BaseOnly` through `blendin.kernels`."""

    def __init__(
        self,
        pair: Pair,
        sequence: Sequence,
        policy: Blend | BaseOnly,
        sampling: Sampling,
        generator: torch.Generator,
    ) -> None:
        super().__init__(pair, sequence, sampling, generator)
        from .kernels.parameters import Parameters

        rule = policy if isinstance(policy, Blend) else Blend(threshold=0)
        self._parameters = Parameters.of(
            1,
            pair.tables.base_ends.device,
            threshold=rule.threshold,
            agreement_bonus=rule.agreement_bonus,
            alpha=rule.alpha,
            top_k=rule.top_k,
        )

    def own_view(self, logits: Tensor, tables: SymbolTables, model: LanguageModel) -> OwnView:
        from .kernels.gate import gate

        assert self.pair.fused is not None
        gated = gate(logits, self.pair.fused, self._parameters)
        raw = gated.raw.cpu()
        top_prob = float(raw.view(torch.float32)[0, 1])
        return OwnView(logits, gated, self.checked(top_prob, model), int(raw[0, 0]))

    def emit_blend(self, base: OwnView, guide_logits: Tensor, policy: Blend) -> Step:
        from .kernels.decide import Decision, decide

        assert self.pair.fused is not None
        told = Decision(
            decide(
                base.logits, guide_logits, self.pair.fused, self._parameters, gated=base.gate
            ).raw.cpu()
        )
        guide_top_prob = self.checked(float(told.guide_top_prob[0]), self.pair.guide)
        if int(told.error[0]):
            raise FloatingPointError("neither model gave any candidate a probability")
        sides = int(told.sides[0])
        return self.emit(
            int(told.symbol[0]),
            lambda: int(told.end_token[0]),
            source=source(bool(sides & 1), bool(sides & 2)),
            base_top_prob=base.top_prob,
            guide_top_prob=guide_top_prob,
            alpha=float(told.alpha[0]),
            agreement=float(told.agreement[0]),
        )
