"""Whatever the habits of a chat template, the guide reads all of a conversation or refuses it."""

from __future__ import annotations

import json
import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chat_templates import (
    CHATML,
    FIRST_ONLY,
    LAST_ONLY,
    LLAMA_2,
    PARTS_ONLY,
    SHOW_ALL,
    THINKING,
    chatml,
    tokenizer_with,
)
from conftest import generator, model
from tiny import GEMMA_CHAT, byte_level_tokenizer, tiny_model
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from blendin import BlendInGenerator
from blendin.models.local import LanguageModel
from blendin.prompts import ChatTemplate, as_messages, guide_text, prompt_ids, read_template_kwargs

SYSTEM = {"role": "system", "content": "Be Brief & kind."}
USER = {"role": "user", "content": 'Why, "Ada"?\n  So?'}
ASSISTANT = {"role": "assistant", "content": "Because."}
BEGUN = {"role": "assistant", "content": "It is so that"}
CONVERSATIONS = {
    "question": [USER],
    "with system": [SYSTEM, USER],
    "several turns": [USER, ASSISTANT, {"role": "user", "content": "And then?"}],
    "several with system": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "And then?"}],
    "begun": [USER, BEGUN],
    "begun with system": [SYSTEM, USER, BEGUN],
}


def shown(content: str, text: str) -> bool:
    """Whether a content is in a text, whatever became of its case, space and quotation marks."""

    def bare(some: str) -> str:
        return "".join(char for char in some.casefold() if char.isalnum())

    return bare(content.replace("\n", "")) in bare(text.replace("\\n", ""))


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", SHOW_ALL)
def test_every_message_is_shown(name: str, conversation: str) -> None:
    messages = CONVERSATIONS[conversation]
    text = guide_text(messages, tokenizer_with(SHOW_ALL[name]))
    places = [shown(message["content"], text) for message in messages]
    assert all(places), text
    assert "{'type'" not in text
    if messages[-1] is BEGUN:
        assert text.casefold().endswith(BEGUN["content"].casefold())
    elif name != "Llama 2":
        assert text.endswith("<|im_start|>assistant\n")
        assert text.count("<|im_start|>assistant") == 1 + messages.count(ASSISTANT)


@pytest.mark.parametrize("name", SHOW_ALL)
def test_what_a_template_can_do_itself_is_left_to_it(name: str) -> None:
    tokenizer = tokenizer_with(SHOW_ALL[name])
    given: list[dict[str, Any]] = [USER]
    if "parts" in name:
        given = [{"role": "user", "content": [{"type": "text", "text": USER["content"]}]}]
    theirs = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
    ours = guide_text([USER], tokenizer)
    assert ours == theirs if name != "never opens" else ours == f"{theirs}<|im_start|>assistant\n"


@pytest.mark.parametrize("kept", [True, False])
def test_the_system_text_is_a_turn_or_stands_before_the_first(kept: bool) -> None:
    text = guide_text([SYSTEM, USER], tokenizer_with(CHATML if kept else SHOW_ALL["skips system"]))
    head = (
        "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}"
        if kept
        else ("<|im_start|>user\n{}\n\n{}")
    )
    assert text.startswith(head.format(SYSTEM["content"], USER["content"]))


@pytest.mark.parametrize(
    ("template", "messages", "fault"),
    [
        (LAST_ONLY, CONVERSATIONS["several turns"], r"leaves out message 0 \(user\), message 1"),
        (FIRST_ONLY, CONVERSATIONS["several turns"], r"leaves out message 1 \(assistant\)"),
        ("Hello.", [USER], r"leaves out message 0 \(user\)"),
        ("{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}",
         [SYSTEM, USER], r"leaves out message 1 \(user\)"),
        ("{{ raise_exception('not today') }}", [USER], "not today"),
        ("{{ messages[0].content + 1 }}", [USER], "TypeError"),
        ("{{ nothing.at.all }}", [USER], "UndefinedError"),
        ("{% for %}", [USER], "TemplateSyntaxError"),
        ("{{ messages.__class__.__mro__ }}", [USER], "SecurityError"),
        (None, [USER], "no chat template"),
        ({"rag": CHATML, "tool_use": CHATML}, [USER], "rag, tool_use and none named 'default'"),
    ],
)  # fmt: skip
def test_what_no_form_can_show_is_refused_by_name(template: Any, messages: Any, fault: str) -> None:
    tokenizer = tokenizer_with(template)
    with pytest.raises(ValueError, match=rf"(?s){fault}.*(guide_prompt=|chat_template_kwargs=)"):
        guide_text(messages, tokenizer)


