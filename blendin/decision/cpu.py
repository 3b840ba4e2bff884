"""Reductions over a vocabulary, arranged for CPU caches; on other devices plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def row_max(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each of `[N, V]` rows and its lowest index; NaN where the row has one.

    In blocks: torch's `max` with indices takes ten times as long as one without on a CPU.
    """
    width = max(1, math.isqrt(rows.shape[1]))
    count = rows.shape[1] // width
    blocks = rows[:, : count * width].view(len(rows), count, width)
    block = blocks.amax(dim=-1).max(dim=-1).indices
    value, place = blocks[torch.arange(len(rows), device=rows.device), block].max(dim=-1)
    index = block * width + place
    if count * width < rows.shape[1]:
        last, place = rows[:, count * width :].max(dim=-1)
        later = (last > value) | last.isnan()
        value, index = last.where(later, value), (place + count * width).where(later, index)
    return value, index


def log_sum_exp(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """`[N]` float32, log Σ exp of `[N, V]` logits / temperature; NaN where a row has one.

    A few rows at a time on a CPU, whose caches hold them: several times as fast as `logsumexp`.
    """
    if logits.device.type != "cpu":
        return (logits.float() / temperature).logsumexp(dim=-1)
    totals = []
    for rows in logits.split(4):
        top = rows.amax(dim=-1, keepdim=True).float()
        scores = (rows.float() - top).div_(temperature) if temperature != 1 else rows.float() - top
        totals.append(scores.exp_().sum(dim=-1).log_() + top[:, 0] / temperature)
    return torch.cat(totals)


def row_top(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each of `[N, V]` rows, in descending order, and their indices.

    Where V is large, only the k blocks with the highest maxima are sorted, since no other block
    can hold one of the k.
    """
    size, width = rows.shape[1], 64
    count = size // width
    if count < 4 * k:
        return rows.topk(k, dim=-1)
    blocks = rows[:, : count * width].view(len(rows), count, width)
    highest = blocks.amax(dim=-1).topk(k, dim=-1).indices
    within = blocks.gather(1, highest[:, :, None].expand(-1, -1, width)).flatten(1)
    places = (highest[:, :, None] * width + torch.arange(width, device=rows.device)).flatten(1)
    rest = torch.arange(count * width, size, device=rows.device).expand(len(rows), -1)
    within = torch.cat([within, rows[:, count * width :]], dim=-1)
    values, order = within.topk(k, dim=-1)
    return values, torch.cat([places, rest], dim=-1).gather(1, order)
