"""vLLM in this process: the model of `BlendInGenerator("vllm:MODEL", guide)`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from typing import Any
from weakref import WeakValueDictionary

import torch

from ..spelling import did_you_mean
from .hosted import HostedModel, Progress, model_of_vllm
from .identity import digest, weights_digest

SCHEME = "vllm:"

OURS = ("logits_processors", "additional_config", "model", "async_scheduling")
"""Engine arguments that blendin sets itself."""
SPREADING = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")

running: WeakValueDictionary[str, VllmEngine] = WeakValueDictionary()
"""The engines of this process, by the name in their configuration."""


def is_vllm(name: str | None) -> bool:
    """Whether a model's name asks for vLLM."""
    return name is not None and name.lower().startswith(SCHEME)


def is_installed() -> bool:
    """Whether vLLM can be imported; a folder of that name is not it."""
    found = find_spec("vllm")
    return found is not None and found.origin is not None


def check(name: str, role: str, options: Mapping[str, Any]) -> None:
    """Refuses what cannot be had, before anything is loaded.

    Raises:
        ValueError: vLLM is not installed, the guide is named, or an option is not vLLM's.
    """
    if role == "guide":
        raise ValueError(
            f"guide={name!r}: the guide runs in this process beside vLLM's model: name it without "
            f"{SCHEME}"
        )
    if not name[len(SCHEME) :].strip():
        raise ValueError(f"{role}={name!r} names no model: write {SCHEME}MODEL")
    if not is_installed():
        raise ValueError(
            f"{role}={name!r} takes vLLM, which is not installed: install the build for your "
            "machine (https://docs.vllm.ai)"
        )
    from vllm.engine.arg_utils import EngineArgs

    known = [each.name for each in fields(EngineArgs)]
    for option, value in options.items():
        if option in OURS:
            raise ValueError(f"{role}_kwargs: blendin sets {option} itself: leave it out")
        if option not in known and value is not None:
            raise ValueError(
                f"{role}_kwargs: vLLM has no engine argument {option}: leave it out"
                f"{did_you_mean(option, known)}"
            )
        if option in SPREADING and value not in (None, 1):
            raise ValueError(
                f"{role}_kwargs: {option}={value} spreads the model over processes, and this one "
                "has vLLM in it: start a server (blendin serve --engine vllm)"
            )


def load(name: str, role: str, **options: Any) -> HostedModel:
    """vLLM's engine, started in this process, as a model.

    Args:
        name: `vllm:` and what vLLM's `model` takes.
        role: "base".
        **options: of `vllm.EngineArgs`: `dtype`, `max_model_len`, `gpu_memory_utilization`,
            `enforce_eager`, `tokenizer`, ...

    Raises:
        ValueError: as `check`; or the model's tokens cannot be aligned.
    """
    check(name, role, options)
    engine = VllmEngine(name[len(SCHEME) :].strip(), options)
    model = model_of_vllm(engine.config, engine.device, name)
    model.engine = engine
    return model


class VllmEngine:
    """A vLLM engine whose rows of logits are decided here.

    Attributes:
        config: its `VllmConfig`.
        device: where its logits are.
        decisions: what its processor asks (`blendin.vllm`); set before the first step.
    """

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        given = {name: value for name, value in options.items() if value is not None}
        if isinstance(given.get("dtype"), torch.dtype):
            given["dtype"] = str(given["dtype"]).removeprefix("torch.")
        self.name = f"{os.getpid()}-{id(self):x}"
        self.decisions: Any = None
        running[self.name] = self
        arguments = EngineArgs(
            model=model,
            logits_processors=["blendin.vllm:LogitsProcessor"],
            additional_config={"blendin": {"engine": self.name}},
            # What a step came to is to be known when it has been made.
            **{"disable_log_stats": True} | given | {"async_scheduling": False},
        )
        with _in_this_process():
            self._engine = LLMEngine.from_engine_args(arguments)
        self.config = self._engine.vllm_config
        self.device = torch.device(self.config.device_config.device)
        self._longest = self.config.model_config.max_model_len

    @property
    def identity(self) -> dict[str, Any]:
        """Of the weights as vLLM holds them, and of the model's configuration."""
        (weights,) = self._engine.apply_model(weights_digest)
        config = self.config.model_config.hf_config.to_diff_dict()
        return {"engine": "vllm", "weights": weights, "config": digest(config)}

    def submit(self, key: str, ids: Sequence[int]) -> None:
        """Begins to run forwards after a text; each of its rows is asked for under the key."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0,
            max_tokens=self._longest - len(ids),
            ignore_eos=True,
            detokenize=False,
            extra_args={"blendin_key": key},
        )
        self._engine.add_request(key, {"prompt_token_ids": list(ids)}, params)

    def generate(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
        """The base alone, greedy, as vLLM does it, each to its length; how many tokens it wrote."""
        from vllm import SamplingParams

        for place, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
            params = SamplingParams(
                temperature=0, max_tokens=length, ignore_eos=True, detokenize=False
            )
            self._engine.add_request(f"alone-{place}", {"prompt_token_ids": list(ids)}, params)
        while self._engine.has_unfinished_requests():
            self._engine.step()
        return sum(lengths)

    def withdraw(self, keys: Sequence[str]) -> None:
        """Ends what was submitted, if it has not ended."""
        self._engine.abort_request(list(keys))

    def step(self) -> list[Progress]:
        """One forward of whatever there is room for; what it came to."""
        return [
            Progress(each.request_id, len(each.outputs[0].token_ids), each.finished)
            for each in self._engine.step()
        ]


@contextmanager
def _in_this_process() -> Iterator[None]:
    """vLLM would otherwise start a process of its own."""
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
