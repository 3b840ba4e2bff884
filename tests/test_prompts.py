"""How each side reads a prompt."""

from __future__ import annotations

import pytest
from conftest import generator, tokenizer

from blendin.prompts import as_messages, base_text, guide_text

CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello. "},
    {"role": "user", "content": "And?"},
]


def test_the_base_reads_a_plain_transcript() -> None:
    assert base_text(as_messages("Why?", None)) == "Question: Why?\nAnswer:"
    assert base_text(as_messages("Why?", "Be brief.")) == "Be brief.\nQuestion: Why?\nAnswer:"
    assert base_text(as_messages(CHAT, "S")) == (
        "S\nQuestion: Hi\nAnswer: Hello.\nQuestion: And?\nAnswer:"
    )
    assert as_messages([{"role": "system", "content": "S"}, *CHAT], None) == as_messages(CHAT, "S")


def test_the_guide_reads_its_chat_template_with_an_open_turn() -> None:
    assert guide_text(as_messages(CHAT, "S"), tokenizer("byte-level")) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello. <|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_without_a_system_role_gets_its_text_with_the_first_turn() -> None:
    assert guide_text(as_messages("Why?", "S"), tokenizer("sentencepiece")) == (
        "<bos><start_of_turn>user\nS\n\nWhy?<end_of_turn>\n<start_of_turn>model\n"
    )


@pytest.mark.parametrize(
    ("prompt", "system", "message"),
    [
        ("", None, "prompt is empty"),
        (" \n", None, "prompt is empty"),
        ([{"role": "user", "content": " "}], None, "prompt is empty"),
        ([{"role": "system", "content": "a"}], None, "must end with a user's turn"),
        ([], None, "must end with a user's turn"),
        ([CHAT[0], CHAT[2]], None, "message 1 has the role 'user' where 'assistant'"),
        ([{"role": "tool", "content": "x"}], None, "message 0 has the role 'tool'"),
        ([{"role": "user"}], None, "is not of the form"),
        ([{"role": "system", "content": "a"}, CHAT[0]], "b", "system= is given"),
    ],
)
def test_messages_out_of_order_are_named(prompt: object, system: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_messages(prompt, system)  # type: ignore[arg-type]


def test_whole_prompts_are_read_as_they_are() -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    usual = gen.generate("Why?", max_new_tokens=12)
    whole = gen.generate(
        base_prompt="Question: Why?\nAnswer:",
        guide_prompt="<bos><start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
        max_new_tokens=12,
    )
    assert whole.steps == usual.steps
    mixed = gen.generate("Why?", base_prompt="Once upon a time", max_new_tokens=12)
    assert mixed.settings["base_prompt"] == "Once upon a time"
    assert mixed.settings["guide_prompt"] == whole.settings["guide_prompt"]
