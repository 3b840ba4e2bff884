"""Which added tokens are control tokens: by what they are for, not by their flag."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerBase

HTML_ELEMENTS = frozenset(
    """a abbr address area article aside audio b base bdi bdo big blockquote body br button canvas
    caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em
    embed fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header
    hgroup hr html i iframe img input ins kbd label legend li link main map mark menu meta meter nav
    noscript object ol optgroup option output p param picture pre progress q rp rt ruby s samp
    script section select small source span strike strong style sub summary sup table tbody td
    template textarea tfoot th thead time title tr track tt u ul var video wbr""".split()
)
"""Gemma's tokenizer adds such tags, which are text: the models write them as any other word."""

MARKUP = re.compile(
    r"<[|｜].+[|｜]>"  # <|im_end|>, DeepSeek's <｜User｜>
    r"|<(?!0x[0-9A-F]{2}>)[^<>\s]*[^\W\d_][^<>\s]*>"  # <tool_call>, </think>, <unused7>
    r"|<<[^<>\s]+>>"
    r"|\[[^\[\]\s]*[^\W\d_]{2}[^\[\]\s]*\]"  # [INST], [gMASK], [multimodal]; not [x], [0-9]
    r"|\|\|\|\w+\|\|\||>>\w+<<"  # OLMo's |||IP_ADDRESS|||, Falcon's >>TITLE<<
)
HTML_TAG = re.compile(r"</?(\w+) ?/?>")
TURN_HEADING = re.compile(r"[#*@].*[^\W\d_].*|[^\W\d_].*:")
"""How a chat template begins a turn in words: "### Response:", "USER:"."""


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that a tokenizer flags as special, or names as its BOS, EOS and the like."""
    flagged = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return flagged | set(tokenizer.all_special_ids)


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The added tokens that stand for something else than their text, with that text.

    Those are the special tokens, and of the other added tokens the markup: what is wholly in
    brackets of a kind (`<tool_call>`, `[multimodal]`, `<|User|>`, `<unused7>`), and headings that
    the chat template itself writes ("### Response:"). Runs of white space, words and HTML's tags,
    which tokenizers add as well, are text.
    """
    special, template = special_ids(tokenizer), str(tokenizer.chat_template or "")
    return {
        id: token.content
        for id, token in tokenizer.added_tokens_decoder.items()
        if token.content.strip() and (id in special or is_markup(token.content, template))
    }


def is_markup(content: str, template: str = "") -> bool:
    """Whether a token that is not flagged as special is control markup nevertheless.

    Args:
        content: its text.
        template: the tokenizer's chat template.
    """
    bare = content.strip().strip("▁")
    if MARKUP.fullmatch(bare):
        tag = HTML_TAG.fullmatch(bare)
        return tag is None or tag[1].lower() not in HTML_ELEMENTS
    return bool(TURN_HEADING.fullmatch(bare)) and content.strip() in template
