"""A trial over the first layers of each kind: as telling as one over all; nothing is touched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tokenizer
from tiny import tiny_model

from blendin.models.local import LanguageModel
from blendin.models.shallow import shallow


def unhooked(architecture: Any, layers: int = 8, seed: int = 0) -> Any:
    """A deeper tiny model without the hook that the others have."""
    lm = tiny_model(architecture, tokenizer("byte-level"), seed, suppress=False)
    config = lm.config
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        kinds = ["sliding_attention"] * 3 if architecture == "gemma3" else ["full_attention"] * 3
        config.layer_types = [*kinds, "full_attention"] * (layers // 4)
    torch.manual_seed(seed)
    deeper = type(lm)(config).double().eval()
    deeper.generation_config.eos_token_id = lm.generation_config.eos_token_id
    return deeper


@pytest.mark.parametrize(("architecture", "count"), [("llama", 1), ("qwen2", 1), ("gemma3", 4)])
def test_one_layer_of_each_kind_shares_the_weights(architecture: Any, count: int) -> None:
    lm = unhooked(architecture)
    before = dict(lm.named_modules())
    found = shallow(lm)
    assert found is not None and found[1] == count
    first = found[0]
    ours = {parameter.data_ptr() for parameter in first.parameters()}
    assert ours <= {parameter.data_ptr() for parameter in lm.parameters()}
    assert first.config is lm.config
    assert dict(lm.named_modules()) == before and len(lm.model.layers) == 8
    ids = torch.tensor([[5, 6, 7]])
    assert first(input_ids=ids).logits.shape == lm(input_ids=ids).logits.shape


def test_a_layer_of_its_own_kind_is_among_them() -> None:
    """Settings, classes and shapes tell kinds apart, however late the layer stands."""
    lm = unhooked("llama", layers=16)
    lm.model.layers[5].self_attn.scaling *= 2
    found = shallow(lm)
    assert found is not None and found[1] == 6
    lm.model.layers[6].mlp.act_fn = torch.nn.Tanh()
    found = shallow(lm)
    assert found is not None and found[1] == 7


@pytest.mark.parametrize("fault", ["window", "positions", "hook", "late window"])
def test_what_is_wrong_is_found_all_the_same(fault: str) -> None:
    lm = unhooked("gemma3")
    if fault == "window":
        lm.model.layers[0].self_attn.sliding_window = None
    elif fault == "late window":
        lm.model.layers[6].self_attn.sliding_window = None
    elif fault == "positions":
        forward = lm.forward
        lm.forward = lambda *a, **k: forward(*a, **{**k, "position_ids": None})
    else:
        lm.model.layers[7].register_forward_pre_hook(
            lambda module, args: (args[0] + args[0].cumsum(1), *args[1:])
        )
    assert LanguageModel(lm, tokenizer("byte-level"), "theirs").varlen is None


@pytest.mark.filterwarnings("ignore")
def test_models_that_may_tell_another_story_are_tried_whole() -> None:
    tok = tokenizer("byte-level")
    hooked = tiny_model("llama", tok)  # its hook makes some logits
    assert shallow(hooked) is None
    compiled = unhooked("llama")
    assert shallow(compiled) is not None
    compiled.compile(backend="eager")
    assert shallow(compiled) is None
    assert shallow(torch.compile(unhooked("llama"), backend="eager")) is None
    quantized = torch.ao.quantization.quantize_dynamic(
        unhooked("llama").float(), {torch.nn.Linear}, torch.qint8
    )
    assert shallow(quantized) is None
