"""The bytes of every token of a tokenizer, and bytes encoded in its tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerBase

from ..forks import cached_property
from .control_tokens import control_tokens, special_ids

SPACE_MARK = "▁"
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
INVALID_BYTE = re.compile("([\udc80-\udcff])")


def byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: 256 characters to byte values."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + position): byte for position, byte in enumerate(others)
    }


def valid_stretches(data: bytes) -> Iterator[str | int]:
    """Cuts bytes into maximal stretches of valid UTF-8 (str) and single invalid bytes (int)."""
    for part in INVALID_BYTE.split(data.decode("utf-8", "surrogateescape")):
        if INVALID_BYTE.fullmatch(part):
            yield ord(part) - 0xDC00
        elif part:
            yield part


class Vocabulary:
    """Token ids and their bytes, for one tokenizer.

    Knows byte-level BPE (GPT-2, Llama 3, Qwen) and SentencePiece-style BPE or Unigram with or
    without byte fallback (Gemma, Llama 2, Mistral).

    Text never becomes a control token. Which tokens those are is told by what they are for
    (`control_tokens`), not by their flag. One that is flagged as special has no bytes. Markup that
    is not (`<tool_call>`, `<think>`, Gemma's `[multimodal]`) is shown in a text, as `decode` shows
    it, and so it has bytes; but no text is ever tokenized to it, and between different vocabularies
    it has no partner: what one model emits as a token of its own the other reads as text. White
    space, words and HTML's tags among the added tokens are tokens like any other.

    Attributes:
        tokens: the bytes of each id; None where it has none (special tokens, padding rows).
        control: the ids of all control tokens, also of those beyond the model's rows.
        markup: those of them that have bytes.
        canonical: the id that stands for a byte string: an ordinary token before a byte-fallback
            one, then the lower id. Empty byte strings stand for nothing.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        """Reads the table of `tokenizer` for a model whose logits are `size` wide.

        Raises:
            ValueError: where the tokens' bytes cannot be known (WordPiece, a slow tokenizer).
        """
        self._tokenizer = tokenizer
        backend = _backend(tokenizer)
        self.byte_level = _is_byte_level(backend)
        byte_fallback = not self.byte_level and "ByteFallback" in _parts(backend.decoder)
        added = {id: token.content for id, token in tokenizer.added_tokens_decoder.items()}
        special = special_ids(tokenizer)
        self.control = frozenset(control_tokens(tokenizer))
        self.markup = self.control - special
        alphabet = byte_level_alphabet()

        def to_bytes(id: int, token: str) -> bytes:
            if id in added or not all(char in alphabet for char in token):
                return token.encode()
            return bytes(alphabet[char] for char in token)

        self.tokens: list[bytes | None] = [None] * size
        fallback: dict[int, bytes] = {}
        for token, id in tokenizer.get_vocab().items():
            if id >= size or id in special:
                continue
            if (
                byte_fallback
                and token.startswith("<0x")
                and id not in added
                and (match := BYTE_TOKEN.fullmatch(token))
            ):
                self.tokens[id] = fallback[id] = bytes.fromhex(match[1])
            elif self.byte_level:
                self.tokens[id] = to_bytes(id, token)
            else:
                self.tokens[id] = token.replace(SPACE_MARK, " ").encode()
        self.canonical: dict[bytes, int] = {}
        for id, data in enumerate(self.tokens):
            if data and id not in fallback:
                self.canonical.setdefault(data, id)
        for id in sorted(fallback):
            self.canonical.setdefault(fallback[id], id)

    def __len__(self) -> int:
        return len(self.tokens)

    def same_as(self, other: Vocabulary) -> bool:
        """Whether every id means the same bytes in both; trailing padding rows do not count."""
        shared = min(len(self), len(other))
        return self.tokens[:shared] == other.tokens[:shared] and not any(
            self.tokens[shared:] + other.tokens[shared:]
        )

    def text_ids(self, text: str) -> list[int]:
        """Tokenizes a piece of running text: no prefix space, no control token, read or added."""
        encoding = self._plain_tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self.control.isdisjoint(ids):
            return ids
        # A Unigram model has control tokens among its pieces: cut behind their first characters.
        apart, done = list[int](), 0
        for id, (start, end) in zip(ids, encoding.offsets, strict=True):
            if end - start > 1 and self.is_control(id, text[start:end]):
                apart += self.text_ids(text[done : start + 1])
                done = start + 1
        return apart + self.text_ids(text[done:]) if done else ids

    def is_control(self, id: int, text: str) -> bool:
        """Whether a token that was read from `text` is a control token.

        The unknown token is none where it stands for a text that the vocabulary lacks.
        """
        if id not in self.control:
            return False
        return id != self._tokenizer.unk_token_id or text.strip() == self._tokenizer.unk_token

    def encode_bytes(self, data: bytes) -> list[int] | None:
        """The ids that enter a context for `data`: text as `text_ids`, invalid UTF-8 by the byte.

        Returns None where the vocabulary lacks a single-byte token that this needs.
        """
        ids: list[int] = []
        for stretch in valid_stretches(data):
            if isinstance(stretch, str):
                ids += self.text_ids(stretch)
            elif (id := self.canonical.get(bytes([stretch]))) is not None:
                ids.append(id)
            else:
                return None
        return ids

    def can_encode(self, data: bytes) -> bool:
        """Whether `data` can enter a context with nothing lost."""
        if self._has_all_bytes:
            return True
        if self.byte_level:
            return all(bytes([byte]) in self.canonical for byte in data)
        ids = self.encode_bytes(data)
        return ids is not None and b"".join(self.tokens[id] or b"" for id in ids) == data

    @cached_property
    def _has_all_bytes(self) -> bool:
        return all(bytes([byte]) in self.canonical for byte in range(256))

    @cached_property
    def _plain_tokenizer(self) -> Tokenizer:
        return _without_prefix_or_controls(_backend(self._tokenizer), self.control)


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    name = tokenizer.name_or_path or type(tokenizer).__name__
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(
            f"the tokenizer of {name!r} ({type(tokenizer).__name__}) has no fast backend, so the "
            "bytes of its tokens are unknown; load it with AutoTokenizer from a folder that has "
            "a tokenizer.json"
        )
    kind = type(backend.model).__name__
    suffixed = any(
        getattr(backend.model, field, None)
        for field in ("continuing_subword_prefix", "end_of_word_suffix")
    )
    aligned = isinstance(backend.model, tokenizer_models.BPE | tokenizer_models.Unigram)
    if not aligned or suffixed or not (_is_byte_level(backend) or _marks_spaces(backend)):
        raise ValueError(
            f"the tokenizer of {name!r} ({kind}) cannot be aligned: its tokens do not determine "
            "the bytes of the text; use a model with a byte-level BPE tokenizer (GPT-2, Llama 3, "
            "Qwen) or a SentencePiece-style one (Gemma, Llama 2, Mistral)"
        )
    return backend


def _state(part: Any) -> Any:
    return json.loads(part.__getstate__()) if part is not None else {}


def _parts(part: Any) -> set[str]:
    """The type names of a tokenizer component and of those nested in it."""

    def walk(state: Any) -> Iterator[str]:
        if isinstance(state, dict):
            if "type" in state:
                yield state["type"]
            state = list(state.values())
        if isinstance(state, list):
            for nested in state:
                yield from walk(nested)

    return {name for name in walk(_state(part)) if isinstance(name, str)}


def _is_byte_level(backend: Tokenizer) -> bool:
    return "ByteLevel" in _parts(backend.decoder)


def _marks_spaces(backend: Tokenizer) -> bool:
    parts = _parts(backend.decoder)
    return "Metaspace" in parts or (
        "Replace" in parts and SPACE_MARK in str(_state(backend.decoder))
    )


def _without_prefix_or_controls(backend: Tokenizer, control: Collection[int]) -> Tokenizer:
    """A tokenizer over the same model that adds no prefix space and reads controls as text."""

    def strip(state: Any) -> Any:
        if isinstance(state, list):
            return [strip(part) for part in state if part.get("type") != "Prepend"]
        if not isinstance(state, dict):
            return state
        state = {
            key: strip(value) if key in ("normalizers", "pretokenizers") else value
            for key, value in state.items()
        }
        if state.get("type") == "Metaspace":
            state |= {"prepend_scheme": "never"}
        if state.get("type") == "ByteLevel":
            state |= {"add_prefix_space": False}
        return state

    shell: dict[str, Any] = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}
    for part in ("normalizer", "pre_tokenizer"):
        component = getattr(backend, part)
        keep = component is not None and _state(component).get("type") != "Prepend"
        shell[part] = strip(_state(component)) if keep else None
    added = sorted(backend.get_added_tokens_decoder().items())
    plain = Tokenizer.from_str(json.dumps({"added_tokens": [], **shell}))
    plain.model = backend.model  # shared: a copy of Gemma's takes seconds
    plain.add_tokens([_flagged(token, token.special or id in control) for id, token in added])
    if any(plain.token_to_id(token.content) != id for id, token in added):
        # Ids with gaps between them, which only a file can give.
        whole = json.loads(backend.to_str())
        for entry in whole["added_tokens"]:
            entry["special"] = entry["special"] or entry["id"] in control
        plain = Tokenizer.from_str(json.dumps({**whole, **shell}))
        plain.model = backend.model
    plain.encode_special_tokens = True
    return plain


def _flagged(token: AddedToken, special: bool) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=special,
    )
