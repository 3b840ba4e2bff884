"""Loads process reward models, one function a style: what a model says at each token.

Weights come from safetensors alone, and no code of a repository runs unless that is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

GOOD, BAD = "+", "-"

Read = Callable[[Tensor, Tensor], Tensor]
"""Ids and mask, `[N, L]` int64 each, to the probability of right at each token, `[N, L]`."""


def _load(kind: Any, name: str, trust_remote_code: bool, **options: Any) -> tuple[Any, set[str]]:
    model, read = kind.from_pretrained(
        name,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        **options,
    )
    return model, set(read.get("missing_keys", ()))


def _refuse_missing(name: str, missing: set[str]) -> None:
    if missing:
        raise ValueError(
            f"--scorer {name} has no weights for {min(missing)}, which would be random: give a "
            "model that was trained to score steps"
        )


def _token(name: str, tokenizer: Any, trust_remote_code: bool) -> tuple[Any, Read]:
    from transformers import AutoModelForTokenClassification

    model, missing = _load(AutoModelForTokenClassification, name, trust_remote_code)
    _refuse_missing(name, missing)
    if model.config.num_labels != 2:
        raise ValueError(
            f"--scorer {name} has {model.config.num_labels} labels: use one with wrong and right"
        )

    def read(ids: Tensor, mask: Tensor) -> Tensor:
        logits = model(input_ids=ids, attention_mask=mask).logits
        return logits.float().softmax(-1)[..., 1]

    return model, read


def _extra_0(name: str, tokenizer: Any, trust_remote_code: bool) -> tuple[Any, Read]:
    """The body by transformers' own class, and the head as the checkpoint stores it."""
    from transformers import AutoModel

    if trust_remote_code:
        whole, missing = _load(AutoModel, name, True)
        _refuse_missing(name, missing)

        def read_whole(ids: Tensor, mask: Tensor) -> Tensor:
            logits = whole(input_ids=ids, attention_mask=mask, use_cache=False)[0]
            return logits.float().softmax(-1)[..., 1]

        return whole, read_whole
    body, missing = _load(AutoModel, name, False)
    _refuse_missing(name, missing)
    head = _head(name).to(body.dtype)
    body.score = head  # so that a digest of the weights has it

    def read(ids: Tensor, mask: Tensor) -> Tensor:
        hidden = body(input_ids=ids, attention_mask=mask).last_hidden_state
        return head(hidden).float().softmax(-1)[..., 1]

    return body, read


def _head(name: str) -> nn.Module:
    """Linear, ReLU, Linear: `score.0` and `score.2` of Qwen2.5-Math-PRM's checkpoints.

    Raises:
        ValueError: there is no such head.
    """
    from safetensors import safe_open
    from transformers.utils import cached_file

    wanted = [f"score.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    listed = "model.safetensors.index.json"
    index = cached_file(name, listed, _raise_exceptions_for_missing_entries=False)
    if index is None:
        files = dict.fromkeys(wanted, "model.safetensors")
    else:
        files = json.loads(Path(index).read_text())["weight_map"]
    state = {}
    for key in wanted:
        path = cached_file(name, files[key]) if key in files else None
        if path is not None:
            with safe_open(path, "pt") as file:
                if key in file.keys():
                    state[key.removeprefix("score.")] = file.get_tensor(key)
    if len(state) < len(wanted) or state["2.weight"].shape[0] != 2:
        raise ValueError(
            f"--scorer {name} has no head score.0, score.2 of two classes: name another "
            "--prm-style, or pass --trust-remote-code if the checkpoint's own code is to be run"
        )
    sizes = [state["0.weight"].shape, state["2.weight"].shape]
    head = nn.Sequential(
        nn.Linear(sizes[0][1], sizes[0][0]), nn.ReLU(), nn.Linear(sizes[1][1], sizes[1][0])
    )
    head.load_state_dict(state)
    return head


def _plus_minus(name: str, tokenizer: Any, trust_remote_code: bool) -> tuple[Any, Read]:
    from transformers import AutoModelForCausalLM

    model, missing = _load(AutoModelForCausalLM, name, trust_remote_code)
    if model.config.tie_word_embeddings:
        missing -= {"lm_head.weight"}
    _refuse_missing(name, missing)
    good, bad = (tokenizer.encode(sign, add_special_tokens=False)[-1] for sign in (GOOD, BAD))

    def read(ids: Tensor, mask: Tensor) -> Tensor:
        logits = model(input_ids=ids, attention_mask=mask).logits
        return logits[..., [good, bad]].float().softmax(-1)[..., 0]

    return model, read


LOADERS: dict[str, Callable[[str, Any, bool], tuple[Any, Read]]] = {
    "token": _token,
    "extra_0": _extra_0,
    "plus_minus": _plus_minus,
}
