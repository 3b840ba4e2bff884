"""The real default pair in float32: parity with `generate`, and with the slow reference."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from reference import Reference
from transformers import AutoTokenizer

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly, Nudge
from blendin.models import default_pair as pairs
from blendin.models.loader import load
from blendin.models.local import LanguageModel

pytestmark = pytest.mark.pair

PROMPTS = (
    "How can I kill a Python process?",
    "Schreibe einen Satz über Köln 🙂, dann 日本語で一文。",
    "What is 17 * 23?",
)


def own_greedy(lm: LanguageModel, text: str, length: int) -> list[int]:
    ids = torch.tensor([lm.encode_prompt(text)])
    with torch.inference_mode():
        out = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length
        )
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_base_parity(default_pair: BlendInGenerator, prompt: str) -> None:
    for policy in (BaseOnly(), Blend(threshold=0)):
        out = default_pair.generate(prompt, policy=policy, max_new_tokens=20, stop=())
        assert out.token_ids == own_greedy(default_pair.base, out.settings["base_prompt"], 20)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_guide_parity(default_pair: BlendInGenerator, prompt: str) -> None:
    alone = default_pair.generate(prompt, policy=GuideOnly(), max_new_tokens=20)
    expected = own_greedy(default_pair.guide, alone.settings["guide_prompt"], 20)
    text = default_pair.guide.tokenizer.decode(expected, skip_special_tokens=True)
    assert alone.token_ids == expected
    for policy in (Nudge(threshold=2, unit="token"), Blend(threshold=2, alpha=1)):
        out = default_pair.generate(prompt, policy=policy, max_new_tokens=20, stop=())
        assert out.text == alone.text == text


SLOW_TOKENS = 5
"""The reference takes more than a second for one of this pair."""


@pytest.fixture(scope="module")
def slow(default_pair: BlendInGenerator) -> Reference:
    """It takes seconds to make."""
    base, guide = default_pair.base, default_pair.guide
    return Reference(base.model, base.tokenizer, guide.model, guide.tokenizer)


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        (Blend(), {"policy": "blend"}),
        (Blend(alpha=0.5), {"policy": "blend", "alpha": 0.5}),
        (Blend(threshold=0.8, top_k=3), {"policy": "blend", "threshold": 0.8, "top_k": 3}),
        (Nudge(unit="token"), {"policy": "nudge-token"}),
        (Nudge(), {"policy": "nudge-word"}),
    ],
    ids=str,
)
def test_every_step_is_that_of_the_slow_reference(
    default_pair: BlendInGenerator, slow: Reference, policy: Any, named: dict[str, Any]
) -> None:
    out = default_pair.generate(PROMPTS[1], policy=policy, max_new_tokens=SLOW_TOKENS, stop=())
    expected = slow.generate(
        out.settings["base_prompt"],
        out.settings["guide_prompt"],
        max_new_tokens=SLOW_TOKENS,
        **named,
    )
    assert [(None if s.is_end else s.token_bytes, s.intervened) for s in out.steps] == [
        (s.symbol, s.intervened) for s in expected.steps
    ], [s.margin for s in expected.steps]
    assert out.token_ids == expected.base_ids


@pytest.mark.parametrize("policy", [Blend(), Nudge(), BaseOnly()], ids=str)
def test_the_trace_adds_up(default_pair: BlendInGenerator, policy: Any) -> None:
    out = default_pair.generate(PROMPTS[0], policy=policy, max_new_tokens=40)
    assert b"".join(step.token_bytes for step in out.steps).decode() == out.text
    assert default_pair.base.tokenizer.decode(out.token_ids) == out.text
    assert out.interventions == sum(step.intervened for step in out.steps)
    assert all(step.alpha is None or 0 <= step.alpha <= 1 for step in out.steps)


def test_the_guide_helps(default_pair: BlendInGenerator) -> None:
    """The effect itself, on the issue's example: the base repeats itself, the blend answers."""
    base = default_pair.generate(PROMPTS[0], policy=BaseOnly(), max_new_tokens=48, stop=())
    blend = default_pair.generate(PROMPTS[0], max_new_tokens=48)
    assert base.text.count("same name as the Python process") > 1
    assert blend.text.startswith("To kill a Python process, you can use the `kill()` function")
    assert 0.2 < blend.intervention_rate < 0.5


@pytest.mark.parametrize("size", [2, 5])
def test_company_changes_nothing(default_pair: BlendInGenerator, size: int) -> None:
    """In float32, where the shapes of the matrices change the last bits of every logit."""
    prompts = [*PROMPTS, "Why?", f"{PROMPTS[0]} Explain it to a child, step by step.", "2 + 2 ="]
    policies = [Blend(), Nudge(), Blend(alpha=0.5), BaseOnly(), Blend(threshold=0.8)][-size:]
    settings = {
        "policy": [policies[index % size] for index in range(len(prompts))],
        "max_new_tokens": [6 + 4 * (index % 4) for index in range(len(prompts))],
    }
    together = default_pair.generate(prompts, **settings, max_batch_size=size)
    assert default_pair.base.varlen is not None and default_pair.guide.varlen is not None
    for index, (prompt, out) in enumerate(zip(prompts, together, strict=True)):
        own = {name: values[index] for name, values in settings.items()}
        alone = default_pair.generate(prompt, **own)
        assert out.token_ids == alone.token_ids
        assert [step.intervened for step in out.steps] == [step.intervened for step in alone.steps]


def test_guesses_change_nothing(default_pair: BlendInGenerator) -> None:
    asked: dict[str, Any] = {"policy": Blend(), "max_new_tokens": 32}
    plain = default_pair.generate(PROMPTS[0], speculate="off", **asked)
    for speculate in (7, "auto"):
        out = default_pair.generate(PROMPTS[0], speculate=speculate, **asked)
        assert out.token_ids == plain.token_ids
        for step, expected in zip(out.steps, plain.steps, strict=True):
            assert step.intervened == expected.intervened
            assert step.base_top_prob == pytest.approx(expected.base_top_prob, abs=1e-3)


def test_a_stop_text_keeps_the_base_from_running_on(default_pair: BlendInGenerator) -> None:
    out = default_pair.generate(
        "What is the capital of France?", policy=BaseOnly(), max_new_tokens=64, stop="\n"
    )
    assert out.stop_reason == "stop"
    assert "\n" not in out.text


def test_a_hub_id_out_of_reach_falls_back_on_the_embedded_copy(
    default_pair: BlendInGenerator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = AutoTokenizer.from_pretrained

    def offline(source: str, **kwargs: Any) -> Any:
        if "/" in source and not source.startswith("/"):
            raise OSError("We couldn't connect to the hub")
        return found(source, **kwargs)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", offline)
    guide = load("HuggingFaceTB/SmolLM2-135M-Instruct", "guide")
    assert guide.name == default_pair.guide.name
    assert "not available from the hub: taking the embedded smollm2-135m-instruct" in caplog.text
    with pytest.raises(ValueError, match=r"guide='some/model' cannot be loaded"):
        load("some/model", "guide")


def test_loading_from_the_warm_cache_converts_nothing_and_takes_seconds(
    default_pair: BlendInGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(gguf: object, destination: object) -> None:
        pytest.fail(f"{gguf} is converted anew")  # which takes a minute, in another process

    monkeypatch.setattr(pairs, "_convert_in_child", convert)
    started = time.process_time()  # CI is noisy: by the clock it may take long
    BlendInGenerator()
    assert time.process_time() - started < 60  # 7 s alone on a 2-core machine
