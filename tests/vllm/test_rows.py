"""Both of vLLM's interfaces, driven by stand-ins, against the local engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import model
from hypothesis import given
from hypothesis import strategies as st
from stand_in import Engine, Request, V1Engine, V2Engine, params

from blendin import BlendInGenerator, Generation
from blendin.models.loader import load_tokenizer
from blendin.policy import named_policy
from blendin.vllm.worker import WorkerRequests

PAIRS = {
    "one vocabulary": (("llama", "byte-level", 0), ("llama", "byte-level", 1)),
    "two vocabularies": (("qwen2", "byte-level", 0), ("llama", "sentencepiece", 1)),
    "a base without bytes": (("llama", "no-bytes", 0), ("qwen2", "byte-level", 1)),
    "a sliding base": (("gemma3", "sentencepiece", 0), ("llama", "byte-level", 1)),
}
ENGINES = {"v1": V1Engine, "v2": V2Engine}
PROMPTS = [
    "How many apples are there?", "Wie groß ist der Garten?", "你好,世界。", "def add(a, b):",
    "Say 😀.", "What is the capital of France?",
]  # fmt: skip
LENGTH = 14


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """Where a pair's base or guide is saved."""

    @cache
    def saved(name: str, role: str) -> str:
        folder = tmp_path_factory.mktemp(role)
        for each in model(*PAIRS[name][role == "guide"]):
            each.save_pretrained(folder)
        return str(folder)

    return saved


@pytest.fixture(scope="module")
def local(folders: Callable[[str, str], str]) -> Callable[[str], BlendInGenerator]:
    """The local engine, guide and tokenizers from the same folders: saving changes both a little."""

    @cache
    def made(name: str) -> BlendInGenerator:
        lm, _ = model(*PAIRS[name][0])
        return BlendInGenerator(
            (lm, load_tokenizer(folders(name, "base"), {})), folders(name, "guide")
        )

    return made


def worker(folders: Callable[[str, str], str], name: str, **own: Any) -> WorkerRequests:
    """What vLLM's worker has of a pair."""
    lm, _ = model(*PAIRS[name][0])
    eos = lm.generation_config.eos_token_id
    config = SimpleNamespace(
        model="base", served_model_name="base", tokenizer=folders(name, "base"), tokenizer_mode="auto",
        tokenizer_revision=None, trust_remote_code=False, max_model_len=4096, dtype=torch.float64,
        get_vocab_size=lambda: lm.config.vocab_size,
        try_get_generation_config=lambda: {"eos_token_id": eos},
        hf_text_config=lm.config,
    )  # fmt: skip
    additional = {"blendin": {"guide": folders(name, "guide"), **own}}
    return WorkerRequests(
        SimpleNamespace(model_config=config, additional_config=additional), torch.device("cpu")
    )


def request(gen: BlendInGenerator, prompt: str, policy: dict[str, Any], **own: Any) -> Request:
    """What a server makes of a prompt."""
    base = gen.pair.prompts.base([{"role": "user", "content": prompt}])
    extra = {"messages": [{"role": "user", "content": prompt}], **policy}
    given = {"max_tokens": 4 * LENGTH, "all_stop_token_ids": set(gen.base.end_ids)} | own
    return Request(gen.base.encode_prompt(base), params(extra_args={"blendin": extra}, **given))


def engine(kind: str, requests: WorkerRequests, name: str, seed: int, **options: Any) -> Engine:
    lm, _ = model(*PAIRS[name][0])
    return ENGINES[kind](requests, lm, random.Random(seed), **options)


POLICIES: dict[str, dict[str, Any]] = {
    "blend": {}, "all": {"threshold": 1.5}, "soft": {"policy": "blend", "alpha": 0.5},
    "nudge": {"policy": "nudge", "threshold": 0.6}, "defer": {"policy": "defer"},
    "token": {"policy": "nudge-token", "threshold": 1.1}, "base": {"policy": "base"},
    "cap": {"policy": "cap", "max_rate": 0.3, "grace_steps": 2, "threshold": 0.9},
}  # fmt: skip


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("name", PAIRS)
def test_every_policy_as_the_local_engine(
    kind: str,
    name: str,
    folders: Callable[[str, str], str],
    local: Callable[[str], BlendInGenerator],
) -> None:
    requests, gen = worker(folders, name), local(name)
    run = engine(kind, requests, name, seed=1)
    asked = []
    for prompt in PROMPTS[:3]:
        for policy in POLICIES.values():
            run.add(told := request(gen, prompt, policy, max_tokens=LENGTH))
            given = {"policy": "blend", **policy}
            expected = gen.generate(
                prompt,
                policy=named_policy(given.pop("policy"), **given),
                max_new_tokens=LENGTH,
                stop=(),
                speculate="off",
            )
            asked.append((told, expected))
    run.run()
    for told, expected in asked:
        hosted = requests.begin(told.params, told.prompt)
        assert hosted is not None and hosted.sequence.error is None, hosted.sequence.error
        steps = hosted.sequence.output.steps
        assert [t for s in expected.steps for t in s.token_ids][: len(told.outputs)] == told.outputs
        assert steps == expected.steps[: len(steps)]
        assert len(told.outputs) == LENGTH or told.finished == "stop"
