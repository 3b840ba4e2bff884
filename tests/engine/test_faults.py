"""What goes wrong with one sequence stays its own, and nothing that is finished is lost."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from conftest import model, tokenizer
from tiny import tiny_model

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly, Interrupted, Nudge

POISON = "@"
PROMPTS = ["How many?", f"An {POISON} sign", "def add(a, b):", "a"]
FAULTS = [(RuntimeError, "CUDA out of memory"), (MemoryError, ""), (IndexError, "out of range")]


def poisoned(role: str, kind: type[Exception], message: str) -> BlendInGenerator:
    """A pair in which one model's forward fails where it reads the poison."""
    lm = tiny_model("llama", tokenizer("byte-level"), 1)
    forward, bad = lm.forward, tokenizer("byte-level").encode(POISON)[0]
    other = model("gemma3", "sentencepiece", 2)
    own = (lm, tokenizer("byte-level"))
    gen = BlendInGenerator(*((own, other) if role == "base" else (other, own)))

    def failing(*args: Any, **kwargs: Any) -> Any:
        if bool((kwargs["input_ids"] == bad).any()):
            raise kind(message)
        return forward(*args, **kwargs)

    lm.forward = failing
    return gen


@pytest.mark.parametrize(("kind", "message"), FAULTS)
@pytest.mark.parametrize("own_cache", [False, True])
@pytest.mark.parametrize("policy", [Blend(2), Nudge(0.7), BaseOnly(), GuideOnly()])
@pytest.mark.parametrize("role", ["base", "guide"])
def test_a_failing_forward_is_its_rows_fault(
    role: str, policy: Any, own_cache: bool, kind: type[Exception], message: str
) -> None:
    gen = poisoned(role, kind, message)
    if own_cache:
        gen.base.varlen = gen.guide.varlen = None  # type: ignore[attr-defined]
    reads_it = policy.reads_base if role == "base" else policy.reads_guide
    outs = gen.generate(PROMPTS, policy=policy, max_new_tokens=8)
    for prompt, out in zip(PROMPTS, outs, strict=True):
        if POISON in prompt and reads_it and (policy != Nudge(0.7) or out.error):
            assert out.error == (message or kind.__name__)
            with pytest.raises(kind) as caught:
                gen.generate(prompt, policy=policy, max_new_tokens=8)
            assert caught.value.output.stop_reason is None  # type: ignore[attr-defined]
        elif out.error is None:
            alone = gen.generate(prompt, policy=policy, max_new_tokens=8)
            assert out.token_ids == alone.token_ids
        else:
            assert POISON in "".join(step.text for step in out.steps) or POISON in prompt
    assert any(out.stop_reason for out in outs)


class Breaks(Blend):
    """A policy with a fault of its own at some point."""

    left = 12

    def mix(self, base: Any, guide: Any, greedy: bool = True) -> Any:
        type(self).left -= 1
        if type(self).left < 0:
            raise ZeroDivisionError("a policy's own fault")
        return super().mix(base, guide, greedy)


def test_results_so_far_travel_with_any_error() -> None:
    gen = BlendInGenerator(model("llama", "byte-level", 1), model("llama", "byte-level", 2))
    Breaks.left = 12
    with pytest.raises(ZeroDivisionError) as caught:
        gen.generate(PROMPTS, policy=Breaks(2), max_new_tokens=[2, 30, 30, 30])
    outputs = caught.value.outputs  # type: ignore[attr-defined]
    assert outputs[0].stop_reason == "length" and len(outputs[0].steps) == 2
    assert len(outputs) == 4 and all(out.steps for out in outputs[1:])
    Breaks.left = 3
    with pytest.raises(ZeroDivisionError) as alone:
        gen.generate("How?", policy=Breaks(2), max_new_tokens=30)
    assert len(alone.value.output.steps) == 3  # type: ignore[attr-defined]


def test_ctrl_c_keeps_what_one_prompt_had(monkeypatch: pytest.MonkeyPatch) -> None:
    gen = BlendInGenerator(model("llama", "byte-level", 1), model("llama", "byte-level", 2))
    forward, calls = gen.base.forward_batch, []

    def interrupted(contexts: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(contexts)

    monkeypatch.setattr(gen.base, "forward_batch", interrupted)
    with pytest.raises(Interrupted, match="0 of 1 prompts") as caught:
        gen.generate("How many?", policy=BaseOnly(), speculate="off", max_new_tokens=30)
    assert len(caught.value.outputs[0].steps) == 3
    for kept in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert kept.outputs == caught.value.outputs and str(kept) == str(caught.value)


def test_a_failed_forward_leaves_no_half_read_cache() -> None:
    """The same context can be read again."""
    from blendin.models.context import Context

    gen = poisoned("base", RuntimeError, "once")
    gen.base.varlen = None  # type: ignore[attr-defined]
    context = Context([5, 6, 7])
    gen.base.forward(context)
    bad = tokenizer("byte-level").encode(POISON)[0]
    context.ids.append(bad)
    with pytest.raises(RuntimeError):
        gen.base.forward(context)
    context.ids[-1] = 8
    torch.testing.assert_close(
        gen.base.forward(context), gen.base.forward(Context([5, 6, 7, 8])), check_dtype=False
    )
