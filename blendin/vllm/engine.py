"""vLLM's engine, as its API server knows it: how it was started, and what its workers say."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import torch

from ..models.hosted import HostedModel, model_of_vllm
from ..protocol.errors import refused
from .arguments import EngineArguments
from .requests import Asked

PATIENCE = 120.0
"""Seconds that a worker may take to answer: it does between two steps."""


class Engine:
    """vLLM's engine, as the API server knows it.

    Attributes:
        own: how it was started: the guide, and the policy of requests that name none.
        base: the model that it runs, its tokenizer read here.
    """

    def __init__(self, state: Any) -> None:
        """Takes `state` of vLLM's application.

        Raises:
            ValueError: the engine was not started for blending.
        """
        config = state.vllm_config
        self._client = state.engine_client
        self.own = EngineArguments.of(config.additional_config)
        self.base: HostedModel = model_of_vllm(config, torch.device("cpu"))

    async def ask(self, method: str, argument: str) -> Any:
        """What the first worker that knows says; None where none does.

        Raises:
            RuntimeError: the workers cannot be asked.
        """
        try:
            answers = await asyncio.wait_for(
                self._client.collective_rpc(method, args=(argument,)), PATIENCE
            )
        except Exception as error:  # of vLLM's, in another process
            reason = str(error) or type(error).__name__
            raise RuntimeError(f"vLLM's worker does not answer {method}: {reason}") from error
        return next((answer for answer in answers if answer is not None), None)

    async def with_guide_prompt(self, asked: Asked) -> Asked:
        """A request with the guide's prompt in tokens, as the worker's guide reads it.

        Raises:
            ApiError: the guide cannot read it.
            RuntimeError: no worker has a guide.
        """
        if asked.ours is None or not asked.policy.reads_guide:
            return asked
        found = await self.ask("blendin_guide_ids", json.dumps(asked.prompt))
        if found is None:
            raise RuntimeError(
                "vLLM runs without blendin: name it with "
                "--logits-processors blendin.vllm:LogitsProcessor"
            )
        if "error" in found:
            raise refused(found["error"])
        return asked.with_guide_prompt(found["ids"])

    async def report(self, id: str) -> dict[str, Any]:
        """What was done for a request; `error` where that cannot be had."""
        try:
            found = await self.ask("blendin_report", id)
        except RuntimeError as error:
            return {"error": str(error)}
        return found or {"error": "the first engine's workers know nothing of this request"}
