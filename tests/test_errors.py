"""Bad input gets an error that names what to change, before anything is generated."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import generator, model, tokenizer
from tiny import wordpiece_tokenizer

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly, InterventionCap, Nudge
from blendin.policy import named_policy

BASE, GUIDE = ("llama", "byte-level", 0), ("llama", "sentencepiece", 1)


@pytest.fixture
def gen(monkeypatch: pytest.MonkeyPatch) -> BlendInGenerator:
    """A generator whose models must not run."""
    gen = generator(BASE, GUIDE)

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model ran before the input was checked")

    monkeypatch.setattr(gen.base.model, "forward", forbidden)
    monkeypatch.setattr(gen.guide.model, "forward", forbidden)
    return gen


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blend(threshold=-0.1), r"threshold \(τ\) is -0.1"),
        (lambda: Blend(threshold=float("nan")), r"threshold \(τ\) is nan"),
        (lambda: Nudge(threshold=-1), r"threshold \(τ\) is -1"),
        (lambda: Blend(alpha=1.1), r"alpha \(α\) is 1.1"),
        (lambda: Blend(alpha=-0.1), r"alpha \(α\) is -0.1"),
        (lambda: Blend(top_k=0), "top_k is 0"),
        (lambda: Blend(agreement_bonus=-1), r"agreement_bonus \(λ\) is -1"),
        (lambda: Nudge(unit="line"), "unit is 'line'"),  # type: ignore[arg-type]
        (lambda: InterventionCap(max_rate=2), "max_rate is 2"),
        (lambda: InterventionCap(BaseOnly()), "no interventions to cap"),  # type: ignore[arg-type]
        (lambda: named_policy("blind"), "policy 'blind' is unknown; use one of blend"),
        (lambda: named_policy("nudge", alpha=0.5), "'nudge' has no setting alpha"),
    ],
)
def test_policies_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({}, "the base has nothing to read: pass prompt= or base_prompt="),
        ({"base_prompt": "x"}, "the guide has nothing to read: pass prompt= or guide_prompt="),
        ({"base_prompt": "x", "guide_prompt": " "}, "the guide's prompt is empty"),
        ({"prompt": "x", "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prompt": "x", "stop": [""]}, "stop is"),
        ({"prompt": ["x", "y"], "base_prompt": ["z"]}, "lists of one length"),
        ({"prompt": ["x", "y"], "max_new_tokens": [0, 0]}, "max_new_tokens is 0"),
        ({"prompt": ["x", "y"], "policy": [Blend()]}, "policy has 1 values for 2 prompts"),
        ({"prompt": ["x", "y"], "max_batch_size": 0}, "max_batch_size is 0"),
        ({"prompt": ["x", "y"], "max_cached_tokens": 0}, "max_cached_tokens is 0"),
        ({"base_prompt": "x", "guide_prompt": "y", "system": "z"}, "system= goes into prompt="),
    ],
)
def test_prompts_and_limits(gen: BlendInGenerator, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gen.generate(**arguments)


def test_a_setting_that_does_not_exist(gen: BlendInGenerator) -> None:
    with pytest.raises(TypeError, match=r"temprature: no such setting; .*temperature"):
        gen.generate("x", temprature=0.5)


def test_a_prompt_longer_than_a_context(gen: BlendInGenerator, monkeypatch: Any) -> None:
    monkeypatch.setattr(gen.base, "max_length", 10)
    with pytest.raises(ValueError, match=r"base's prompt has \d+ tokens .* holds 10: shorten"):
        gen.generate("How many apples are there in the basket?")
    monkeypatch.setattr(gen.base, "max_length", None)
    monkeypatch.setattr(gen.guide, "max_length", 10)
    with pytest.raises(ValueError, match=r"guide's prompt has \d+ tokens .* holds 10: shorten"):
        gen.generate("How many apples are there in the basket?")


@pytest.mark.parametrize("side", ["base", "guide"])
def test_a_context_that_fills_up_ends_the_text(side: str, monkeypatch: Any) -> None:
    gen = generator(BASE, GUIDE)
    lm = getattr(gen, side)
    policy = Blend(threshold=2)
    free = gen.generate("a", policy=policy, max_new_tokens=30)
    prompt = len(lm.encode_prompt(free.settings[f"{side}_prompt"]))
    monkeypatch.setattr(lm, "max_length", prompt + 9)
    out = gen.generate("a", policy=policy, max_new_tokens=30)
    assert out.stop_reason == "length"
    assert 0 < len(out.steps) <= 10
    assert out.steps == free.steps[: len(out.steps)]


def test_a_policy_that_never_asks_the_guide_needs_no_guide_prompt() -> None:
    gen = generator(BASE, GUIDE)
    assert gen.generate(base_prompt="x", policy=BaseOnly(), max_new_tokens=2).steps
    assert gen.generate(guide_prompt="x", policy=GuideOnly(), max_new_tokens=2).steps


def test_a_model_without_an_end_token(monkeypatch: Any) -> None:
    lm, tok = model(*BASE)
    silent = tok.__class__(tokenizer_object=tok.backend_tokenizer)
    monkeypatch.setattr(lm.generation_config, "eos_token_id", None)
    with pytest.raises(ValueError, match=r"no end token.*set tokenizer.eos_token"):
        BlendInGenerator((lm, silent), model(*GUIDE))


def test_a_guide_without_a_chat_template() -> None:
    lm, tok = model(*BASE)
    plain = tok.__class__(tokenizer_object=tok.backend_tokenizer, eos_token="<|end|>")
    gen = BlendInGenerator(model(*GUIDE), (lm, plain))
    with pytest.raises(ValueError, match=r"no chat template.*pass guide_prompt="):
        gen.generate("x")
    assert gen.generate("x", guide_prompt="y", max_new_tokens=2).steps


def without_template(pair: Any) -> Any:
    lm, tok = pair
    return lm, tok.__class__(tokenizer_object=tok.backend_tokenizer, eos_token="<|end|>")


def test_a_guide_without_a_chat_template_is_told_of_at_loading(caplog: Any) -> None:
    def warnings(*pair: Any, **options: Any) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, "blendin"):
            BlendInGenerator(*pair, **options)
        return [each.message for each in caplog.records if "chat template" in each.message]

    plain, chat = without_template(model(*BASE)), model(*GUIDE)
    (warning,) = warnings(chat, plain)
    for remedy in ("instruction-tuned", "tokenizer.chat_template", "guide_prompt="):
        assert remedy in warning
    assert len(warnings(plain, plain)) == 1
    assert warnings(plain, chat) == []  # the base reads none
    assert warnings(chat, plain, policy=BaseOnly()) == []
    assert len(warnings(chat, plain, policy=GuideOnly())) == 1


@pytest.mark.parametrize("side", [0, 1])
def test_a_tokenizer_that_cannot_be_aligned(side: int) -> None:
    pair = [model(*BASE), model(*GUIDE)]
    pair[side] = (pair[side][0], wordpiece_tokenizer())
    with pytest.raises(ValueError, match=r"\(WordPiece\) cannot be aligned"):
        BlendInGenerator(*pair)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"base=.*no such GGUF file"):
        BlendInGenerator(tmp_path / "absent.gguf", model(*GUIDE))
    with pytest.raises(ValueError, match=r"guide=.*cannot be loaded.*neither a folder"):
        BlendInGenerator(model(*BASE), str(tmp_path / "absent" / "model"))


def test_a_loaded_model_without_a_name_needs_its_tokenizer() -> None:
    lm, _ = model(*BASE)
    with pytest.raises(ValueError, match=r"pass base=\(model, tokenizer\)"):
        BlendInGenerator(lm, model(*GUIDE))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    lm, tok = model(*BASE)
    lm.config.save_pretrained(tmp_path)
    tok.save_pretrained(tmp_path)
    torch.save(lm.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        BlendInGenerator(tmp_path, model(*GUIDE))


def test_remote_code_does_not_run_unasked(tmp_path: Path) -> None:
    tokenizer("byte-level").save_pretrained(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}})
    )
    with pytest.raises(ValueError):
        BlendInGenerator(tmp_path, model(*GUIDE))
    assert not ran.exists()


def test_logits_that_are_not_numbers_stop_the_text() -> None:
    gen = generator(BASE, GUIDE)

    def poisoned(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output * float("nan")

    handle = gen.guide.model.lm_head.register_forward_hook(poisoned)
    try:
        with pytest.raises(FloatingPointError, match=r"not numbers at step \d+; try dtype"):
            gen.generate("x", policy=Blend(threshold=2))
    finally:
        handle.remove()
