"""How a model is read in pieces is asked of the model: each way that can be wrong is found out."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from conftest import model, tokenizer
from tiny import end_token_ids
from transformers import LlamaConfig, LlamaForCausalLM

from blendin import Blend, BlendInGenerator
from blendin.models.context import Context
from blendin.models.local import LanguageModel
from blendin.models.trial import relative_error
from blendin.testing import check_policy


class Plain(LlamaForCausalLM):
    """A llama whose attention cannot be exchanged."""

    _supports_attention_backend = False


class Output(dict[str, Any]):
    __getattr__ = dict.__getitem__


class RenamedState(Plain):
    def forward(self, input_ids: Any, state: Any = None, use_cache: bool = True, **_: Any) -> Any:
        out = super().forward(input_ids, past_key_values=state, use_cache=use_cache)
        return Output(logits=out.logits, state=out.past_key_values)


class RenamedArgument(Plain):
    """As transformers means to rename it: the output keeps the name."""

    def forward(self, input_ids: Any, cache: Any = None, use_cache: bool = True, **_: Any) -> Any:
        out = super().forward(input_ids, past_key_values=cache, use_cache=use_cache)
        return Output(logits=out.logits, past_key_values=out.past_key_values)


class Positionless(Plain):
    """Counts from 0 in every forward unless it is told."""

    def forward(self, input_ids: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1])[None]
        return super().forward(input_ids, position_ids=position_ids, **kwargs)


class OneByOne(Plain):
    """Over a live state it reads several tokens as if each stood alone, as Mamba's kernels do."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        held = 0 if past_key_values is None else past_key_values.get_seq_length()
        if held and input_ids.shape[1] > 1:
            input_ids = input_ids.clone()
            input_ids[:, 0] = 0
        return super().forward(input_ids, past_key_values=past_key_values, **kwargs)


class Forgetful(Plain):
    """Swallows its state."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        return super().forward(input_ids, past_key_values=None, **kwargs)


class Stateless(Plain):
    def forward(self, input_ids: Any, use_cache: bool = True, **_: Any) -> Any:
        return Output(logits=super().forward(input_ids, use_cache=False).logits)


class KeepsItself(Plain):
    """Keeps one state in the module, whosever text it is."""

    held: Any = None

    def forward(self, input_ids: Any, use_cache: bool = True, **kwargs: Any) -> Any:
        if not use_cache:
            return super().forward(input_ids, use_cache=False)
        past = self.held if kwargs.get("past_key_values") is not None else None
        kwargs["past_key_values"] = past
        out = super().forward(input_ids, use_cache=True, **kwargs)
        type(self).held = out.past_key_values
        return out


class NoRollback(Plain):
    """Its state cannot be cropped, and does not say so."""

    def forward(self, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        out = super().forward(input_ids, past_key_values=past_key_values, **kwargs)
        if out.past_key_values is not None:
            out.past_key_values.crop = self.refuse
        return out

    @staticmethod
    def refuse(count: int) -> None:
        raise ValueError("call activate_past_recording() first")


class WrongRollback(NoRollback):
    @staticmethod
    def refuse(count: int) -> None:
        """Nothing: what was read stays."""


class Backwards(Plain):
    """What follows changes what came before."""

    def forward(self, input_ids: Any, **kwargs: Any) -> Any:
        return super().forward(input_ids.flip(1).cumsum(1).flip(1) % 300, **kwargs)


class Broken(Plain):
    def forward(self, input_ids: Any, **kwargs: Any) -> Any:
        raise ValueError("pixel_values are missing")


class Masked(Plain):
    """Has a mask token put after the text by its own `generate`."""

    def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> Any:
        return {"input_ids": torch.nn.functional.pad(input_ids, (0, 1), value=3)}


def made(kind: Any) -> tuple[Any, Any]:
    tok = tokenizer("byte-level")
    reference = model("llama", "byte-level", 1)[0]
    config = LlamaConfig(**reference.config.to_dict())
    lm = kind(config).double().eval()
    lm.load_state_dict(reference.state_dict())
    lm.generation_config.eos_token_id = end_token_ids(tok)
    return lm, tok


WAYS = {
    Plain: None,
    RenamedState: None,
    RenamedArgument: None,
    Positionless: "is given position_ids: the logits after",
    OneByOne: "reads a text's tokens one by one after its prompt: the logits after several",
    Forgetful: "reads each text anew",
    Stateless: "reads each text anew",
    KeepsItself: "reads each text anew",
    NoRollback: None,
    WrongRollback: None,
}


@pytest.mark.parametrize("kind", WAYS, ids=lambda kind: kind.__name__)
def test_every_way_is_found_and_right(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    """As base, as guide, in lists and with drafts: what reading afresh gives."""
    other = model("gemma3", "sentencepiece", 2)
    with caplog.at_level(logging.WARNING):
        lm = LanguageModel(*made(kind), "theirs")
    own = [record.getMessage() for record in caplog.records if record.name == "blendin"]
    told = [each for each in own if "one by one: its attention" not in each]
    expected = WAYS[kind]
    assert len(told) == (expected is not None)
    if expected is not None:
        assert told[0].startswith(f"theirs {expected}")
    check_policy(BlendInGenerator(lm, other), Blend(0.8), ["How many?", "def add(a"], 8)
    check_policy(BlendInGenerator(other, lm), Blend(2), ["How many?"], 8)


@pytest.mark.parametrize("kind", [NoRollback, WrongRollback], ids=lambda kind: kind.__name__)
def test_what_cannot_be_rolled_back_is_read_again(kind: Any) -> None:
    lm, context = LanguageModel(*made(kind), "theirs"), Context([5, 6, 7, 8])
    lm.forward(context)
    lm.rollback(context, 2)
    context.ids.append(9)
    torch.testing.assert_close(lm.forward(context), lm.forward(Context([5, 6, 9])))
    assert lm.draft(context, [], 3) == []


REFUSED = {
    Backwards: "depends on what follows",
    Broken: r"cannot read a text \(ValueError: pixel_values are missing\)",
    Masked: "gives its forward other tokens",
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_is_right_in_no_way_is_refused_by_name(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"'theirs' cannot be decoded with: .*{REFUSED[kind]}"):
        LanguageModel(*made(kind), "theirs")


def test_errors_of_logits_are_seen_where_distributions_hardly_differ() -> None:
    generator = torch.Generator().manual_seed(0)
    dim = 1e-3 * torch.randn(2, 500, generator=generator)
    other = 1e-3 * torch.randn(2, 500, generator=generator)
    assert relative_error(other, dim) > 0.5
    assert relative_error(dim * (1 + 1e-6), dim) < 1e-5
    muted = dim.clone()
    muted[:, 7] = -torch.inf
    assert relative_error(muted, muted - 0.0) == 0
    assert relative_error(other, muted) > 0.5
    sharp = 10 * torch.randn(2, 500, generator=generator)
    sharp[:, 3] = -1e4
    assert relative_error(sharp + torch.randn(2, 500, generator=generator), sharp) > 0.05
