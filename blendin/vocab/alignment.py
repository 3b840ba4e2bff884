"""Two vocabularies aligned by the bytes of their tokens."""

from __future__ import annotations

from collections.abc import Collection

import torch

from ..decision.symbols import SymbolTables
from .vocabulary import Vocabulary


class Alignment:
    """How a symbol is written in the base's vocabulary and in the guide's.

    Attributes:
        same: one vocabulary for both, so that ids pass through unchanged.
        tables: `decision.SymbolTables` on the CPU.
    """

    def __init__(
        self,
        base: Vocabulary,
        guide: Vocabulary,
        base_ends: Collection[int],
        guide_ends: Collection[int],
    ) -> None:
        self.base, self.guide = base, guide
        self.same = base.same_as(guide)
        self.guide_of_base: dict[int, int] = {}
        symbols = torch.arange(len(guide)) + len(base)
        guide_candidates = _candidates(guide, guide_ends)
        base_candidates = _candidates(base, base_ends)
        barred = set(base_ends)
        partners = dict[int, int]()
        for data, guide_id in guide.canonical.items():
            base_id = base.canonical.get(data)
            # Markup says the same to both only where it is one vocabulary; else it is text.
            if not self.same and (guide_id in guide.markup or base_id in base.markup):
                base_id = None
            if base_id is not None and base_id not in barred:
                self.guide_of_base[base_id] = guide_id
                partners[guide_id] = base_id
            elif not base.can_encode(data):
                guide_candidates[guide_id] = False
        if partners:  # together: one at a time takes a microsecond each
            symbols[list(partners)] = torch.tensor(list(partners.values()))
        self.tables = SymbolTables(
            base_ends=torch.tensor(sorted(base_ends)),
            guide_ends=torch.tensor(sorted(guide_ends)),
            base_candidates=base_candidates,
            guide_candidates=guide_candidates,
            guide_symbols=symbols,
        )

    def data(self, symbol: int) -> bytes:
        """The bytes of a symbol; none for END and for tokens that have none."""
        if symbol == self.tables.end:
            return b""
        if symbol < len(self.base):
            return self.base.tokens[symbol] or b""
        return self.guide.tokens[symbol - len(self.base)] or b""

    def token(self, role: str, symbol: int) -> int:
        """The token of a symbol that is one model's own: the "base"'s or the "guide"'s."""
        return symbol if role == "base" else int(self.tables.guide.tokens[symbol])

    def symbol(self, role: str, id: int) -> int:
        """The symbol of a token of the "base"'s or the "guide"'s, which is no end token."""
        return id if role == "base" else int(self.tables.guide_symbols[id])

    def ids(self, symbol: int) -> tuple[int | None, int | None]:
        """The base's and the guide's own token of a symbol, but for END; None where there is none.

        In one vocabulary also of tokens that are no candidates, which have two symbols.
        """
        width = len(self.base)
        if symbol >= width:
            id = symbol - width
            return (id if self.same and id < width else None), id
        partner = self.guide_of_base.get(symbol)
        if partner is None and self.same and symbol < len(self.guide):
            partner = symbol
        return symbol, partner

    def base_ids(self, symbol: int) -> list[int]:
        """How a chosen symbol enters the base's context."""
        if symbol < len(self.base):
            return [symbol]
        ids = self.base.encode_bytes(self.data(symbol))
        assert ids is not None, "a symbol that the base cannot encode is no candidate"
        return ids

    def guide_ids(self, symbol: int) -> list[int] | None:
        """How a symbol chosen at an intervention enters the guide's context.

        None where the guide has no tokens for bytes that are not valid UTF-8.
        """
        if symbol >= len(self.base):
            return [symbol - len(self.base)]
        if (partner := self.guide_of_base.get(symbol)) is not None:
            return [partner]
        return self.guide.encode_bytes(self.data(symbol))


def _candidates(vocabulary: Vocabulary, ends: Collection[int]) -> torch.Tensor:
    mask = torch.zeros(len(vocabulary), dtype=torch.bool)
    mask[list(vocabulary.canonical.values())] = True
    mask[list(ends)] = False
    return mask
