"""Both models' prompts for the rows of a call, as tokens or messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..engine.columns import Column, prompts_or_column
from ..models.protocol import Model
from ..prompts import RenderedPrompt
from ..values import told
from .settings import left_padded


def base_prompts(
    input_ids: Tensor, is_read: Tensor, tokenizer: PreTrainedTokenizerBase
) -> list[RenderedPrompt]:
    """A prompt for each row of `[B, L]` tokens, without its padding."""
    return [
        _prompt(row[read].tolist(), tokenizer) for row, read in zip(input_ids, is_read, strict=True)
    ]


def guide_prompts(
    count: int,
    copies: int,
    guide: Model,
    *,
    messages: Any,
    guide_input_ids: Any,
    guide_attention_mask: Any,
) -> dict[str, list[Any] | None]:
    """What the guide reads in each of `count` rows, as `engine.request.requests` takes it.

    Args:
        count: of rows; they stand for `count // copies` prompts, each `copies` times.
        copies: `num_return_sequences`.
        guide: the guide.
        messages: chat messages or a text, or a list of such with one for each prompt.
        guide_input_ids: `[count // copies, L]` tokens, lists of them, or what a tokenizer returns.
        guide_attention_mask: `[count // copies, L]`, where they are padded.

    Raises:
        ValueError: both are given, or not as many as there are prompts, or padding is unknown.
    """
    if messages is not None and guide_input_ids is not None:
        raise ValueError("messages= and guide_input_ids= are both the guide's prompt: give one")
    if guide_input_ids is None and guide_attention_mask is not None:
        raise ValueError("guide_attention_mask= goes with guide_input_ids=: give both")
    rows: list[Any] | None = None
    if messages is not None:
        found = prompts_or_column("messages", messages)
        rows = _as_many("messages", found if isinstance(found, Column) else [found], count, copies)
        return {"prompt": rows, "guide_prompt": None}
    if guide_input_ids is not None:
        ids = _token_rows(guide_input_ids, guide_attention_mask, guide)
        prompts = [_prompt(each, guide.tokenizer) for each in ids]
        rows = _as_many("guide_input_ids", prompts, count, copies)
    return {"prompt": None, "guide_prompt": rows}


def _as_many(name: str, rows: list[Any], count: int, copies: int) -> list[Any]:
    if len(rows) * copies != count:
        raise ValueError(
            f"{name} has {len(rows)} prompts and input_ids {count // copies}: give one for each"
        )
    return Column(row for row in rows for _ in range(copies))


def _token_rows(given: Any, mask: Any, guide: Model) -> list[list[int]]:
    """Tokens as lists, without padding."""
    if isinstance(given, Mapping):  # a tokenizer's BatchEncoding
        mask = given.get("attention_mask") if mask is None else mask
        given = given["input_ids"]
    if isinstance(given, list | tuple) and given and not isinstance(given[0], int):
        if mask is None:
            rows = [torch.as_tensor(row) for row in given]
            return [_checked(row.flatten(), guide) for row in rows]
        given = [torch.as_tensor(row).tolist() for row in given]
    ids = torch.as_tensor(given)
    ids = ids[None] if ids.dim() == 1 else ids
    if ids.dim() != 2 or ids.is_floating_point() or not ids.numel():
        raise ValueError(
            f"guide_input_ids is {told(given)}: give [B, L] whole numbers, or a list of such rows"
        )
    if mask is None:
        return [_checked(row, guide) for row in ids]
    of_rows = torch.as_tensor(mask)
    of_rows = of_rows[None] if of_rows.dim() == 1 else of_rows
    is_read = left_padded("guide_attention_mask", of_rows, ids)
    return [row[read].tolist() for row, read in zip(ids, is_read, strict=True)]


def _checked(row: Tensor, guide: Model) -> list[int]:
    """The tokens of a row that has no mask.

    Raises:
        ValueError: it begins as if it were padded, or holds a number below 0.
    """
    ids: list[int] = row.tolist()
    if any(not isinstance(id, int) or id < 0 for id in ids):
        raise ValueError(f"guide_input_ids has {told(min(ids))}: give whole numbers from 0 up")
    pad = guide.tokenizer.pad_token_id
    if pad is not None and len(ids) > 1 and pad in (ids[0], ids[-1]) and pad not in guide.end_ids:
        raise ValueError(
            f"guide_input_ids has the pad token {pad} at an end: pass guide_attention_mask="
        )
    return ids


def _prompt(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> RenderedPrompt:
    return RenderedPrompt(str(tokenizer.decode(ids)), ids)
