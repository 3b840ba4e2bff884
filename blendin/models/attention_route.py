"""Our attention in place of a transformers model's, for the forwards of one thread alone.

A transformers model asks its registry for an attention function each time that it attends. Within
`routed` the registry gives ours, to the thread that entered it and to no other; the model, its
config and the functions that are registered stay as they are. Anybody may use the model meanwhile.
torch.compile leaves both out of its graphs: they differ from thread to thread and layer to layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from ..forks import Lock
from .varlen_batch import VarlenBatch, VarlenUnsupported

_batch: ContextVar[VarlenBatch | None] = ContextVar("blendin_varlen_batch", default=None)
_installing = Lock()


@contextmanager
def routed(batch: VarlenBatch) -> Iterator[None]:
    """Within it, this thread's models attend as `batch` says.

    Raises:
        VarlenUnsupported: where this version of transformers looks attention up otherwise.
    """
    _install()
    token = _batch.set(batch)
    try:
        yield
    finally:
        _batch.reset(token)


def no_mask(dtype: torch.dtype, device: torch.device) -> Tensor:
    """`[1, 1, 1, 1]`, a mask that transformers passes on as it is and that nothing reads.

    Without one it would make a causal mask over the whole row.
    """
    return torch.zeros(1, 1, 1, 1, dtype=dtype, device=device)


def _install() -> None:
    """Lets the registry ask for a thread's batch first; once a process."""
    with _installing:
        own: Callable[..., Any] | None = getattr(AttentionInterface, "get_interface", None)
        if own is None:
            raise VarlenUnsupported("this version of transformers does not look attention up")
        if hasattr(own, "blendin_route"):
            return

        @torch.compiler.disable
        @functools.wraps(own)
        def get_interface(self: Any, attn_implementation: Any, default: Any) -> Any:
            if _batch.get() is not None:
                return _attention
            return own(self, attn_implementation, default)

        vars(get_interface)["blendin_route"] = True
        AttentionInterface.get_interface = get_interface  # type: ignore[method-assign]


@torch.compiler.disable
def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sliding_window: int | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """What a model calls in place of its own attention; causal masks are made by the batch."""
    batch = _batch.get()
    assert batch is not None
    if attention_mask is not None and attention_mask.numel() > 1:
        raise VarlenUnsupported("it makes masks of its own")
    how.pop("position_ids", None)
    return batch.attention(module, query, key, value, sliding_window, **how), None
