"""Log-probabilities in both of OpenAI's forms, of the distribution that was emitted from."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..candidates import Candidate
from ..engine.pair import Pair
from ..engine.sequence import overlap
from ..models.context import Context
from ..trace import Step

LEAST = -9999.0
"""What OpenAI tells in the place of minus infinity."""


@dataclass(frozen=True)
class Token:
    """A token of an answer.

    Attributes:
        chosen: it.
        top: what else was likely, the likeliest first; None where nothing came before it.
    """

    chosen: Candidate
    top: Sequence[Candidate] | None


def log(prob: float) -> float:
    """The logarithm, as JSON can hold it."""
    return math.log(prob) if prob > 0 else LEAST


@dataclass
class TokenLog:
    """The tokens of one text, given out as their text becomes certain.

    Attributes:
        pair: the models.
        count: how many alternatives are told of.
        is_chat: the form.
        stop: the texts before which this one ends.
        role: which model's end token stands for END.
        offset: how many characters are before the text.
    """

    pair: Pair
    count: int
    is_chat: bool
    stop: Sequence[str]
    role: str = "base"
    offset: int = 0
    _data: bytearray = field(default_factory=bytearray)
    _held: list[tuple[int, Token]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stops = [text.encode() for text in self.stop]
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        model = self.pair.model(self.role)
        self._end = str(model.tokenizer.convert_ids_to_tokens(min(model.end_ids)))

    def add(self, step: Step) -> None:
        """Takes a step."""
        assert step.candidates is not None
        token = Token(step.candidates.chosen, step.candidates.emitted[: self.count])
        self._held.append((len(self._data), token))
        self._data += step.token_bytes

    def released(self, stop_reason: str | None) -> list[Token]:
        """The tokens that begin in the text that is certain; at its end all, up to a stop text."""
        end = len(self._data)
        if stop_reason == "stop":
            found = (self._data.find(stop) for stop in self._stops)
            end = min((place for place in found if place >= 0), default=end)
        elif stop_reason is None:
            end -= max((overlap(self._data, stop) for stop in self._stops), default=0)
        else:
            end += 1  # END, too, which has no bytes
        ready = [token for start, token in self._held if start < end]
        self._held = [] if stop_reason else [each for each in self._held if each[0] >= end]
        return ready

    def form(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """As JSON."""
        return self._of_chat(tokens) if self.is_chat else self._of_completion(tokens)

    def _of_chat(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "content": [
                {
                    **self._told(token.chosen),
                    "top_logprobs": [self._told(each) for each in token.top or ()],
                }
                for token in tokens
            ],
            "refusal": None,
        }

    def _told(self, candidate: Candidate) -> dict[str, Any]:
        data = candidate.token_bytes
        return {
            "token": self._text(candidate),
            "logprob": log(candidate.prob),
            "bytes": list(data) if data else None,
        }

    def _of_completion(self, tokens: Sequence[Token]) -> dict[str, Any]:
        offsets, tops = list[int](), list[dict[str, float] | None]()
        for token in tokens:
            data = token.chosen.token_bytes
            is_continued = data[:1] and data[0] & 0xC0 == 0x80
            is_broken = self._characters.getstate()[0] and not is_continued
            offsets.append(self.offset + bool(is_broken))  # a character that stays half is one
            self.offset += len(self._characters.decode(data))
            if token.top is None:
                tops.append(None)
                continue
            top: dict[str, float] = {}
            own = [token.chosen] if self.count else []
            for each in (*token.top, *own):  # as OpenAI: the chosen one besides
                top.setdefault(self._text(each), log(each.prob))
            tops.append(top)
        return {
            "tokens": [self._text(token.chosen) for token in tokens],
            "token_logprobs": [
                None if token.top is None else log(token.chosen.prob) for token in tokens
            ],
            "top_logprobs": tops if self.count else None,
            "text_offset": offsets,
        }

    def _text(self, candidate: Candidate) -> str:
        """A token as text; of half a character its bytes, as OpenAI writes them."""
        if candidate.is_end:
            return self._end
        try:
            return candidate.token_bytes.decode() or candidate.text
        except UnicodeDecodeError:
            written = "".join(f"\\x{byte:02x}" for byte in candidate.token_bytes)
            return written if self.is_chat else f"bytes:{written}"


POSITIONS_AT_ONCE = 64
"""Positions whose logits are held at once; one of a large vocabulary is a megabyte."""


@torch.inference_mode()
def prompt_tokens(pair: Pair, ids: Sequence[int], count: int) -> list[Token]:
    """The tokens of a prompt as the base alone sees them; the first has nothing before it.

    Args:
        pair: the models; the base runs here.
        ids: the prompt.
        count: how many alternatives are told of.
    """
    model, tokens = pair.base, [Token(_own(pair, ids[0], 1.0), None)]
    context = Context([], expected=len(ids))
    try:
        for begin in range(0, len(ids) - 1, POSITIONS_AT_ONCE):
            following = ids[begin + 1 : begin + 1 + POSITIONS_AT_ONCE]
            context.ids += ids[begin : begin + len(following)]
            (logits,) = model.score_batch([context], [len(following)])
            probs = logits.float().softmax(dim=-1)
            chosen = probs[range(len(following)), following].tolist()
            top = probs.topk(max(1, count), dim=-1)
            for id, prob, likely, likely_probs in zip(
                following, chosen, top.indices.tolist(), top.values.tolist(), strict=True
            ):
                listed = zip(likely[:count], likely_probs, strict=False)
                tokens.append(Token(_own(pair, id, prob), [_own(pair, *each) for each in listed]))
    finally:
        model.leave(context)
    return tokens


def _own(pair: Pair, id: int, prob: float) -> Candidate:
    """One of the base's tokens by itself."""
    data = pair.base.vocabulary.tokens[id] or b""
    name = str(pair.base.tokenizer.convert_ids_to_tokens(id))
    return Candidate("" if data else name, data, prob, base_id=id)
