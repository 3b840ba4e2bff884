"""Answers, whole or in events, from texts while they are decoded."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

from ..engine.live import Live
from ..protocol.report import report
from ..trace import Generation, Step
from .logprobs import Token, TokenLog
from .requests import Asked

FINISH = {"end": "stop", "stop": "stop", "length": "length", None: "length"}
"""OpenAI's words for how texts end; of one that was cut `blendin.cut` says why."""

DONE = b"data: [DONE]\n\n"


@dataclass
class Text:
    """One text of an answer.

    Attributes:
        live: the request in the queue; None where there is nothing to decode.
        index: its place.
        echoed: what goes before it.
        log: its tokens, where they are told of.
        told_steps: whether its steps are.
        cut: why it was ended before its time.
        is_counted: whether the server's counts have its end.
    """

    live: Live | None
    index: int
    echoed: str
    log: TokenLog | None
    tells_steps: bool
    prompt: Sequence[Token] = ()
    cut: str | None = None
    is_counted: bool = False
    _new_steps: list[Step] = field(default_factory=list)

    @property
    def output(self) -> Generation:
        """What there is of it."""
        return Generation(stop_reason="length") if self.live is None else self.live.output

    def report(self) -> dict[str, Any]:
        """What was done for it."""
        output = self.output
        told = report(output, self.tells_steps)
        if output.settings.get("do_sample") and self.live is not None:
            told["seed"] = output.settings["seed"] + self.live.sequence.index
        if self.cut is not None:
            told["cut"] = self.cut
        return told

    def add(self, steps: Sequence[Step]) -> None:
        """Takes steps as they come."""
        if self.tells_steps:
            self._new_steps += steps
        if self.log is not None:
            for step in steps:
                self.log.add(step)

    def new_steps(self) -> list[dict[str, Any]]:
        """The steps that no event has told of."""
        steps, self._new_steps = self._new_steps, []
        return [step.to_dict() for step in steps]

    def new_logprobs(self) -> dict[str, Any] | None:
        """The tokens that no event has told of."""
        if self.log is None:
            return None
        prompt, self.prompt = self.prompt, ()
        if self.live is None:
            return self.log.form(prompt)
        return self.log.form([*prompt, *self.log.released(self.output.stop_reason)])


@dataclass
class Answer:
    """The answer to one request.

    Attributes:
        asked: the request.
        texts: those that it asked for.
        prompt_tokens: how many tokens its prompts have.
        arrived: when, by the monotonic clock.
    """

    asked: Asked
    texts: Sequence[Text]
    prompt_tokens: int
    arrived: float
    id: str = field(default_factory=lambda: token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self) -> dict[str, Any]:
        """All of it, once every text has ended."""
        return {
            **self._head("chat.completion" if self.asked.is_chat else "text_completion"),
            "choices": [self._choice(text) for text in self.texts],
            "usage": self.usage(),
            "blendin": self.report(),
        }

    def leave(self) -> None:
        """Ends what has not ended."""
        for text in self.texts:
            if text.live is not None:
                text.live.cancel()

    def report(self) -> dict[str, Any]:
        """What was done for it: the report of its text, or of several together and of each."""
        reports = [text.report() for text in self.texts]
        if len(reports) == 1:
            return reports[0]
        totals = {
            name: sum(report[name] for report in reports)
            for name in ("interventions", "steps", "guide_forwards", "base_forwards")
        }
        rate = totals["interventions"] / totals["steps"] if totals["steps"] else 0.0
        return {
            "policy": reports[0]["policy"], "intervention_rate": rate, **totals, "choices": reports,
        }  # fmt: skip

    def usage(self) -> dict[str, int]:
        """Tokens read and steps made."""
        made = sum(len(text.output.steps) for text in self.texts)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }

    def first_event(self, text: Text) -> bytes | None:
        """What goes before a text: the assistant's role, or what is echoed."""
        ours: dict[str, Any] = {}
        if text.tells_steps:
            ours = {"blendin": {"settings": dict(text.output.settings)}}
        if self.asked.is_chat:
            return self._event(text, {"role": "assistant", "content": ""}, **ours)
        if text.echoed or text.prompt or ours:
            logprobs = text.new_logprobs() if text.prompt else None
            return self._event(text, text.echoed, logprobs=logprobs, **ours)
        return None

    def event(self, text: Text, steps: Sequence[Step]) -> bytes | None:
        """The event of some further steps; None where their text is not certain yet."""
        text.add(steps)
        said = "".join(step.text for step in steps)
        if not said:
            return None
        ours: dict[str, Any] = {}
        if text.tells_steps:
            ours = {"blendin": {"new_steps": text.new_steps()}}
        content = {"content": said} if self.asked.is_chat else said
        return self._event(text, content, logprobs=text.new_logprobs(), **ours)

    def last_event(self, text: Text) -> bytes:
        """How a text ended, and what was done for it."""
        ours = text.report() | ({"new_steps": text.new_steps()} if text.tells_steps else {})
        return self._event(
            text, {} if self.asked.is_chat else "", logprobs=text.new_logprobs(),
            finish_reason=FINISH[text.output.stop_reason], blendin=ours,
        )  # fmt: skip

    def usage_event(self) -> bytes:
        """The usage, after all texts."""
        return as_event({**self._head(self._chunk), "choices": [], "usage": self.usage()})

    @property
    def _chunk(self) -> str:
        return "chat.completion.chunk" if self.asked.is_chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.asked.is_chat else "cmpl"
        return {
            "id": f"{prefix}-{self.id}", "object": kind, "created": self.created,
            "model": self.asked.model,
        }  # fmt: skip

    def _choice(self, text: Text) -> dict[str, Any]:
        said = text.echoed + text.output.text
        if self.asked.is_chat:
            content: dict[str, Any] = {
                "message": {"role": "assistant", "content": said, "refusal": None}
            }
        else:
            content = {"text": said}
        return {
            "index": text.index, **content, "logprobs": text.new_logprobs(),
            "finish_reason": FINISH[text.output.stop_reason],
        }  # fmt: skip

    def _event(
        self,
        text: Text,
        content: Any,
        *,
        logprobs: Any = None,
        finish_reason: str | None = None,
        **further: Any,
    ) -> bytes:
        choice = {
            "index": text.index, "delta" if self.asked.is_chat else "text": content,
            "logprobs": logprobs, "finish_reason": finish_reason,
        }  # fmt: skip
        usage = {"usage": None} if self.asked.include_usage else {}
        return as_event({**self._head(self._chunk), "choices": [choice], **usage, **further})


def as_event(told: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(told, separators=(',', ':'))}\n\n".encode()
