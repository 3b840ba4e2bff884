"""The moves of greedy blends, decided by the Triton kernels: a few bytes a step to the host."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..decision.dense import SymbolTables, rank_of
from ..decision.top_logprobs import Rows
from ..policy import BaseOnly, Blend
from .pair import Pair
from .sequence import Sequence
from .stepper import Stepper
from .turn import OwnView, Turn, check_finite, source

if TYPE_CHECKING:
    from ..kernels.parameters import Parameters

KERNEL_PRECISIONS = ("float16", "bfloat16", "float32")


def stepper(pair: Pair, sequences: ListLike[Sequence]) -> Stepper:
    """The fused moves where the kernels run and know every policy, else the eager ones."""
    if pair.fused is None:
        return Stepper(pair, sequences)
    narrow = all(lm.precision in KERNEL_PRECISIONS for lm in (pair.base, pair.guide))
    known = all(
        sequence.sampling.is_argmax and isinstance(sequence.rule, Blend | BaseOnly)
        for sequence in sequences
    )
    return FusedStepper(pair, sequences) if narrow and known else Stepper(pair, sequences)


class FusedStepper(Stepper):
    """`Stepper` for greedy `Blend` and `BaseOnly` through `blendin.kernels`."""

    def own_views(self, rows: Rows, tables: SymbolTables, turns: ListLike[Turn]) -> list[OwnView]:
        from ..kernels.gate import gate

        assert self.pair.fused is not None and isinstance(rows, Tensor)
        self._parameters = _parameters(
            tuple(turn.sequence.rule for turn in turns), tables.base_ends.device
        )
        gated = gate(rows, self.pair.fused, self._parameters)
        raw = gated.raw.cpu()
        top_probs = raw.view(torch.float32)[:, 1].tolist()
        return [
            OwnView(rows, gated, row, top_prob, choice)
            for row, (top_prob, choice) in enumerate(
                zip(top_probs, raw[:, 0].tolist(), strict=True)
            )
        ]

    def emit_blends(self, turns: ListLike[Turn], guide_rows: Rows) -> None:
        from ..kernels.decide import Decision, decide

        if not turns:
            return
        assert self.pair.fused is not None and isinstance(guide_rows, Tensor)
        views = [turn.base for turn in turns if turn.base is not None]
        gated = views[0].gate
        base_logits = gated.streamed.logits
        places = torch.full((len(base_logits),), -1, dtype=torch.int32)
        places[[view.row for view in views]] = torch.tensor(
            [turn.guide_row for turn in turns], dtype=torch.int32
        )
        decision = decide(
            base_logits,
            guide_rows,
            self.pair.fused,
            self._parameters,
            gated=gated,
            guide_rows=places.to(base_logits.device),
        )
        guide_choice = decision.guide_choice.clamp(min=0).long()  # -1 where the guide is not asked
        ranks = rank_of(base_logits, guide_choice, self.pair.tables).int()
        raw = torch.cat([decision.raw, ranks[:, None]], dim=1).cpu()
        told = Decision(raw[:, :-1])
        for turn, view in zip(turns, views, strict=True):
            row = view.row
            with turn.sequence.failing_alone():
                guide_top_prob = float(told.guide_top_prob[row])
                check_finite(guide_top_prob, self.pair.guide, turn.sequence)
                if int(told.error[row]):
                    raise FloatingPointError("neither model gave any candidate a probability")
                sides = int(told.sides[row])
                self.emit(
                    turn.sequence,
                    int(told.symbol[row]),
                    partial(int, told.end_token[row]),
                    source=source(bool(sides & 1), bool(sides & 2)),
                    base_top_prob=view.top_prob,
                    guide_top_prob=guide_top_prob,
                    alpha=float(told.alpha[row]),
                    agreement=float(told.agreement[row]),
                    agreement_rank=int(raw[row, -1]) or None,
                )


@lru_cache(maxsize=256)
def _parameters(rules: tuple[Blend | BaseOnly, ...], device: torch.device) -> Parameters:
    """The policies of a batch on the device; most batches are like the one before."""
    from ..kernels.parameters import Parameters

    blends = [rule if isinstance(rule, Blend) else Blend(threshold=0) for rule in rules]
    return Parameters.of(
        len(rules),
        device,
        threshold=[rule.threshold for rule in blends],
        agreement_bonus=[rule.agreement_bonus for rule in blends],
        alpha=[rule.alpha for rule in blends],
        top_k=[rule.top_k for rule in blends],
    )
