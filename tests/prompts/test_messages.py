"""What callers pass as messages, and what both models read of it."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import generator, tokenizer

from blendin.prompts import as_messages, base_text, guide_text

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello. "}
PARTS = [{"type": "text", "text": "H"}, {"type": "input_text", "text": "i"}]


@pytest.mark.parametrize(
    ("given", "same_as"),
    [
        (USER, [USER]),
        ((USER,), [USER]),
        (iter([USER]), [USER]),
        ([{"role": "user", "content": PARTS}], [USER]),
        ([{"role": "user", "content": ["H", "i"]}], [USER]),
        ([{"role": "user", "content": tuple(PARTS)}], [USER]),
        (
            [{"role": "developer", "content": "S"}, USER],
            [{"role": "system", "content": "S"}, USER],
        ),
        ([{"role": "system", "content": ""}, USER], [USER]),
        ([{**USER, "tool_calls": [], "refusal": None}], [USER]),
        ([USER, {"role": "assistant", "content": ""}], [USER]),
        ([USER, {"role": "assistant", "content": []}], [USER]),
    ],
)
def test_forms_of_messages(given: Any, same_as: list[dict[str, str]]) -> None:
    assert as_messages(given, None) == same_as


def test_further_keys_reach_the_guides_template_alone() -> None:
    named = tokenizer("byte-level").__class__(
        tokenizer_object=tokenizer("byte-level").backend_tokenizer,
        chat_template="{% for m in messages %}{{ m.name }}: {{ m.content }}{% endfor %}",
    )
    messages = as_messages([{**USER, "name": "Ada"}], None)
    assert guide_text(messages, named).startswith("Ada: Hi")
    assert base_text(messages) == "Question: Hi\nAnswer:"


def test_messages_are_not_changed() -> None:
    given = [{"role": "developer", "content": [*PARTS]}, {**USER, "name": "Ada"}]
    before = repr(given)
    as_messages(given, None)
    assert repr(given) == before


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "'image_url'"),
        ([{"role": "user", "content": [*PARTS, {"type": "input_audio"}]}], "'input_audio'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a part of type 'text'"),
        ([{"role": "user", "content": [{"text": "x"}]}], "a part of type None"),
        ([{"role": "user", "content": [b"x"]}], "a part of type 'bytes'"),
        ([{"role": "user", "content": 5}], "message 0 has the content 5"),
        ([{"role": "user", "content": None}], "message 0 has the content None"),
        ([{"role": "user", "content": b"x"}], "message 0 has the content b'x'"),
        ([{"role": "user", "content": {"text": "x"}}], "message 0 has the content"),
        ([USER, {"role": "tool", "content": "x"}], "message 1 has the role 'tool'.* no tools"),
        ([{"role": "function", "content": "x"}], "message 0 has the role 'function'"),
        ([{"role": "human", "content": "x"}], "role 'human': use one of system, developer, user"),
        ([{"role": "User", "content": "x"}], "role 'User': use one of"),
        (
            [USER, {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}, USER],
            "message 1 has tool_calls",
        ),
        ([USER, USER], "message 1 has the role 'user' where 'assistant' is due"),
        ([ASSISTANT], "message 0 has the role 'assistant' where 'user' is due"),
        ([USER, ASSISTANT, ASSISTANT], "message 2 has the role 'assistant'"),
        ([{"role": "system", "content": "S"}], "must end with a user's turn"),
        ([{"role": "system", "content": "S"}, {"role": "developer", "content": "D"}, USER], "due"),
        ([{"role": "user", "content": []}], "prompt is empty"),
        (["Hi", "there"], "is not of the form"),
        ([None], "is not of the form"),
    ],
)
def test_what_cannot_be_right_is_named(prompt: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_messages(prompt, None)


@pytest.mark.parametrize(
    ("begun", "base"),
    [
        ("It is", "Question: Hi\nAnswer: It is"),
        ("It is ", "Question: Hi\nAnswer: It is "),
        ("\n```python\n", "Question: Hi\nAnswer:\n```python\n"),
        (" It", "Question: Hi\nAnswer: It"),
    ],
)
@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "prefixed"])
def test_an_answer_that_is_begun_ends_both_prompts(kind: str, begun: str, base: str) -> None:
    messages = as_messages([USER, {"role": "assistant", "content": begun}], None)
    assert base_text(messages) == base
    opened = guide_text(messages[:-1], tokenizer(kind))
    trims = kind != "byte-level"
    assert guide_text(messages, tokenizer(kind)) == opened + (begun.lstrip() if trims else begun)


def test_a_begun_answer_is_continued_by_both() -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    out = gen.generate([USER, {"role": "assistant", "content": "It is"}], max_new_tokens=12)
    whole = gen.generate(
        base_prompt="Question: Hi\nAnswer: It is",
        guide_prompt=guide_text([USER], gen.guide.tokenizer) + "It is",
        max_new_tokens=12,
    )
    assert out.steps == whole.steps
    assert out.settings["guide_prompt"] == whole.settings["guide_prompt"]
