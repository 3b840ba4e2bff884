"""What transformers takes of a call of `generate` and does not hand on to a callable.

With `custom_generate=<callable>` transformers (5.17 to 5.24) drops `streamer`, `assistant_model`,
`tokenizer` and `assistant_tokenizer`: `_extract_generation_mode_kwargs` replaces them by the
arguments that the callable adds to `_sample`'s. The streamer is still given the prompt, and whoever
reads from it waits for ever. And a cache that the caller brought looks like one that transformers
has just made. They are looked up in the frame of the call itself.
"""

from __future__ import annotations

import inspect
import sys
from types import FrameType
from typing import Any

from transformers import GenerationMixin

from .settings import CACHES

NAMED = ("streamer", "assistant_model", "synced_gpus")
"""Parameters of `generate`."""

KEYWORDS = ("tokenizer", "assistant_tokenizer", *CACHES)
"""Among its further keywords."""


def dropped(model: Any) -> dict[str, Any]:
    """What the call of `model.generate` that runs now was given of them; empty where none runs."""
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("self") is model:
            found = {name: frame.f_locals.get(name) for name in NAMED}
            # The keywords are taken apart in place there; torch.no_grad's wrapper has them whole.
            outer = frame.f_back and frame.f_back.f_locals.get("kwargs")
            keywords = outer if isinstance(outer, dict) else {}
            found |= {name: keywords.get(name) for name in KEYWORDS}
            return {name: value for name, value in found.items() if value is not None}
        frame = frame.f_back
    return {}
