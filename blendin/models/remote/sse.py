"""Server-sent events, from the bytes of a response.

httpx's `aiter_lines` breaks at U+2028, U+2029 and U+0085 as well, which servers send raw within
JSON; an event's lines end at CR, LF or CRLF alone. Read as bytes, for UTF-8 has those in no other
character.
https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import NamedTuple

MAX_EVENT_BYTES = 1 << 28
"""Far above any honest one: 128 tokens with all log-probabilities of a large vocabulary."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event that has data.

    Attributes:
        data: its data lines, joined by line feeds.
        kind: its name; empty where it has none.
    """

    data: str
    kind: str = ""


class LongEventError(ValueError):
    """An event of more than `MAX_EVENT_BYTES`."""


async def events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[Event, None]:
    """The events in a stream of bytes, however it is cut; without data there is none.

    The last one counts even if the stream ends before the blank line after it.

    Raises:
        LongEventError: an event that does not end.
    """
    lines, decoder = _Lines(), _Decoder()
    async for chunk in chunks:
        for line in lines.feed(chunk):
            if (event := decoder.feed(line)) is not None:
                yield event
        if lines.pending + decoder.pending > MAX_EVENT_BYTES:
            raise LongEventError(f"an event of more than {MAX_EVENT_BYTES} bytes")
    for line in (lines.rest(), b""):
        if (event := decoder.feed(line)) is not None:
            yield event


class _Lines:
    """Cuts bytes into lines.

    Attributes:
        pending: how many bytes wait for the end of their line.
    """

    def __init__(self) -> None:
        self.pending = 0
        self._parts: list[bytes] = []
        self._is_after_cr, self._is_first = False, True

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in another chunk."""
        if self._is_after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of a CRLF
            self._is_after_cr = False
        self._is_after_cr |= chunk.endswith(b"\r")
        *lines, rest = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if lines:
            lines[0] = self._joined(lines[0])
            self._parts, self.pending = [], 0
            if self._is_first:
                lines[0], self._is_first = lines[0].removeprefix(BYTE_ORDER_MARK), False
        self._parts.append(rest)
        self.pending += len(rest)
        return lines

    def rest(self) -> bytes:
        """The last line, which nothing ended."""
        rest = self._joined(b"")
        return rest.removeprefix(BYTE_ORDER_MARK) if self._is_first else rest

    def _joined(self, end: bytes) -> bytes:
        return b"".join((*self._parts, end))


class _Decoder:
    """Gathers lines to events.

    Attributes:
        pending: how many bytes the event has so far.
    """

    def __init__(self) -> None:
        self.pending = 0
        self._kind, self._data = "", list[str]()

    def feed(self, line: bytes) -> Event | None:
        """The event that a line ends, if it ends one that has data."""
        if not line:
            event = Event("\n".join(self._data), self._kind)
            self.pending, self._kind, self._data = 0, "", []
            return event if event.data else None
        field, _, value = line.partition(b":")  # a comment is a field without a name
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if field == b"data":
            self._data.append(text)
            self.pending += len(value)
        elif field == b"event":
            self._kind = text
        return None
