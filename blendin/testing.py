"""Checks of the contract, for a policy or a model of your own.

    from blendin.testing import check_policy
    check_policy(gen, MyPolicy(), ["How many apples?", "def add(a, b):"])

Each check raises an `AssertionError` that names the first step that is wrong. What is compared is
greedy and without stop texts; use float64 or float32 models, since bfloat16 may decide near-ties
either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .engine.request import Request
from .generator import BlendInGenerator
from .models.context import Context
from .policy import BaseOnly, Blend, GuideOnly, Nudge, Policy
from .prompts import Prompt
from .trace import Generation

PROMPTS = (
    "How many apples are left?",
    "def add(a, b):\n    return",
    "  two  spaces, a café and 你好 👍",
)
"""Short, and of different kinds."""


class PlainStep(NamedTuple):
    """One step of the plain loop: the emitted bytes, and whether the guide was run."""

    data: bytes
    is_end: bool
    intervened: bool


@torch.inference_mode()
def plain_loop(
    gen: BlendInGenerator, prompt: Prompt, policy: Policy, max_new_tokens: int = 32
) -> list[PlainStep]:
    """What a policy decides, one step and one sequence at a time, nothing cached or batched.

    Args:
        gen: the models.
        prompt: a text or messages.
        policy: its `intervenes` and `mix` see one row at a time.
        max_new_tokens: steps at most.
    """
    pair = gen.pair
    request = Request.of(prompt, None, None, default_policy=policy, speculate="off")
    sequence = request.read(pair)
    memory, steps = policy.memory(), list[PlainStep]()
    refused = 0
    while len(steps) < max_new_tokens and not (steps and steps[-1].is_end):
        base = mixture = None
        interventions = sum(step.intervened for step in steps)
        own = not policy.reads_base
        if policy.reads_base and memory.asks_base:
            assert sequence.base is not None
            base = pair.predict_base(pair.base.forward(Context(list(sequence.base.ids))))
            asks = sequence.guide is not None and bool(policy.intervenes(base, greedy=True))
            asks = asks and memory.allows(len(steps), interventions)
            own = not (asks and sequence.guide_catches_up())
        if own and policy.reads_base:
            assert base is not None  # a policy is not asked to go on alone where the guide must
            symbol = int(base.choice)
        else:
            assert sequence.guide is not None
            returned = pair.guide.forward(Context(list(sequence.guide.ids)))
            guide = pair.predict_guide(returned, candidates_only=not own)
            if own:
                symbol = int(guide.choice)
            else:
                mixture = policy.mix(base, guide, greedy=True)
                symbol = int(mixture.choice)
        is_end, data = symbol == pair.tables.end, pair.alignment.data(symbol)
        if mixture is not None and not memory.accepts(data):
            refused += 1
            assert refused <= max_new_tokens, f"{policy}: no symbol is ever accepted"
            continue
        steps.append(PlainStep(data, is_end, mixture is not None or not policy.reads_base))
        if is_end:
            break
        if not policy.reads_base:
            sequence.context("guide").ids.append(pair.alignment.token("guide", symbol))
        elif mixture is None:
            sequence.append_base(symbol)
        else:
            sequence.append_both(symbol)
    return steps


def check_plain(
    gen: BlendInGenerator,
    policy: Policy,
    prompts: Sequence[Prompt] = PROMPTS,
    max_new_tokens: int = 32,
) -> None:
    """`generate` emits what the plain loop emits: caches, drafts and lazy reading change nothing.

    Args:
        gen: the models.
        policy: what to do at a step.
        prompts: texts or messages.
        max_new_tokens: steps at most.

    Raises:
        AssertionError: with the prompt and the first step that differs.
    """
    for prompt in prompts:
        expected = plain_loop(gen, prompt, policy, max_new_tokens)
        out = gen.generate(prompt, policy=policy, max_new_tokens=max_new_tokens, stop=())
        found = [PlainStep(s.token_bytes, s.is_end, s.intervened) for s in out.steps]
        _check_equal(expected, found, f"{prompt!r}: the plain loop and generate() differ")


def check_company(
    gen: BlendInGenerator,
    policy: Policy,
    prompts: Sequence[Prompt] = PROMPTS,
    max_new_tokens: int = 32,
) -> None:
    """A sequence emits the same alone, in a batch, in another policy's company, and drafted.

    Args:
        gen: the models.
        policy: what to do at a step.
        prompts: texts or messages.
        max_new_tokens: steps at most.

    Raises:
        AssertionError: with the prompt and the first step that differs.
    """
    alone = [
        gen.generate(prompt, policy=policy, max_new_tokens=max_new_tokens, stop=(), speculate="off")
        for prompt in prompts
    ]
    others = [Blend(threshold=2), BaseOnly(), Nudge()]
    mixed = [others[place % len(others)] for place in range(len(prompts))]
    company = {
        "in a batch": gen.generate(prompts, policy=policy, max_new_tokens=max_new_tokens, stop=()),
        "beside other policies": gen.generate(
            [*prompts, *prompts],
            policy=[*mixed, *[policy] * len(prompts)],
            max_new_tokens=max_new_tokens,
            stop=(),
        )[len(prompts) :],
        "with drafts": [
            gen.generate(prompt, policy=policy, max_new_tokens=max_new_tokens, stop=(), speculate=3)
            for prompt in prompts
            if not gen.pair.is_async
        ],
    }
    for where, outs in company.items():
        for prompt, one, other in zip(prompts, alone, outs, strict=False):
            _check_equal(
                [(s.token_bytes, s.is_end, s.intervened) for s in one.steps],
                [(s.token_bytes, s.is_end, s.intervened) for s in other.steps],
                f"{prompt!r}: alone and {where} differ",
            )


def check_trace(out: Generation) -> None:
    """The trace adds up: text, bytes, interventions and α (docs/contract.md).

    Args:
        out: a generation that has ended.

    Raises:
        AssertionError: naming what does not add up.
    """
    data = b"".join(step.token_bytes for step in out.steps)
    text = "".join(step.text for step in out.steps)
    whole = data.decode("utf-8", "replace")
    assert text == out.text, "the steps' texts do not join to the text"
    if out.stop_reason == "stop":
        assert whole.startswith(text) and len(text) < len(whole), "the text is not cut"
    else:
        assert text == whole, "the steps' texts are not their bytes"
    count = sum(step.intervened for step in out.steps)
    rate = count / len(out.steps) if out.steps else 0.0
    assert out.interventions == count, "the interventions are not those of the steps"
    assert out.intervention_rate == rate, "the intervention rate is not that of the steps"
    for number, step in enumerate(out.steps):
        alpha = step.alpha
        assert alpha is None or 0 <= alpha <= 1, f"step {number}: α is {alpha}"
        assert step.intervened or step.source == "base", f"step {number}: no intervention"
        assert step.intervened or alpha is None, f"step {number}: α without an intervention"
        assert step.is_end == (number == len(out.steps) - 1 and out.stop_reason == "end")


def check_policy(
    gen: BlendInGenerator,
    policy: Policy,
    prompts: Sequence[Prompt] = PROMPTS,
    max_new_tokens: int = 32,
) -> None:
    """All of it, for a policy of your own.

    Args:
        gen: the models, better small.
        policy: yours.
        prompts: texts or messages.
        max_new_tokens: steps at most.

    Raises:
        AssertionError: for the first thing that is wrong.
    """
    check_plain(gen, policy, prompts, max_new_tokens)
    check_company(gen, policy, prompts, max_new_tokens)
    for out in gen.generate(list(prompts), policy=policy, max_new_tokens=max_new_tokens, stop=()):
        check_trace(out)


def check_model(
    gen: BlendInGenerator, prompts: Sequence[Prompt] = PROMPTS, max_new_tokens: int = 32
) -> None:
    """All of it, for models of your own: under every kind of policy, as base and as guide.

    Args:
        gen: with your model as base, guide or both.
        prompts: texts or messages.
        max_new_tokens: steps at most.

    Raises:
        AssertionError: for the first thing that is wrong.
    """
    policies = (BaseOnly(), GuideOnly(), Blend(), Blend(threshold=2), Nudge(threshold=2))
    for policy in policies:
        check_policy(gen, policy, prompts, max_new_tokens)


def _check_equal(expected: Sequence[object], found: Sequence[object], what: str) -> None:
    if list(expected) == list(found):
        return
    pairs = enumerate(zip(expected, found, strict=False))
    step = next((i for i, (one, other) in pairs if one != other), min(len(expected), len(found)))
    one, other = (list(steps)[step : step + 1] for steps in (expected, found))
    raise AssertionError(f"{what} at step {step}: {one or 'nothing'} and {other or 'nothing'}")
