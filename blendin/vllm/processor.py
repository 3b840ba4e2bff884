"""What vLLM loads: one class for both of its interfaces for logits processors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor as V1Interface

from .adapters import V1Rows, V2Rows
from .arguments import validated
from .worker import requests_of

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2Interface
except ImportError:  # a vLLM without it

    class V2Interface:  # type: ignore[no-redef]
        """There is none to implement."""


class LogitsProcessor(V1Interface, V2Interface):  # type: ignore[misc]
    """BlendIn's decisions in vLLM's sampler, whichever runner vLLM has."""

    def __init__(self, vllm_config: Any, where: Any, is_pin_memory: bool | None = None) -> None:
        """Made by vLLM.

        Args:
            vllm_config: its `VllmConfig`.
            where: V1's device, or V2's state of the requests.
            is_pin_memory: V1's alone.
        """
        device = where if isinstance(where, torch.device) else where.device
        requests = requests_of(vllm_config, device)
        self._v1 = V1Rows(requests) if isinstance(where, torch.device) else None
        self._v2 = None if self._v1 else V2Rows(requests, where)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Checks what a request asks of us, before it runs.

        Raises:
            ValueError: naming what to change.
        """
        validated(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """False: greedy requests are ours, too."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """V1: rows were added, removed or moved."""
        assert self._v1 is not None
        self._v1.update(batch_update)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request enters a slot; whether it is ours."""
        assert self._v2 is not None
        return self._v2.add(req_idx, sampling_params)

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Leaves one token in each row that is ours."""
        if self._v1 is not None:
            self._v1.apply(logits)
        else:
            assert self._v2 is not None
            self._v2.apply(logits, ctx)
        return logits
