"""Two aligned vocabularies as the kernels read them, and the sizes that all kernels share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from blendin.decision.dense import SymbolTables

WORD = 32  # candidates per int32 of a bit mask


class Geometry(NamedTuple):
    """How a row of logits is cut up; all powers of two.

    None of it depends on the batch, and sums are always taken chunk by chunk in one order: so a
    row's numbers are the same to the bit in any company and on any number of programs.

    Attributes:
        chunk: logits that one step of the streaming kernel reads.
        group: logits that share one maximum, at most 32.
        head: how many of a row's top logits are listed for the decision, at least.
    """

    chunk: int = 2048
    group: int = 32
    head: int = 128


# What a program keeps in registers: more maxima or more listed logits than this would spill.
MAX_GROUPS = 16384
MAX_HEAD = 512


class KernelTables(NamedTuple):
    """`SymbolTables` packed for the kernels, all on the device of the logits.

    Attributes:
        base_bits: `[ceil(V_b / 32)]` int32, bit j of word i: token 32 i + j is a candidate.
        base_open_bits: likewise: it is no end token.
        base_plain: `[ceil(V_b / chunk)]` uint8, whether a chunk is full, has candidates only and
            no end token, so that it needs neither masks nor bounds.
        guide_bits: `[ceil(V_g / 32)]` int32, candidates.
        guide_plain: `[ceil(V_g / chunk)]` uint8.
        base_ends: `[E_b]` int32, ascending.
        guide_ends: `[E_g]` int32, ascending.
        partners: `[V_b]` int32, the guide's candidate with the same bytes, or -1.
        symbols: `[V_g]` int32, `SymbolTables.guide_symbols`.
        base_size: V_b.
        guide_size: V_g.
        same: one vocabulary, so that the guide's end ids are ids of the base too.
        geometry: the sizes for which the tables were made.
    """

    base_bits: Tensor
    base_open_bits: Tensor
    base_plain: Tensor
    guide_bits: Tensor
    guide_plain: Tensor
    base_ends: Tensor
    guide_ends: Tensor
    partners: Tensor
    symbols: Tensor
    base_size: int
    guide_size: int
    same: bool
    geometry: Geometry


def kernel_tables(
    tables: SymbolTables, *, same: bool = False, geometry: Geometry | None = None
) -> KernelTables:
    """Packs an alignment, once a pair of models.

    Args:
        tables: on the device of the logits.
        same: both models have one vocabulary (`Alignment.same`).
        geometry: None for the default.

    Raises:
        ValueError: for a vocabulary of more than 524,288 tokens.
    """
    geometry = geometry or Geometry()
    base_size, guide_size = tables.base_candidates.numel(), tables.guide_candidates.numel()
    if max(base_size, guide_size) > MAX_GROUPS * geometry.group:
        raise ValueError(
            f"a vocabulary of {max(base_size, guide_size)} tokens is more than the kernels' "
            f"{MAX_GROUPS * geometry.group}; use the eager blendin.decision"
        )
    opened = torch.ones_like(tables.base_candidates).index_fill(0, tables.base_ends, False)
    partners = torch.full((base_size,), -1, dtype=torch.int32, device=opened.device)
    guide_ids = torch.arange(guide_size, dtype=torch.int32, device=opened.device)
    shared = (tables.guide_symbols < base_size) & tables.guide_candidates
    partners[tables.guide_symbols[shared]] = guide_ids[shared]
    return KernelTables(
        base_bits=_pack(tables.base_candidates),
        base_open_bits=_pack(opened),
        base_plain=_full_chunks(tables.base_candidates & opened, geometry.chunk),
        guide_bits=_pack(tables.guide_candidates),
        guide_plain=_full_chunks(tables.guide_candidates, geometry.chunk),
        base_ends=tables.base_ends.sort().values.int(),
        guide_ends=tables.guide_ends.sort().values.int(),
        partners=partners,
        symbols=tables.guide_symbols.int(),
        base_size=base_size,
        guide_size=guide_size,
        same=same,
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
