"""How each side reads a prompt: plain text for the base, its chat template for the guide."""

from .chat_template import ChatTemplate, guide_text
from .encoding import RenderedPrompt, prompt_ids
from .messages import BASE_STOP, Message, Prompt, as_messages, base_text
from .renderer import PromptRenderer
from .template_kwargs import checked_template_kwargs, read_template_kwargs

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
