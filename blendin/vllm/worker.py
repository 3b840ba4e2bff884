"""What runs in vLLM's worker: the pair, the sequences of the requests, and their reports."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from threading import RLock
from typing import Any, Protocol

import torch
from torch import Tensor

from ..engine.hosted import HostedRows, HostedSequence, Row
from ..engine.pair import Pair
from ..engine.sequence import Limits, SequenceState
from ..models import loader
from ..models.context import Context
from ..models.hosted import Engine, model_of_vllm
from ..models.vllm_engine import running
from ..policy import Blend, described
from ..protocol.errors import ApiError
from ..protocol.ours import read_ours, token_ids
from ..protocol.report import report
from ..sampling import Sampling
from .arguments import NAME, EngineArguments, RequestArguments

logger = logging.getLogger("blendin")

KEPT = 1024
"""Requests that have left the batch and are remembered: preempted ones, and those with a report."""

FIRST_ROOM = 256
"""Tokens that the guide's cache has room for at first, beyond its prompt."""


class Requests(Protocol):
    """What an adapter needs, whoever keeps the sequences."""

    def begin(self, params: Any, prompt: Sequence[int]) -> HostedSequence | None:
        """The sequence of a request that enters the batch, or comes back; None: it is not ours."""
        ...

    def suspend(self, hosted: HostedSequence) -> None:
        """It has left the batch: it has ended, or waits."""
        ...

    def decide(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Leaves one token in each row: all others become -inf."""
        ...


class WorkerRequests:
    """The requests of one worker.

    Attributes:
        pair: vLLM's model, and the guide.
        rows: decides.
        policy: of requests that name none.
    """

    def __init__(self, vllm_config: Any, device: torch.device) -> None:
        """Loads the guide beside vLLM's model.

        Args:
            vllm_config: its `VllmConfig`.
            device: where its logits are.

        Raises:
            ValueError: the configuration has no guide, or it cannot be loaded.
        """
        own = EngineArguments.of(vllm_config.additional_config)
        options: dict[str, Any] = {"dtype": own.guide_dtype, **own.guide_kwargs}
        if device.type != "cpu":
            options.setdefault("device_map", {"": device})
        with torch.inference_mode(False), loader.without_garbage_collection():
            guide = loader.load(own.guide, "guide", **options)
            self.pair = Pair(model_of_vllm(vllm_config, device), guide)
        self.policy = own.policy
        self.rows = HostedRows(self.pair, own.max_cached_tokens)
        self._begun: OrderedDict[str, _Begun] = OrderedDict()
        self._lock = RLock()

    def begin(self, params: Any, prompt: Sequence[int]) -> HostedSequence | None:
        """As `Requests.begin`."""
        arguments = RequestArguments.begun(params.extra_args, self.policy)
        if arguments is None:
            return None
        with self._lock:
            begun = self._begun.get(arguments.key)
            if begun is None:
                begun = self._begin(params, arguments, list(prompt))
                self._begun[arguments.key] = begun
            begun.is_running = True
            begun.hosted.resumed()
            return begun.hosted

    def suspend(self, hosted: HostedSequence) -> None:
        """As `Requests.suspend`; of those that have left the last `KEPT` are remembered."""
        with self._lock:
            self.rows.suspend(hosted)
            for key, begun in self._begun.items():
                if begun.hosted is hosted:
                    begun.is_running = False
                    self._begun.move_to_end(key)
                    break
            left = [key for key, begun in self._begun.items() if not begun.is_running]
            for key in left[: max(0, len(left) - KEPT)]:
                del self._begun[key]

    def decide(self, rows: Sequence[Row], logits: Tensor) -> None:
        """As `Requests.decide`; the row of a sequence that has failed stays as it is."""
        endless = [each.row for each in rows if each.hosted.never_ends]
        if endless:
            places = torch.tensor(endless, device=logits.device)[:, None]
            logits[places, self.pair.tables.base_ends] = -torch.inf
        _leave_one_token(rows, self.rows.decide(rows, logits), logits)
        for row in rows:
            if row.hosted.sequence.done:
                self.rows.suspend(row.hosted)

    def guide_ids(self, reads: Mapping[str, Any]) -> list[int]:
        """The tokens of the guide's prompt.

        Args:
            reads: as `Ours.guide_reads` gives it.

        Raises:
            ValueError: there are none, or more than the guide's context holds; or its chat template
                cannot render the conversation.
        """
        guide = self.pair.guide
        if "messages" in reads:
            kwargs = reads.get("chat_template_kwargs")
            ids = guide.encode_prompt(self.pair.prompts.guide(reads["messages"], kwargs))
        elif "guide_prompt" in reads:
            ids = guide.encode_prompt(reads["guide_prompt"])
        else:
            ids = reads["guide_prompt_ids"]
        if not ids:
            raise ValueError("the guide's prompt is empty: give a text with something in it")
        ids = token_ids("guide_prompt_ids", ids, len(guide.vocabulary))
        if guide.max_length is not None and len(ids) > guide.max_length:
            raise ValueError(
                f"the guide's prompt has {len(ids)} tokens and the context of {guide.name} holds "
                f"{guide.max_length}: shorten the prompt or choose another guide"
            )
        return ids

    def report(self, id: str) -> dict[str, Any] | None:
        """What was done for the last request with an id of the caller's; None: there is none."""
        with self._lock:
            for begun in reversed(self._begun.values()):
                if begun.arguments.id == id:
                    return begun.report()
        return None

    def stats(self) -> dict[str, Any]:
        """What the guide has in memory and has done so far."""
        with self._lock:
            return {
                "running": sum(begun.is_running for begun in self._begun.values()),
                "remembered": len(self._begun),
                "guide_cached_tokens": self.rows.cached_tokens,
                "guide_cache_bytes": self.rows.cache_bytes,
                "decision_seconds": self.rows.seconds,
                "guide_seconds": self.rows.guide_seconds,
                "guide_forwards": self.pair.guide.forwards,
                "base_forwards": self.pair.base.forwards,
                "interventions": sum(
                    each.hosted.sequence.interventions for each in self._begun.values()
                ),
            }

    def _begin(self, params: Any, arguments: RequestArguments, prompt: list[int]) -> _Begun:
        policy = arguments.ours.policy
        sampling = Sampling(
            do_sample=params.temperature > 0,
            temperature=params.temperature,
            top_p=params.top_p if params.temperature > 0 else 1.0,
            min_p=params.min_p if params.temperature > 0 else 0.0,
            sampling_top_k=params.top_k if params.temperature > 0 and params.top_k > 0 else None,
            repetition_penalty=params.repetition_penalty,
            seed=params.seed if params.temperature > 0 else None,
        )
        error: Exception | None = arguments.error
        guide: Context | None = None
        if policy.reads_guide:
            try:
                ids = self.guide_ids(arguments.ours.guide_reads([]))
                guide = Context(ids, expected=len(ids) + FIRST_ROOM)
            except ValueError as refused:
                error = refused
        masks = params.structured_outputs, params.bad_words, params.allowed_token_ids
        is_constrained = any(each for each in masks)
        # vLLM looks for stop texts itself; known here, no step after them is reported. It looks
        # later where so many tokens are due, and a grammar may not allow an end there.
        stop = () if is_constrained or params.min_tokens else tuple(params.stop or ())
        limits = Limits(params.max_tokens or 2**30, stop)
        sequence = SequenceState(
            self.pair.alignment,
            Context(prompt),
            guide,
            policy=policy,
            limits=limits,
            sampling=sampling,
            index=0,
            settings={
                "base": self.pair.base.name,
                "guide": self.pair.guide.name,
                "policy": described(policy),
                **asdict(limits),
                **asdict(sampling),
            },
            trace_top=arguments.ours.candidates,
        )
        if error is not None:
            logger.error("a request goes on without the guide: %s", error)
            sequence.fail(error)
        hosted = HostedSequence(
            sequence,
            is_constrained=is_constrained,
            stop_ids=frozenset(params.all_stop_token_ids),
            never_ends=bool(params.ignore_eos),
        )
        return _Begun(arguments, hosted)


class _Begun:
    """A request, while it runs and for a while after."""

    def __init__(self, arguments: RequestArguments, hosted: HostedSequence) -> None:
        self.arguments, self.hosted, self.is_running = arguments, hosted, True

    def report(self) -> dict[str, Any]:
        sequence = self.hosted.sequence
        told = report(sequence.output, self.arguments.ours.tells_steps)
        del told["base_forwards"]  # a row may be decided twice: vLLM alone knows its forwards
        # vLLM may end a text by itself, so that this was not counted last.
        told["guide_forwards"] = 0 if sequence.guide is None else sequence.guide.forwards
        if sequence.sampling.do_sample:
            told["seed"] = sequence.sampling.seed
        return told


def _leave_one_token(rows: Sequence[Row], tokens: Sequence[int | None], logits: Tensor) -> None:
    """All others become -inf; a row without a token stays as it is."""
    decided = [
        (each.row, token) for each, token in zip(rows, tokens, strict=True) if token is not None
    ]
    if decided:
        places, chosen = torch.tensor(decided, device=logits.device).unbind(dim=1)
        logits[places] = -torch.inf
        logits[places, chosen] = 0.0


class EngineRequests:
    """The texts of an engine that is driven from this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, params: Any, prompt: Sequence[int]) -> Any:
        """As `Requests.begin`."""
        key = (params.extra_args or {}).get("blendin_key")
        return None if key is None else self._engine.decisions.begin(key)

    def suspend(self, hosted: Any) -> None:
        """Nothing: what has ended or waits is left by whoever drives the engine."""

    def decide(self, rows: Sequence[Row], logits: Tensor) -> None:
        """As `Requests.decide`."""
        _leave_one_token(rows, self._engine.decisions.decide(rows, logits), logits)


_workers: dict[int, WorkerRequests] = {}


def requests_of(vllm_config: Any, device: torch.device) -> Requests:
    """One for each engine of this process: vLLM may make its processors more than once."""
    own = (vllm_config.additional_config or {}).get(NAME, {})
    if isinstance(own, dict) and "engine" in own:
        return EngineRequests(running[own["engine"]])
    key = id(vllm_config.model_config)
    if key not in _workers:
        _workers[key] = WorkerRequests(vllm_config, device)
    return _workers[key]


class WorkerExtension:
    """What `collective_rpc` may ask a worker: name it with `--worker-extension-cls`."""

    def blendin_guide_ids(self, ours: str) -> dict[str, Any] | None:
        """The guide's prompt of a request, before it runs; None: no guide is in this worker.

        Args:
            ours: of its part of `vllm_xargs`, what the guide is to read.

        Returns:
            `ids`, its tokens, or `error`, what is wrong with it.
        """
        for each in _workers.values():
            try:
                asked = read_ours({NAME: json.loads(ours)}, Blend())
                return {"ids": each.guide_ids(asked.guide_reads([]))}
            except (ValueError, ApiError) as error:
                return {"error": str(error)}
        return None

    def blendin_report(self, id: str) -> dict[str, Any] | None:
        """What was done for the request with this id; None: none that is remembered."""
        found = (each.report(id) for each in _workers.values())
        return next((report for report in found if report is not None), None)

    def blendin_stats(self) -> list[dict[str, Any]]:
        """What the guides in this worker have in memory and have done so far."""
        return [each.stats() for each in _workers.values()]
