"""Chat templates of many habits, over the tiny tokenizers."""

from __future__ import annotations

from typing import Any

from tiny import CHATML, byte_level_tokenizer
from transformers import PreTrainedTokenizerFast

OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def chatml(content: str = "m.content", before: str = "", after: str = OPEN) -> str:
    """ChatML with another expression for contents."""
    return (
        before
        + "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ "
        + content
        + " }}<|im_end|>\n"
        "{% endfor %}" + after
    )


PARTS_ONLY = chatml(
    "m.content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join"
)
SKIPS_SYSTEM = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{% endfor %}" + OPEN
)
RAISES_ON_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
)
RAISES_ON_LONG_WITH_SYSTEM = (
    "{% if messages[0].role == 'system' and messages | length > 2 %}"
    "{{ raise_exception('no system in long ones') }}{% endif %}" + CHATML
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    + CHATML
)
SYSTEM_IN_A_VARIABLE = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and system is defined %}{{ system }}\n\n{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}" + OPEN
)
USER_PARTS_SYSTEM_TEXT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'system' %}{{ m.content + '' }}"
    "{% else %}{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}" + OPEN
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
LAST_ONLY = "<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n" + OPEN
FIRST_ONLY = "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n" + OPEN
NO_ASSISTANT_LAST = (
    "{% if messages[-1].role == 'assistant' %}{{ raise_exception('a user must be last') }}"
    "{% endif %}" + CHATML
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content | trim }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }} <|end|>{% endif %}{% endfor %}"
)

SHOW_ALL: dict[str, str] = {
    "chatml": CHATML,
    "trims": chatml("m.content | trim"),
    "parts alone": PARTS_ONLY,
    "skips system": SKIPS_SYSTEM,
    "raises on system": RAISES_ON_SYSTEM,
    "raises on system in long ones": RAISES_ON_LONG_WITH_SYSTEM,
    "default system": DEFAULT_SYSTEM,
    "system in the last turn": SYSTEM_IN_A_VARIABLE,
    "parts of users, system as text": USER_PARTS_SYSTEM_TEXT,
    "thinking": THINKING,
    "repeats": chatml("m.content + ' ' + m.content"),
    "lower-cases": chatml("m.content | lower"),
    "upper-cases": chatml("m.content | upper"),
    "JSON": chatml("m.content | tojson"),
    "quotes": chatml("'\"' + m.content + '\"'"),
    "indents": chatml("m.content | indent(2)"),
    "Llama 2": LLAMA_2,
    "never opens": chatml(after=""),
    "no assistant last": NO_ASSISTANT_LAST,
    "opens always": chatml(after="{{ '<|im_start|>assistant\\n' }}"),
}
"""Those with which every message can be shown, in one way or another."""


def tokenizer_with(template: Any, **settings: Any) -> PreTrainedTokenizerFast:
    """The byte-level tokenizer with a chat template, and with markup that is not flagged."""
    made = byte_level_tokenizer()
    made.add_tokens(["<think>", "</think>", "<tool_call>", "[INST]", "[/INST]"])
    made.chat_template = template
    for name, value in settings.items():
        setattr(made, name, value)
    return made
