"""Which added tokens are control tokens."""

from __future__ import annotations

import copy

import pytest
from conftest import tokenizer
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from blendin.vocab.control_tokens import control_tokens, is_markup
from blendin.vocab.end_tokens import end_of_turn_id
from blendin.vocab.vocabulary import Vocabulary

MARKUP = """<tool_call> </tool_call> <think> </think> <tool_response> <|im_end|> <|fim_prefix|>
<|endoftext|> <|box_start|> <｜User｜> <｜begin▁of▁sentence｜> [multimodal] [INST] [/INST]
[TOOL_CALLS] [gMASK] <sop> [@BOS@] [toxicity=0] <unused0> <unused98> [UNUSED_TOKEN_145]
<extra_id_0> <start_of_image> <end_of_image> <2mass> <reserved_106> <<SYS>> <</SYS>> <bbox>
|||IP_ADDRESS||| >>TITLE<< <fim_suffix> <repo_name> <SPECIAL_12> <pad> <mask>""".split()
TEXT = ["\n\n", "\t", "   ", "▁▁▁", "hello", "don't", "<b>", "</table>", "<h1>", "<br/>", "<a>",
        "<", "<=", "->", "[]", "[ ]", "[x]", "[0-9]", "[1]", "<0x0A>", "<3", "def foo(", "...",
        "|||", "http://", "½", "你好", "#", "###", "USER:", "C++", "<>"]  # fmt: skip


@pytest.mark.parametrize("content", MARKUP)
def test_markup(content: str) -> None:
    assert is_markup(content)
    assert is_markup(f" {content}\n")


@pytest.mark.parametrize("content", TEXT)
def test_text(content: str) -> None:
    assert not is_markup(content)


@pytest.mark.parametrize("content", ["USER:", "### Response:", "\nHuman:"])
def test_headings_of_a_template_are_markup(content: str) -> None:
    assert is_markup(content, f"{{{{ '{content} ' }}}}")
    assert not is_markup(content.strip(":# \n"), f"{{{{ '{content} ' }}}}")


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "prefixed", "no-bytes"])
@pytest.mark.parametrize("content", ["<tool_call>", "[multimodal]", "<|user|>", "<unused7>"])
def test_unflagged_markup_has_bytes_and_is_read_as_text(kind: str, content: str) -> None:
    made = copy.deepcopy(tokenizer(kind))
    made.add_tokens([content, "hello", AddedToken("<mark_me>", special=True)])
    words = Vocabulary(made, len(made))
    id, word, special = made.convert_tokens_to_ids([content, "hello", "<mark_me>"])
    assert words.tokens[id] == content.encode() and words.tokens[special] is None
    assert (id in words.markup, word in words.control, special in words.control) == (1, 0, 1)
    assert special not in words.markup
    ids = words.text_ids(f"a {content}<mark_me> hello")
    assert words.control.isdisjoint(ids) and word in ids
    spelled = b"".join(words.tokens[id] or b"" for id in ids)
    assert spelled == f"a {content}<mark_me> hello".encode()


def test_white_space_is_no_control_token_whatever_its_flag() -> None:
    made = copy.deepcopy(tokenizer("byte-level"))
    made.add_tokens([AddedToken("\n", special=True)])
    assert "\n" not in control_tokens(made).values()


@pytest.mark.parametrize("flagged", [True, False])
@pytest.mark.parametrize("parts", [True, False])
def test_the_end_of_a_turn(flagged: bool, parts: bool) -> None:
    made = copy.deepcopy(tokenizer("byte-level"))
    made.add_tokens([AddedToken("<|done|>", special=flagged)])
    shown = "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}"
    made.chat_template = (
        "<|im_start|>{% for m in messages %}"
        + (shown if parts else "{{ m.content }}")
        + "<|done|>\n{% endfor %}"
    )
    assert end_of_turn_id(made) == made.convert_tokens_to_ids("<|done|>")
    made.chat_template = "<|im_start|>Hello."  # shows no answer: its own tokens end nothing
    assert end_of_turn_id(made) is None


def test_markup_is_spelled_in_the_models_own_tokens() -> None:
    """Not cut where a piece of ordinary text would not be."""
    pieces = [*sorted(ByteLevel.alphabet()), "<t"]
    made = Tokenizer(BPE({piece: id for id, piece in enumerate(pieces)}, [("<", "t")]))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens(["<tool_call>"])
    words = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=made), len(pieces) + 1)
    assert [words.tokens[id] for id in words.text_ids("<tool_call>")][:2] == [b"<t", b"o"]
