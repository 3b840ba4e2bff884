"""One model's tokens as the kernels read them, and the sizes that all kernels share."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from blendin.decision.symbols import ModelSymbols

WORD = 32  # tokens per int32 of a bit mask


class Geometry(NamedTuple):
    """How a row of logits is cut up; both are powers of two.

    Neither depends on the batch, and sums are always taken chunk by chunk in one order: so a
    row's numbers are the same to the bit in any company and on any number of programs.

    Attributes:
        chunk: logits that one step of the streaming kernel reads.
        group: logits that share one maximum, at most 32.
        block: maxima or logits that one step of the selection keeps in registers.
    """

    chunk: int = 2048
    group: int = 32
    block: int = 2048


MAX_LIST = 512
"""The longest list; longer ones are mixed as vectors over all symbols anyway."""


class KernelTables(NamedTuple):
    """`ModelSymbols` packed for the kernels, all on the device of the logits.

    Attributes:
        bits: `[ceil(V / 32)]` int32, bit j of word i: token 32 i + j is a candidate.
        open_bits: likewise: it is no end token.
        plain: `[ceil(V / chunk)]` uint8, whether a chunk is full, has candidates only and no end
            token, so that it needs neither masks nor bounds.
        ends: `[E]` int32, ascending.
        symbols: `[V]` int64, the symbol of each token.
        tokens: `[end + 1]` int64, the token of each symbol; -1 where it has none, and for END.
        size: V.
        end: the symbol END.
        geometry: the sizes for which the tables were made.
    """

    bits: Tensor
    open_bits: Tensor
    plain: Tensor
    ends: Tensor
    symbols: Tensor
    tokens: Tensor
    size: int
    end: int
    geometry: Geometry

    @property
    def ends_rounded_up(self) -> int:
        """The number of end tokens, at least 1, rounded up to a power of two."""
        return 1 << max(0, self.ends.numel() - 1).bit_length()

    @property
    def chunks(self) -> int:
        """How many chunks a row has."""
        return -(-self.size // self.geometry.chunk)


def kernel_tables(model: ModelSymbols, geometry: Geometry | None = None) -> KernelTables:
    """Packs the tokens of a model, once.

    Args:
        model: on the device of the logits.
        geometry: None for the default.
    """
    geometry = geometry or Geometry()
    opened = torch.ones_like(model.candidates).index_fill(0, model.ends, False)
    return KernelTables(
        bits=_pack(model.candidates),
        open_bits=_pack(opened),
        plain=_full_chunks(model.candidates & opened, geometry.chunk),
        ends=model.ends.int(),
        symbols=model.symbols,
        tokens=model.tokens,
        size=model.candidates.numel(),
        end=model.end,
        geometry=geometry,
    )


def _pack(mask: Tensor) -> Tensor:
    """`[V]` bool to `[ceil(V / 32)]` int32."""
    padded = mask.new_zeros(-(-mask.numel() // WORD) * WORD)
    padded[: mask.numel()] = mask
    weights = 1 << torch.arange(WORD, dtype=torch.int64, device=mask.device)
    words = (padded.view(-1, WORD) * weights).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def _full_chunks(mask: Tensor, chunk: int) -> Tensor:
    """`[V]` bool to `[ceil(V / chunk)]` uint8: chunks within the row that are True throughout."""
    padded = mask.new_zeros(-(-mask.numel() // chunk) * chunk)
    padded[: mask.numel()] = mask
    return padded.view(-1, chunk).all(-1).to(torch.uint8)
