"""What a server says twice, as tokens and as text, held against each other.

A token that is lost on the way leaves its text behind. White space is not compared, nor U+FFFD:
servers decode with and without a first space, and hold half a character back or show it.
"""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from ...values import told
from ...vocab.vocabulary import Vocabulary
from .answers import MISSING_TRIES, Chunk
from .errors import PassingError, ServerError

PADDING = 1024
"""How many rows a model may have beyond its tokenizer, rounded up as they are."""

LOST_AT_BREAKS = 4
"""Characters that a server's decoding may lose beside half a character."""


class TokenTexts:
    """The bytes of a model's tokens, as a server may show them.

    Attributes:
        size: no id of the model reaches it.
        special: the texts of special tokens, which servers show or leave out.
        plain: a token that is a text by itself.
    """

    def __init__(self, vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase) -> None:
        self.size = len(vocabulary) + PADDING
        self._bytes = vocabulary.tokens
        self.plain = next(
            (id for id, each in enumerate(vocabulary.tokens) if each and each.isascii()), 0
        )
        self.special: Mapping[int, str] = {
            id: token.content
            for id, token in tokenizer.added_tokens_decoder.items()
            if id >= len(vocabulary) or vocabulary.tokens[id] is None
        }

    def bytes_of(self, id: int) -> bytes:
        """Empty for special tokens and padding."""
        return (self._bytes[id] or b"") if id < len(self._bytes) else b""


class Transcript:
    """One streamed answer so far."""

    def __init__(self, texts: TokenTexts, url: str, max_tokens: int) -> None:
        self._texts, self._url, self._left = texts, url, max_tokens
        self._data, self._text, self._last = b"", "", b""
        self._special: set[str] = set()
        self._has_tokens, self._has_gap, self._has_text = False, False, True

    def add(self, chunk: Chunk) -> None:
        """Takes the next piece in.

        Raises:
            PassingError: a token has no log-probabilities, or is missing.
            ServerError: text and tokens differ, or there are more tokens than asked for.
        """
        if None in chunk.rows or (self._has_gap and chunk.tokens):
            raise PassingError(
                f"{self._url} gives no log-probabilities for one of its tokens",
                tries=MISSING_TRIES,
            )
        self._has_gap |= (chunk.is_gap and self._has_tokens) or chunk.finish is not None
        self._has_tokens |= bool(chunk.tokens)
        self._left -= len(chunk.tokens)
        if self._left < 0:
            raise ServerError(f"{self._url} gives more tokens than it was asked for")
        for token in chunk.tokens:
            self._last = self._texts.bytes_of(token)
            self._data += self._last
            if not self._last and token in self._texts.special:
                self._special.add(self._texts.special[token])
        self._has_text &= chunk.text is not None or not chunk.tokens
        self._text += chunk.text or ""
        self._compare(chunk.finish)

    def end(self) -> None:
        """Compares what is left when the server has said all.

        Raises:
            ServerError: the text lacks some of the tokens.
        """
        self._compare("end")

    def _compare(self, finish: str | None) -> None:
        if not self._has_text:
            return
        written = self._data.decode("utf-8", "replace")
        tokens, text = self._plain(written), self._plain(self._text)
        said = [text]
        if self._data and self._data[0] & 0xC0 == 0x80:
            said.append(text[1:])  # the end of a character that the prompt begins
        is_settled = not is_within_character(self._data)
        if tokens in said:
            is_right = True
        elif "\ufffd" in self._text + written:
            is_right = self._ends_alike(written) or finish is None
            is_settled &= self._ends_alike(written)
        elif finish is None:
            is_right, is_settled = any(tokens.startswith(each) for each in said), False
        else:
            # An end token that is no special one has bytes, which servers leave out of the text.
            without_end = self._data[: len(self._data) - len(self._last)].decode("utf-8", "replace")
            is_right = finish == "stop" and self._plain(without_end) in said
        if is_right and is_settled:
            self._data, self._text, self._last = b"", "", b""
        if not is_right:
            raise ServerError(
                f"{self._url} sends the text {told(self._text)} along with tokens that are "
                f"{told(written)}: some are lost on the way, or "
                "the tokenizer is another model's (pass its own as tokenizer=)"
            )

    def _ends_alike(self, written: str) -> bool:
        """Whether both agree on what follows bytes that are no character.

        A server that goes on from the middle of a character may lose what is next to it.
        """
        ends = [self._plain(each.rpartition("\ufffd")[2]) for each in (written, self._text)]
        shorter, longer = sorted(ends, key=len)
        return longer.endswith(shorter) and len(longer) - len(shorter) <= LOST_AT_BREAKS

    def _plain(self, text: str) -> str:
        for special in self._special:
            text = text.replace(special, "")
        return "".join(text.replace("\ufffd", "").split())


def is_within_character(data: bytes) -> bool:
    """Whether bytes end in the first part of a character."""
    return any(
        byte >= 0xC0 and (0xF0 <= byte) + (0xE0 <= byte) + 2 > place
        for place, byte in enumerate(reversed(data[-3:]), start=1)
    )
