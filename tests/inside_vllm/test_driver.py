"""An engine in this process, driven by the generator, against the local engine."""

from __future__ import annotations

import random
from threading import Thread
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from conftest import generator, model
from stand_in import Request, V1Engine

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly, Nudge
from blendin.engine.driver import Driver
from blendin.engine.pair import Pair
from blendin.models.hosted import HostedModel, Progress
from blendin.models.vllm_engine import check
from blendin.vllm.worker import EngineRequests

BASE, GUIDE = ("qwen2", "byte-level", 0), ("llama", "sentencepiece", 1)
PROMPTS = ["How many apples are there?", "你好,世界。", "def add(a, b):", "Say 😀."]


class InProcess(V1Engine):
    """vLLM's engine as `models.hosted.Engine`."""

    decisions: Any = None

    def __init__(self, longest: int = 512, **options: Any) -> None:
        super().__init__(EngineRequests(self), model(*BASE)[0], random.Random(3), **options)
        self.longest, self.by_key = longest, dict[str, Request]()

    identity: ClassVar[dict[str, Any]] = {"engine": "stand-in"}

    def submit(self, key: str, ids: list[int]) -> None:
        own = SimpleNamespace(
            extra_args={"blendin_key": key},
            all_stop_token_ids=set(),
            ignore_eos=True,
            max_tokens=self.longest - len(ids),
        )
        self.by_key[key] = Request(list(ids), own)
        self.add(self.by_key[key])

    def withdraw(self, keys: list[str]) -> None:
        for key in keys:
            if (request := self.by_key.pop(key, None)) is not None:
                request.finished = "abort"
                self.waiting = [each for each in self.waiting if each is not request]

    def step(self) -> list[Progress]:  # type: ignore[override]
        before = {key: len(each.outputs) for key, each in self.by_key.items()}
        super().step()
        return [
            Progress(key, len(each.outputs), each.finished is not None)
            for key, each in self.by_key.items()
            if len(each.outputs) > before[key]
        ]


def driven(trouble: float = 0.3, longest: int = 512) -> tuple[BlendInGenerator, InProcess]:
    """The tiny pair, its base run by an engine."""
    local = generator(BASE, GUIDE)
    gen = BlendInGenerator.__new__(BlendInGenerator)
    engine = InProcess(longest, trouble=trouble)
    base = HostedModel(
        "engine", local.base.tokenizer, size=len(local.base.vocabulary),
        end_ids=local.base.end_ids, max_length=longest - 1, device=torch.device("cpu"),
        precision="float64",
    )  # fmt: skip
    base.engine = engine
    gen.policy, gen.base, gen.guide, gen.pair = Blend(), base, local.guide, Pair(base, local.guide)
    gen.pair.driver = Driver(gen.pair)
    return gen, engine


@pytest.mark.parametrize("trouble", [0.0, 0.3])
def test_lists_and_streams_are_the_local_engines(trouble: float) -> None:
    gen, engine = driven(trouble)
    settings: dict[str, Any] = {"max_new_tokens": 16, "speculate": "off"}
    policies = [Blend(), Nudge(0.9), BaseOnly(), GuideOnly()]
    local = generator(BASE, GUIDE)
    for own in ({}, {"do_sample": True, "seed": 3}):
        expected = local.generate(PROMPTS, policy=policies, **settings, **own)
        told = gen.generate(PROMPTS, policy=policies, **settings, **own, max_batch_size=3)
        for one, other in zip(told, expected, strict=True):
            assert one.error is None
            assert (one.text, one.steps, one.stop_reason) == (
                other.text, other.steps, other.stop_reason,
            )  # fmt: skip
    streams = [gen.stream(prompt, policy=Blend(1.1), **settings) for prompt in PROMPTS]
    steps = [[next(stream)] for stream in streams]  # each makes steps for all
    for stream, own_steps in zip(streams, steps, strict=True):
        own_steps.extend(stream)
    for own_steps, prompt in zip(steps, PROMPTS, strict=True):
        assert own_steps == local.generate(prompt, policy=Blend(1.1), **settings).steps
    assert not engine.by_key


