"""Token bytes, the spelling of bytes, and two vocabularies aligned."""

from __future__ import annotations

import itertools

import pytest
from conftest import model, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import wordpiece_tokenizer

from blendin.models.local import LanguageModel
from blendin.vocab.alignment import Alignment
from blendin.vocab.vocabulary import Vocabulary, valid_stretches

KINDS = ("byte-level", "sentencepiece", "prefixed")


def vocabulary(kind: str) -> Vocabulary:
    return Vocabulary(tokenizer(kind), size=len(tokenizer(kind)) + 5)


def joined(words: Vocabulary, ids: list[int]) -> bytes:
    return b"".join(words.tokens[id] or b"" for id in ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(text=st.text())
def test_text_is_spelled_byte_for_byte(kind: str, text: str) -> None:
    words = vocabulary(kind)
    text = text.replace("▁", "_")  # SentencePiece's own mark of a space
    assert joined(words, words.text_ids(text)) == text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.binary() | st.text().map(lambda text: text.encode()[1:-1]))
def test_any_bytes_are_spelled_byte_for_byte(kind: str, data: bytes) -> None:
    words = vocabulary(kind)
    data = data.replace("▁".encode(), b"_")
    ids = words.encode_bytes(data)
    assert ids is not None
    assert joined(words, ids) == data


@given(data=st.binary())
def test_stretches_join_to_the_bytes(data: bytes) -> None:
    parts = list(valid_stretches(data))
    assert b"".join(p.encode() if isinstance(p, str) else bytes([p]) for p in parts) == data
    assert not any(isinstance(a, str) and isinstance(b, str) for a, b in itertools.pairwise(parts))


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_text_are_read_as_text(kind: str) -> None:
    words = vocabulary(kind)
    for name in ("<|im_end|>", "<eos>", "<bos>", "<end_of_turn>"):
        ids = words.text_ids(f"a{name}b")
        assert all(words.tokens[id] is not None for id in ids)
        assert joined(words, ids) == f"a{name}b".encode()


def test_no_prefix_space_is_added() -> None:
    words = vocabulary("prefixed")
    assert tokenizer("prefixed").encode("dog", add_special_tokens=False) != words.text_ids("dog")
    assert joined(words, words.text_ids("dog")) == b"dog"


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_what_the_tokenizer_decodes(kind: str) -> None:
    """Each ASCII token between two others, since a decoder may strip at the edges."""
    words, tok = vocabulary(kind), tokenizer(kind)
    x = words.text_ids("x")[0]
    for id, data in enumerate(words.tokens):
        if data is not None and data.isascii():
            assert tok.decode([x, id, x]) == f"x{data.decode()}x", id


def test_special_tokens_and_padding_have_no_bytes() -> None:
    words, tok = vocabulary("sentencepiece"), tokenizer("sentencepiece")
    assert all(words.tokens[id] is None for id in tok.all_special_ids)
    assert words.tokens[len(tok) :] == [None] * 5


def test_of_duplicates_the_ordinary_one_is_canonical_then_the_lower() -> None:
    words, tok = vocabulary("sentencepiece"), tokenizer("sentencepiece")
    assert words.canonical[b"a"] == tok.convert_tokens_to_ids("a")
    assert tok.convert_tokens_to_ids("<0x61>") < words.canonical[b"a"]
    the = [id for id, data in enumerate(words.tokens) if data == b" the"]
    assert len(the) == 2
    assert words.canonical[b" the"] == min(the)
    assert words.canonical[b"\xf0"] == tok.convert_tokens_to_ids("<0xF0>")


def test_alignment_pairs_tokens_of_equal_bytes() -> None:
    base, guide = vocabulary("byte-level"), vocabulary("sentencepiece")
    ends = {tokenizer("byte-level").eos_token_id}, {tokenizer("sentencepiece").eos_token_id}
    aligned = Alignment(base, guide, *ends)
    assert not aligned.same
    for base_id, guide_id in aligned.guide_of_base.items():
        assert base.tokens[base_id] == guide.tokens[guide_id]
    symbols = aligned.tables.guide_symbols.tolist()
    assert len(set(symbols)) == len(symbols)
    for id, symbol in enumerate(symbols):
        if aligned.tables.guide_candidates[id]:
            assert aligned.data(symbol) == guide.tokens[id]
            assert joined(base, aligned.base_ids(symbol)) == guide.tokens[id]
            assert aligned.guide_ids(symbol) == [id]


def test_what_the_base_cannot_spell_is_no_candidate() -> None:
    base, guide = vocabulary("no-bytes"), vocabulary("byte-level")
    aligned = Alignment(base, guide, {1}, {tokenizer("byte-level").eos_token_id})
    candidates = {guide.tokens[int(id)] for id in aligned.tables.guide_candidates.nonzero()}
    assert b"\xf0" not in candidates
    assert b" the" in candidates


def test_equal_tables_are_one_vocabulary_whatever_the_padding() -> None:
    tok = tokenizer("byte-level")
    small, padded = Vocabulary(tok, len(tok)), Vocabulary(tok, len(tok) + 64)
    assert small.same_as(padded)
    assert padded.same_as(small)
    assert not small.same_as(vocabulary("sentencepiece"))


def test_wordpiece_is_refused_by_name() -> None:
    lm, _ = model("llama", "byte-level")
    with pytest.raises(ValueError, match=r"WordPiece.*cannot be aligned.*use a model with"):
        LanguageModel(lm, wordpiece_tokenizer(), "bert")
