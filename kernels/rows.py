"""Rows of logits as the kernels read them: where they begin, how they are split, their device."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .tables import KernelTables

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

ALIGNMENT = 16
"""A thread loads 16 bytes at once where rows begin at multiples of them and are a multiple of 16
logits apart: so far Triton looks."""

# Enough programs in flight to hide each other's latency: about 16 of 4 warps fit a multiprocessor.
PROGRAMS_PER_MULTIPROCESSOR = 64


class Rows(NamedTuple):
    """Logits whose rows begin at multiples of 16 bytes.

    Attributes:
        logits: `[N, V]` float16, bfloat16 or float32.
        stride: elements from one row to the next, a multiple of 16.
    """

    logits: Tensor
    stride: int


def aligned_rows(logits: Tensor, tables: KernelTables) -> Rows:
    """The logits themselves, or where rows would have to be read singly (V = 50257) a copy.

    Cutting rows up at their own addresses would do without, but a row's sum would then depend on
    its place in the batch.

    Args:
        logits: `[N, V]`; rows may be strided.
        tables: of the model that they are of.

    Raises:
        ValueError: where size, strides or dtype do not fit.
    """
    if logits.dim() != 2 or logits.shape[1] != tables.size or logits.stride(1) != 1:
        raise ValueError(
            f"the logits are {tuple(logits.shape)} with strides {logits.stride()}; they must be "
            f"[N, {tables.size}], each row contiguous"
        )
    if logits.dtype not in DTYPES:
        raise ValueError(f"the logits are {logits.dtype}; the kernels read 16 or 32 bits")
    width = -(-tables.size // ALIGNMENT) * ALIGNMENT
    stride = logits.stride(0) if len(logits) > 1 else width
    if logits.data_ptr() % ALIGNMENT == 0 and stride % ALIGNMENT == 0:
        return Rows(logits, stride)
    copy = logits.new_empty(len(logits), width)[:, : tables.size]
    return Rows(copy.copy_(logits), width)


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Launches go to a tensor's device within it, whichever is current."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def chunks_per_program(chunks: int, longest: int, multiprocessors: int) -> int:
    """How many chunks a program reads: one in small batches, in very large ones a whole row.

    Args:
        chunks: of all rows.
        longest: of one row.
        multiprocessors: of the GPU.
    """
    fair = max(1, min(longest, chunks // (PROGRAMS_PER_MULTIPROCESSOR * multiprocessors)))
    return 1 << (fair - 1).bit_length()  # a power of two, or each batch size would be compiled anew


def split(rows: int, tables: KernelTables, device: torch.device) -> tuple[int, int]:
    """(programs a row, chunks a program)."""
    each = chunks_per_program(rows * tables.chunks, tables.chunks, _multiprocessors(device))
    return -(-tables.chunks // each), each


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 132
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
