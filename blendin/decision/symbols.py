"""Symbols: one integer for each token of either vocabulary.

0 .. V_b-1          the base's token with that id
V_b .. V_b+V_g-1    the guide's token (id + V_b), for tokens the base's vocabulary lacks
V_b + V_g           END: the union of a model's end tokens
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..forks import cached_property


@dataclass(frozen=True, eq=False)
class ModelSymbols:
    """One model's tokens as symbols.

    Attributes:
        ends: `[E]` int64, its end token ids, ascending.
        candidates: `[V]` bool, the tokens that may be emitted at an intervention.
        symbols: `[V]` int64, the symbol of each token, no two alike.
        tokens: `[end + 1]` int64, the token of each symbol; -1 where it has none, and for END.
        end: the symbol END, one less than the number of symbols.
        shared: `[end + 1]` bool, the symbols that both models may emit at an intervention.
    """

    ends: Tensor
    candidates: Tensor
    symbols: Tensor
    tokens: Tensor
    end: int
    shared: Tensor

    @cached_property
    def all_symbols(self) -> Tensor:
        """`[V + 1]` int64, the symbol of each token, and END."""
        return torch.cat([self.symbols, self.symbols.new_tensor([self.end])])

    @classmethod
    def of(
        cls,
        ends: Tensor,
        candidates: Tensor,
        symbols: Tensor,
        end: int,
        shared: Tensor | None = None,
    ) -> ModelSymbols:
        """Of one model's tables; None of the symbols is shared where `shared` is missing."""
        tokens = symbols.new_full((end + 1,), -1)
        tokens[symbols] = torch.arange(len(symbols), device=symbols.device)
        if shared is None:
            shared = torch.zeros_like(tokens, dtype=torch.bool)
        return cls(ends.sort().values, candidates, symbols, tokens, end, shared)


@dataclass(frozen=True, eq=False)
class SymbolTables:
    """Two aligned vocabularies as tensors on the device of the logits.

    Attributes:
        base_ends: `[E_b]` int64, the base's end token ids.
        guide_ends: `[E_g]` int64, the guide's end token ids.
        base_candidates: `[V_b]` bool, tokens that may be emitted at an intervention (end tokens,
            special tokens, padding rows and duplicates are False).
        guide_candidates: `[V_g]` bool, likewise.
        guide_symbols: `[V_g]` int64, the symbol of each guide token, no two alike: its partner's
            id in the base's vocabulary, or `V_b + id` where there is none.
    """

    base_ends: Tensor
    guide_ends: Tensor
    base_candidates: Tensor
    guide_candidates: Tensor
    guide_symbols: Tensor

    @property
    def end(self) -> int:
        """The symbol END."""
        return self.base_candidates.numel() + self.guide_candidates.numel()

    @cached_property
    def base(self) -> ModelSymbols:
        """The base's tokens: every one is its own symbol."""
        own = torch.arange(self.base_candidates.numel(), device=self.base_candidates.device)
        return ModelSymbols.of(self.base_ends, self.base_candidates, own, self.end, self._shared)

    @cached_property
    def guide(self) -> ModelSymbols:
        """The guide's tokens."""
        return ModelSymbols.of(
            self.guide_ends, self.guide_candidates, self.guide_symbols, self.end, self._shared
        )

    @cached_property
    def _shared(self) -> Tensor:
        """`[end + 1]` bool, the symbols that both models may emit."""
        of_base = self.base_candidates.new_zeros(self.end + 1)
        of_guide = of_base.clone()
        of_base[: len(self.base_candidates)] = self.base_candidates
        of_guide[self.guide_symbols] = self.guide_candidates
        shared = of_base & of_guide
        shared[self.end] = True
        return shared

    def to(self, device: torch.device | str) -> SymbolTables:
        return SymbolTables(*(getattr(self, field.name).to(device) for field in fields(self)))