@pytest.mark.parametrize(
    ("template", "settings"),
    [
        ({"default": CHATML, "rag": LAST_ONLY}, {}),
        ({"only": CHATML}, {}),
        ({"default": LAST_ONLY, "plain": CHATML}, {"chat_template": "plain"}),
        ([{"name": "default", "template": CHATML}], {}),
        (LAST_ONLY, {"chat_template": CHATML}),
        (None, {"chat_template": CHATML}),
    ],
)
def test_one_of_several_templates(template: Any, settings: dict[str, Any]) -> None:
    messages = CONVERSATIONS["several turns"]
    expected = guide_text(messages, tokenizer_with(CHATML))
    assert guide_text(messages, tokenizer_with(template), **settings) == expected


def test_a_template_in_a_processors_file(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}), "utf-8")
    tokenizer = tokenizer_with(None, name_or_path=str(tmp_path))
    assert guide_text([USER], tokenizer) == guide_text([USER], tokenizer_with(CHATML))


@pytest.mark.parametrize(
    ("template", "warning"),
    [
        (CHATML, None),
        (GEMMA_CHAT, None),
        (PARTS_ONLY, None),
        (THINKING, None),
        (LLAMA_2, None),
        (SHOW_ALL["default system"], None),
        (SHOW_ALL["skips system"], None),
        (None, None),  # said by the one that loads the guide
        ("Hello.", "cannot render a question .*leaves out message 0"),
        ("{{ raise_exception('not today') }}", "cannot render a question .*not today"),
        ({"rag": CHATML, "tool_use": CHATML}, "none named 'default'"),
        (LAST_ONLY, "cannot render a conversation of several turns"),
        (chatml("m.content | lower"), "changes what is put into it"),
        (chatml("m.content | e"), "changes what is put into it"),
        (chatml("m.content | tojson"), "changes what is put into it"),
        (chatml("m.content[:20]"), "changes what is put into it"),
        (chatml(after=""), "does not open the assistant's turn .*<.im_start.>assistant"),
    ],
)
def test_faults_are_told_at_loading(
    template: Any, warning: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    ChatTemplate(tokenizer_with(template), "Tiny").log_faults()
    if warning is None:
        assert not caplog.records
    else:
        (record,) = caplog.records
        caplog.clear()
        assert "the chat template of Tiny" in record.getMessage() or "(Tiny)" in record.getMessage()
        assert re.search(warning, record.getMessage())


def test_a_pair_tells_of_its_guides_template(caplog: pytest.LogCaptureFixture) -> None:
    with_markup = guide(chatml("m.content | lower"))
    BlendInGenerator(model("llama", "byte-level", 0), with_markup)
    assert "changes what is put into it" in caplog.text


def test_a_whole_prompt_needs_no_template() -> None:
    gen = BlendInGenerator(model("llama", "byte-level", 0), guide("Hello."))
    with pytest.raises(ValueError, match="leaves out message 0"):
        gen.generate("x")
    assert gen.generate("x", guide_prompt="y", max_new_tokens=2).steps


@cache
def guide(template: str) -> Any:
    tokenizer = tokenizer_with(template)
    return tiny_model("llama", tokenizer, 3), tokenizer


# -- what goes before a prompt ---------------------------------------------------------------------

PREFIXES = {
    "none": ("", CHATML),
    "one": ("<|pad|> ", "<|pad|>" + CHATML),
    "two": ("<|pad|> <|im_end|> ", "<|pad|><|im_end|>" + CHATML),
    "after a newline": ("<|pad|> ", "\n<|pad|>" + CHATML),
    "not in the template": ("<|pad|> ", CHATML),
}


@cache
def prefixed(name: str, bos: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer that begins texts with special tokens, which need not be its BOS, as GLM's."""
    single, template = PREFIXES[name]
    tokenizer = byte_level_tokenizer()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in single.split()]
    if special:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{single}$A <|end|>", special_tokens=[*special, ("<|end|>", 396)]
        )
    tokenizer.chat_template = template
    if bos:
        tokenizer.bos_token = "<|pad|>"
    return tokenizer


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("name", PREFIXES)
def test_the_guide_reads_what_apply_chat_template_gives(
    name: str, bos: bool, conversation: str
) -> None:
    tokenizer, messages = prefixed(name, bos), CONVERSATIONS[conversation]
    gen = BlendInGenerator(
        model("llama", "byte-level", 0), LanguageModel(guide_of(name, bos), tokenizer, "guide")
    )
    begun = messages[-1] is BEGUN
    expected = tokenizer.apply_chat_template(
        messages, add_generation_prompt=not begun, continue_final_message=begun, return_dict=False
    )
    assert list(gen.pair.prompts.guide(messages).ids) == expected


