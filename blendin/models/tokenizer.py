"""A tokenizer from whatever names it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from . import default_pair as pairs
from .source import OF_TOKENIZERS, tokenizer_of


def load_tokenizer(source: Any, kwargs: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer, given itself or by its name.

    Raises:
        ValueError: where its files give one without any token.
    """
    if (given := tokenizer_of(source)) is not None:
        return given
    name = os.fspath(source)
    if name in pairs.EMBEDDED:
        name = str(pairs.folder(name))
    elif (path := Path(os.path.expanduser(name))).exists():
        name = str(path)
    hub = {each: kwargs.get(each) for each in (*OF_TOKENIZERS, "gguf_file")}
    given_hub = {each: value for each, value in hub.items() if value is not None}
    found = AutoTokenizer.from_pretrained(name, **given_hub)
    if len(found) <= len(found.all_special_ids):
        raise ValueError("its files hold no tokens")
    return found
