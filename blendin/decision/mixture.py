"""What is emitted at an intervention: a mixture of both models' candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..forks import cached_property
from .cpu import row_max, row_top
from .likeliest import Likeliest, likeliest

MAX_LISTED = 512
"""More candidates of a model than this are mixed as vectors over all symbols, not as lists."""


class Candidates(NamedTuple):
    """One model's candidates at an intervention: its top k symbols and END.

    Attributes:
        symbols: `[N, C]` int64, distinct in a row except for some of probability 0; END is last.
        probs: `[N, C]` float32, not normalised.
        unlisted: `[N]` float32, the total probability of candidates that are not listed.
        end: the symbol END.
    """

    symbols: Tensor
    probs: Tensor
    unlisted: Tensor
    end: int

    def dense(self) -> Tensor:
        """`[N, end + 1]` float32 over all symbols, 0 for those that are no candidates."""
        everything = self.probs.new_zeros(len(self.probs), self.end + 1)
        return everything.scatter_add_(-1, self.symbols, self.probs)

    def mixed_with(
        self,
        guide: Candidates,
        alpha: Tensor,
        agreement: Tensor,
        base_weight: Tensor | None = None,
    ) -> Mixture:
        """These of the base and those of the guide, at most 2k + 1 symbols a row.

        Args:
            guide: the guide's candidates.
            alpha: `[N]` float32, the guide's weight.
            agreement: `[N]` float32, P_B(t_g), for the trace.
            base_weight: `[N]` float32; None is 1 - alpha.
        """
        kept = 1 - alpha if base_weight is None else base_weight
        is_dense = max(self.symbols.shape[1], guide.symbols.shape[1]) > MAX_LISTED + 1
        if is_dense:
            symbols = torch.arange(self.end + 1, device=alpha.device).expand(len(alpha), -1)
            of_base, of_guide = self.dense(), guide.dense()
        else:
            same = self.symbols[:, :, None] == guide.symbols[:, None, :]
            shared = (same * guide.probs[:, None, :]).sum(dim=-1)
            alone = guide.probs.masked_fill(same.any(dim=1), 0)
            symbols = torch.cat([self.symbols, guide.symbols], dim=-1)
            of_base = torch.cat([self.probs, torch.zeros_like(alone)], dim=-1)
            of_guide = torch.cat([shared, alone], dim=-1)
        return Mixture(
            symbols,
            of_base * kept[:, None],
            of_guide * alpha[:, None],
            alpha,
            agreement,
            self.unlisted * kept + guide.unlisted * alpha,
            is_dense,
        )


@dataclass(frozen=True, eq=False)
class Mixture:
    """The distribution that an intervention emits from, not normalised.

    Attributes:
        symbols: `[N, C]` int64; where one occurs twice, the second has no weight.
        base: `[N, C]` float32, the base's share of each weight, as (1-α)·P_B.
        guide: `[N, C]` float32, the guide's, as α·P_G.
        alpha: `[N]` float32 in [0, 1].
        agreement: `[N]` float32, P_B(t_g); None where the base was not run.
        unlisted: `[N]` float32, the weight of candidates that are not among the symbols.
        is_dense: the symbols are all there are, in order.
    """

    symbols: Tensor
    base: Tensor
    guide: Tensor
    alpha: Tensor
    agreement: Tensor | None
    unlisted: Tensor
    is_dense: bool = False

    @classmethod
    def of_guide(cls, symbols: Tensor, probs: Tensor, agreement: Tensor | None) -> Mixture:
        """The guide alone (α = 1): `[N, C]` symbols and their probabilities."""
        one, nothing = torch.ones_like(probs[:, 0]), torch.zeros_like(probs[:, 0])
        return cls(symbols, torch.zeros_like(probs), probs, one, agreement, nothing)

    @cached_property
    def weight(self) -> Tensor:
        """`[N, C]` float32, both shares together."""
        return self.base + self.guide

    @property
    def total(self) -> Tensor:
        """`[N]` float32, what the weights are normalised by."""
        return self.weight.sum(dim=-1) + self.unlisted

    @property
    def choice(self) -> Tensor:
        """`[N]` int64, the argmax symbol; the lowest of equals."""
        if self.is_dense:
            return row_max(self.weight)[1]
        best = self.weight == self.weight.amax(dim=-1, keepdim=True)
        none = torch.iinfo(self.symbols.dtype).max
        return self.symbols.masked_fill(~best, none).amin(dim=-1)

    def shares(self, symbols: Tensor) -> tuple[Tensor, Tensor]:
        """The base's and the guide's share of one symbol a row: `[N]` int64 to `[N]` float32."""
        if self.is_dense:
            at = symbols[:, None]
            return self.base.gather(-1, at)[:, 0], self.guide.gather(-1, at)[:, 0]
        here = self.symbols == symbols[:, None]
        return (self.base * here).sum(dim=-1), (self.guide * here).sum(dim=-1)

    def on_host(self) -> Mixture:
        """On the CPU, in one transfer; itself where it is there, or as wide as the vocabularies."""
        if self.is_dense or self.symbols.device.type == "cpu":
            return self
        rows = [self.alpha, self.unlisted]
        lists = torch.cat(
            [self.symbols.float(), self.base, self.guide, torch.stack(rows, dim=1)], dim=1
        ).cpu()
        width = self.symbols.shape[1]
        symbols, base, guide, of_rows = lists.split([width, width, width, len(rows)], dim=1)
        alpha, unlisted = of_rows.unbind(1)
        return Mixture(symbols.long(), base, guide, alpha, None, unlisted)

    def log_probs(self, symbols: Tensor) -> Tensor:
        """`[N]` float32, the normalised log-probability of one symbol a row."""
        base, guide = self.shares(symbols)
        return ((base + guide) / self.total).log()

    def likeliest(self, n: int) -> Likeliest:
        """The n likeliest symbols, their probabilities normalised."""
        weight, places = row_top(self.weight, min(n, self.weight.shape[1]))
        symbols = self.symbols.gather(-1, places)
        return likeliest(symbols, weight / self.total[:, None], weight, symbols, n)

    def dense(self) -> Tensor:
        """`[N, S]` float32 probabilities over all symbols up to the highest listed."""
        weight = self.weight.new_zeros(len(self.weight), int(self.symbols.max()) + 1)
        weight.scatter_add_(-1, self.symbols, self.weight)
        return weight / self.total[:, None]