@cache
def guide_of(name: str, bos: bool) -> Any:
    return tiny_model("llama", prefixed(name, bos), 3)


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("space", ["", "\n", "  "])
def test_what_a_whole_prompt_begins_with_is_not_doubled(name: str, space: str) -> None:
    tokenizer = prefixed(name)
    names = PREFIXES[name][0].split()
    prefix = tokenizer.convert_tokens_to_ids(names)
    plain = tokenizer.encode(f"{space}Once", add_special_tokens=False)
    assert prompt_ids(f"{space}Once", tokenizer) == [*prefix, *plain]
    for begun in range(len(names)):
        text = f"{space}{''.join(names[begun:])}Once"
        given = tokenizer.encode(text, add_special_tokens=False)
        assert prompt_ids(text, tokenizer) == [*prefix[:begun], *given]
    assert "<|end|>" not in tokenizer.decode(prompt_ids("Once", tokenizer))


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (None, {}),
        ([], {}),
        ("enable_thinking=false", {"enable_thinking": False}),
        ("enable_thinking=False", {"enable_thinking": False}),
        (['{"enable_thinking": false}'], {"enable_thinking": False}),
        (["a=1", 'b={"c": [2]}', "d=x=y", "e="], {"a": 1, "b": {"c": [2]}, "d": "x=y", "e": ""}),
        (['{"a": 1, "b": 2}', "b=3"], {"a": 1, "b": 3}),
    ],
)
def test_settings_of_the_template_on_a_command_line(given: Any, settings: dict[str, Any]) -> None:
    assert read_template_kwargs(given) == settings


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("enable_thinking", "use a JSON object"),
        ("=3", "use a JSON object"),
        ('{"a": }', "is no JSON"),
        ("tokenize=false", "tokenize, which blendin sets itself"),
        ('{"messages": []}', "messages, which blendin sets itself"),
    ],
)
def test_wrong_settings_on_a_command_line(given: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        read_template_kwargs(given)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("enable_thinking", "use a mapping"),
        (True, "use a mapping"),
        ({1: 2}, "use a mapping"),
        ({"add_generation_prompt": False}, "add_generation_prompt, which blendin sets itself"),
        ({"continue_final_message": True}, "continue_final_message, which"),
        ({"tools": [print]}, "JSON cannot hold"),
        ({"x": float("nan")}, "JSON cannot hold"),
    ],
)
def test_wrong_settings_are_refused(given: Any, fault: str) -> None:
    gen = generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))
    for ask in (gen.generate, gen.stream):
        with pytest.raises(ValueError, match=fault):
            ask("x", chat_template_kwargs=given)
    with pytest.raises(ValueError, match=fault):
        gen.score("x", "y", chat_template_kwargs=given)


def test_settings_reach_the_template_and_the_record() -> None:
    gen = BlendInGenerator(model("llama", "byte-level", 0), guide(THINKING))
    off = {"enable_thinking": False}
    quiet = gen.generate("Hi", chat_template_kwargs=off, max_new_tokens=2)
    loud = gen.generate("Hi", max_new_tokens=2)
    assert quiet.settings["chat_template_kwargs"] == off
    assert (
        quiet.settings["guide_prompt"] == loud.settings["guide_prompt"] + "<think>\n\n</think>\n\n"
    )
    rows = gen.generate(["Hi", "Hi"], chat_template_kwargs=[off, None], max_new_tokens=2)
    both = gen.generate(["Hi", "Hi"], chat_template_kwargs=off, max_new_tokens=2)
    prompts = [out.settings["guide_prompt"] for out in (quiet, loud, quiet, quiet)]
    assert [out.settings["guide_prompt"] for out in [*rows, *both]] == prompts
    scored = gen.score("Hi", " so", chat_template_kwargs=off, policy="guide")
    whole = gen.score(
        base_prompt="x", guide_prompt=quiet.settings["guide_prompt"], text=" so", policy="guide"
    )
    assert scored.log_likelihood == whole.log_likelihood
    with pytest.raises(ValueError, match="give one of them"):
        gen.generate("Hi", guide_prompt="x", chat_template_kwargs=off)


def test_a_setting_that_the_template_does_not_read_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    template = ChatTemplate(tokenizer_with(THINKING), "Tiny")
    for _ in range(2):
        template.text([USER], {"enable_thinkng": False, "enable_thinking": False})
    (record,) = caplog.records
    assert "Tiny has no setting 'enable_thinkng'" in record.getMessage()
    assert record.levelno == logging.WARNING


def test_a_template_that_is_set_later_is_the_one_that_counts() -> None:
    tokenizer = tokenizer_with(None)
    template = ChatTemplate(tokenizer)
    assert not template.exists
    tokenizer.chat_template = CHATML
    assert template.text(as_messages("Hi", None)).endswith("<|im_start|>assistant\n")


def test_a_content_that_is_cut_short_is_told(caplog: pytest.LogCaptureFixture) -> None:
    template = ChatTemplate(tokenizer_with(chatml("m.content[:60]")), "Tiny")
    template.log_faults()
    template.text(as_messages("short", None))
    assert not caplog.records
    for _ in range(2):
        template.text(as_messages("word " * 20 + "end", None))
    (record,) = caplog.records
    assert "changes what is put into it" in record.getMessage()
