"""How each side reads a prompt: plain text for the base, its chat template for the guide."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .messages import BASE_STOP, Message, Prompt, as_messages, base_text
from .template_kwargs import checked_template_kwargs, read_template_kwargs

if TYPE_CHECKING:
    from .chat_template import ChatTemplate, guide_text
    from .encoding import RenderedPrompt, prompt_ids
    from .renderer import PromptRenderer

__all__ = [
    "BASE_STOP",
    "ChatTemplate",
    "Message",
    "Prompt",
    "PromptRenderer",
    "RenderedPrompt",
    "as_messages",
    "base_text",
    "checked_template_kwargs",
    "guide_text",
    "prompt_ids",
    "read_template_kwargs",
]

_MODULES = {
    "ChatTemplate": "chat_template",
    "PromptRenderer": "renderer",
    "RenderedPrompt": "encoding",
    "guide_text": "chat_template",
    "prompt_ids": "encoding",
}


def __getattr__(name: str) -> Any:
    # Tokens need transformers and torch; messages do not, and requests are read where both are not.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
