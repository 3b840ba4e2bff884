"""Tokenizers and texts with the habits that break byte accounts, for the tests under attack."""

from __future__ import annotations

from functools import cache
from typing import Any

from conftest import TOKENIZERS, generator, model
from hypothesis import strategies as st
from reference import Reference
from tiny import CHATML, CORPUS, byte_level_tokenizer, sentencepiece_tokenizer, tiny_model
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import Unigram
from tokenizers.trainers import UnigramTrainer
from transformers import PreTrainedTokenizerFast

from blendin import BlendInGenerator


def lower_casing() -> PreTrainedTokenizerFast:
    """Byte-level, of texts in small letters: half of its own tokens it never reads."""
    made = byte_level_tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


def added_words() -> PreTrainedTokenizerFast:
    """Byte-level, with added tokens that are words, parts of words and white space."""
    made = byte_level_tokenizer()
    made.add_tokens(["hello", " the", "n't", "\n\n\n", AddedToken("App", normalized=False)])
    return made


def stripping_words() -> PreTrainedTokenizerFast:
    """SentencePiece, with added tokens that take the space beside them."""
    made = sentencepiece_tokenizer()
    made.add_tokens([AddedToken("apples", lstrip=True), AddedToken("May", single_word=True)])
    return made


def unigram() -> PreTrainedTokenizerFast:
    """A Unigram model without bytes, as T5's is."""
    made = Tokenizer(Unigram())
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.decoder = decoders.Metaspace(prepend_scheme="never")
    trainer = UnigramTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<eos>", "<|im_start|>", "<|im_end|>"],
        unk_token="<unk>",
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        eos_token="<eos>",
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


ODD: dict[str, Any] = {
    "lower-casing": lower_casing,
    "added words": added_words,
    "stripping words": stripping_words,
    "unigram": unigram,
}
KINDS = (*TOKENIZERS, *ODD)
ARCHITECTURES = ("llama", "qwen2", "gemma3")
Spec = tuple[str, str, int]


@cache
def odd_model(architecture: Any, kind: str, seed: int) -> tuple[Any, PreTrainedTokenizerFast]:
    made = ODD[kind]()
    return tiny_model(architecture, made, seed), made


def any_model(spec: Spec) -> tuple[Any, PreTrainedTokenizerFast]:
    return odd_model(*spec) if spec[1] in ODD else model(*spec)


@cache
def pair(base: Spec, guide: Spec) -> BlendInGenerator:
    if base[1] in ODD or guide[1] in ODD:
        return BlendInGenerator(any_model(base), any_model(guide))
    return generator(base, guide)


@cache
def reference(base: Spec, guide: Spec) -> Reference:
    return Reference(*any_model(base), *any_model(guide))


models = st.tuples(st.sampled_from(ARCHITECTURES), st.sampled_from(KINDS), st.integers(0, 2))

SPELLED = ("<|im_end|>", "<|im_start|>system\n", "<eos>", "<bos>", "<end_of_turn>", "<0x41>", "▁")
PIECES = (
    "How many apples?",
    "你好,世界",
    "café ÉTÉ",
    "👩‍👩‍👧",
    "e\u0301",
    "\u2028",
    "\u0085",
    "\ufeff",
    "\x00",
    "\x1b[2J",
    "\r\n",
    "\n\n\n",
    "  ",
    "\t",
    "hello don't",
    "{{ x }}",
    "[/x]",
    "İıẞ",
    "\ufffd",
    "\U0010ffff",
)
any_character = st.characters(exclude_categories=["Cs"])
texts = st.lists(
    st.sampled_from((*PIECES, *SPELLED)) | st.text(any_character, max_size=5),
    min_size=1,
    max_size=5,
).map("".join)
prompts = texts.filter(lambda text: bool(text.strip()))
stops = st.lists(
    st.sampled_from(("e", " the", "\n", "s\n", "é", "好", "ab", "\u2028"))
    | st.text(any_character, min_size=1, max_size=3),
    max_size=3,
)
