"""One sequence while it is being decoded: both contexts, the text so far, the record."""

from __future__ import annotations

import codecs
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..models.context import Context
from ..models.protocol import Model
from ..models.remote.errors import ContextFullError
from ..policy import Policy
from ..sampling import Sampling
from ..settings import KINDS
from ..trace import Generation, Step, StopReason
from ..values import check_fields, setting
from ..vocab.alignment import Alignment

if TYPE_CHECKING:
    from ..speculation.speculator import Speculator

logger = logging.getLogger("blendin")

Role = Literal["base", "guide"]


@dataclass(frozen=True)
class Limits:
    """When a sequence ends without END.

    Attributes:
        max_new_tokens: steps at most, from 1 up.
        stop: the text ends before the first of these.
    """

    max_new_tokens: int = setting(256, KINDS["max_new_tokens"])
    stop: tuple[str, ...] = setting((), KINDS["stop"])

    def __post_init__(self) -> None:
        check_fields(self)


class SequenceState:
    """One sequence while it is decoded; models and policies hold nothing of it.

    Attributes:
        base: the base's context; None where the policy never asks it.
        guide: the guide's context; None where the policy never asks it.
        index: its place in the caller's list.
        policy: what to do at a step.
        memory: what the policy keeps of this sequence.
        sampling: how a symbol is taken.
        trace_top: how many candidates of each step its trace keeps.
        generator: for its draws alone, so that company does not change them.
        interventions: steps at which it intervened.
        preempted: its caches found no room at this step; it has to wait for others to end.
        pending_bytes: what the base wrote alone and the guide's context has not gained yet.
        data: the bytes emitted.
        output: the record.
        error: why it failed, if it did.
        speculator: of its next tokens; None where it does not speculate.
    """

    def __init__(
        self,
        alignment: Alignment,
        base: Context | None,
        guide: Context | None,
        *,
        policy: Policy,
        limits: Limits,
        sampling: Sampling,
        index: int,
        settings: dict[str, Any],
        speculator: Speculator | None = None,
        trace_top: int = 0,
    ) -> None:
        self.alignment, self.base, self.guide, self.limits = alignment, base, guide, limits
        self.index, self.speculator, self.trace_top = index, speculator, trace_top
        self.policy, self.memory = policy, policy.memory()
        self.sampling, self.generator = sampling, sampling.generator(index)
        self.preempted, self.interventions = False, 0
        self.pending_bytes, self.data = bytearray(), bytearray()
        self.output = Generation(settings=settings)
        self.error: Exception | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [text.encode() for text in limits.stop]
        self._released = 0
        self._started: float | None = None

    def start(self) -> None:
        """Starts the clock, once."""
        if self._started is None:
            self._started = time.perf_counter()

    @property
    def done(self) -> bool:
        return self.output.stop_reason is not None or self.error is not None

    @property
    def asks_base(self) -> bool:
        """Whether its next step begins with the base."""
        return self.policy.reads_base and self.memory.asks_base

    @property
    def asks_target(self) -> bool:
        """Whether its next step begins with the target model."""
        return self.asks_base or not self.policy.reads_base

    def context(self, role: Role) -> Context:
        """What the base or the guide has read of it."""
        context = self.base if role == "base" else self.guide
        assert context is not None, f"{self.policy} reads no {role}"
        return context

    def can_be_read(self, model: Model, role: Role) -> bool:
        """Whether a model has room for all of its context.

        Where the model's own length is reached the text ends; where the caches are full the
        sequence is `preempted`.
        """
        context = self.context(role)
        if model.max_length is not None and len(context.ids) > model.max_length:
            logger.warning(
                "%s has filled its context of %d tokens: the text ends there",
                model.name,
                model.max_length,
            )
            self.finish("length")
            return False
        self.preempted = not model.has_room(context)
        return not self.preempted

    def may_intervene(self) -> bool:
        """Whether the policy's memory lets the next step be an intervention."""
        steps = len(self.output.steps)
        return self.guide is not None and self.memory.allows(steps, self.interventions)

    @contextmanager
    def failing_alone(self) -> Iterator[None]:
        """What goes wrong with one sequence ends that one, with the error in its result."""
        try:
            yield
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Ends it with an error; what it has so far is kept.

        A server's context that is full ends a text as a local model's does.
        """
        if isinstance(error, ContextFullError) and self.output.steps:
            logger.warning("%s: the text ends there", error)
            self.finish("length")
            return
        self.error, self.output.error = error, str(error) or type(error).__name__
        self.finish(None)

    def append_base(self, id: int) -> None:
        """The base's own token enters its context, and waits for the guide's."""
        assert self.base is not None
        self.base.ids.append(id)
        if self.guide is None:
            return
        if not self.alignment.same:
            self.pending_bytes += self.alignment.base.tokens[id] or b""
        elif id < len(self.alignment.guide):
            self.guide.ids.append(id)

    def append_both(self, symbol: int) -> list[int]:
        """A symbol chosen at an intervention enters each context as that model's own token.

        Returns the ids that entered the base's.
        """
        assert self.base is not None and self.guide is not None
        base_ids = self.alignment.base_ids(symbol)
        self.base.ids += base_ids
        guide_ids = self.alignment.guide_ids(symbol)
        if guide_ids is None:
            self.pending_bytes += self.alignment.data(symbol)
        else:
            self.guide.ids += guide_ids
        return base_ids

    def guide_catches_up(self) -> bool:
        """Brings the guide's context up to date, as one encoding of all that it missed.

        False where the guide has no tokens for it (half a character, and no byte tokens).
        """
        assert self.guide is not None
        ids = self.alignment.guide.encode_bytes(bytes(self.pending_bytes))
        if ids is None:
            return False
        self.guide.ids += ids
        self.pending_bytes.clear()
        return True

    def record(self, data: bytes, **fields: Any) -> Step:
        """Adds a step and ends the sequence where END, a stop text or the limit says so."""
        searched = max(0, len(self.data) + 1 - max(map(len, self._stops), default=0))
        self.data += data
        matches = [self.data.find(stop, searched) for stop in self._stops]
        cut = min((match for match in matches if match >= 0), default=None)
        reason: StopReason | None = None
        if fields.get("is_end"):
            reason = "end"
        elif cut is not None:
            reason = "stop"
        elif len(self.output.steps) + 1 == self.limits.max_new_tokens:
            reason = "length"
        text = self._release(cut, final=reason is not None)
        step = Step(text=text, token_bytes=data, **fields)
        self.output.steps.append(step)
        self.interventions += step.intervened
        self.output.text += text
        self.finish(reason)
        return step

    def _release(self, cut: int | None, final: bool) -> str:
        """The text that has become certain.

        Half a character is held back, and a tail that may grow into a stop text, until what
        follows decides.

        Args:
            cut: where a stop text begins that is complete.
            final: nothing follows.
        """
        end = len(self.data) if cut is None else cut
        if not final:
            end -= max((_overlap(self.data, stop) for stop in self._stops), default=0)
        released, self._released = self._released, end
        return self._decoder.decode(bytes(self.data[released:end]), final=final)

    def finish(self, reason: StopReason | None) -> None:
        """Sets the stop reason, where there is one, and the time."""
        self.output.stop_reason = reason
        self.output.base_forwards = 0 if self.base is None else self.base.forwards
        self.output.guide_forwards = 0 if self.guide is None else self.guide.forwards
        if self._started is not None:
            self.output.seconds = time.perf_counter() - self._started


def _overlap(data: bytearray, stop: bytes) -> int:
    """How many of the last bytes are the first ones of a stop text that is not complete."""
    longest = min(len(stop) - 1, len(data))
    return next((count for count in range(longest, 0, -1) if data.endswith(stop[:count])), 0)