def test_given_texts_are_scored() -> None:
    gen, engine = driven()
    local = generator(BASE, GUIDE)
    texts = ["There are 12 apples.", " no", "世界"]
    for policy in (Blend(0.9), BaseOnly(), Nudge(), GuideOnly()):
        told = gen.score(PROMPTS[0], texts, policy=policy)
        for one, other in zip(told, local.score(PROMPTS[0], texts, policy=policy), strict=True):
            assert one.token_ids == other.token_ids and one.interventions == other.interventions
            assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-9)
    assert not engine.by_key


def test_threads_share_the_engine() -> None:
    gen, _ = driven()
    local = generator(BASE, GUIDE)
    expected = [local.generate(each, max_new_tokens=12).steps for each in PROMPTS]
    told: dict[int, Any] = {}

    def run(place: int) -> None:
        told[place] = gen.generate(PROMPTS[place], max_new_tokens=12).steps

    threads = [Thread(target=run, args=(place,)) for place in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [told[place] for place in range(len(PROMPTS))] == expected


def test_what_is_left_early_is_withdrawn() -> None:
    gen, engine = driven()
    stream = gen.stream(PROMPTS[0], max_new_tokens=50, stop=())
    next(stream)
    assert engine.by_key
    stream.close()
    assert not engine.by_key
    batch = gen.stream_batch(PROMPTS, max_new_tokens=[4, 60, 60, 60], stop=[[]] * 4)
    next(batch)
    batch.close()
    assert not engine.by_key


def test_a_full_context_ends_the_text() -> None:
    gen, _ = driven(longest=40)
    out = gen.generate(PROMPTS[0], max_new_tokens=100, stop=(), policy=BaseOnly(), seed=None)
    prompt = len(gen.base.encode_prompt(str(out.settings["base_prompt"])))
    assert out.stop_reason in ("length", "end")
    if out.stop_reason == "length":
        assert len(out.token_ids) == 40 - prompt
    expected = generator(BASE, GUIDE).generate(
        PROMPTS[0], max_new_tokens=40 - prompt, stop=(), policy=BaseOnly(), speculate="off"
    )
    assert out.steps == expected.steps


@pytest.mark.parametrize(
    ("name", "role", "options", "told"),
    [
        ("vllm:gpt2", "guide", {}, "guide runs in this process"),
        ("vllm:", "base", {}, "names no model"),
        ("vllm:gpt2", "base", {}, "not installed"),
    ],
)
def test_what_cannot_be_is_told_first(
    name: str, role: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        check(name, role, options)
    with pytest.raises(ValueError, match=told):
        BlendInGenerator(**{"base": model(*BASE), "guide": model(*GUIDE)} | {role: name})


@pytest.mark.parametrize("speculate", ["lookup", "guide", 4])
def test_drafts_are_the_engines_own_affair(speculate: Any) -> None:
    gen, _ = driven()
    with pytest.raises(ValueError, match="speculate"):
        gen.generate("Hi", speculate=speculate)


def test_requests_beside_the_driven_ones_are_the_engines_own() -> None:
    gen, engine = driven(trouble=0.0)
    params = SimpleNamespace(
        extra_args=None, all_stop_token_ids=set(), ignore_eos=True, max_tokens=6
    )
    beside = Request(gen.base.encode_prompt("Question: Hi\nAnswer:"), params)
    alone = Request(list(beside.prompt), params)
    engine.add(beside)
    out = gen.generate(PROMPTS[0], max_new_tokens=12, stop=(), policy=Blend(1.1))
    while not alone.finished:
        alone.take(int(engine.logits(alone, [], len(alone.ids))[-1].argmax()))
    assert beside.outputs == alone.outputs
    expected = generator(BASE, GUIDE).generate(
        PROMPTS[0], max_new_tokens=12, stop=(), policy=Blend(1.1), speculate="off"
    )
    assert out.steps == expected.steps
