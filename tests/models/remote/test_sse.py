"""Server-sent events are read as the standard says, however their bytes are cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from blendin.models.remote import sse
from blendin.models.remote.sse import Event, LongEventError, events

RAW = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei"
"""Characters at which `str.splitlines` breaks lines, and these events do not."""


def read(*chunks: bytes) -> list[Event]:
    async def arriving() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def gathered() -> list[Event]:
        return [event async for event in events(arriving())]

    return asyncio.run(gathered())


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("data: one||data: two||", [Event("one"), Event("two")]),
        (f"data: {RAW}||", [Event(RAW)]),
        ("data: one|data: two|data:|data: 3||", [Event("one\ntwo\n\n3")]),
        (": ping||data: one||: ping||||", [Event("one")]),
        ("data||data:||event: x||id: 7||retry: 9||data: one||", [Event("one")]),
        ("event: error|data: no||data: yes||", [Event("no", "error"), Event("yes")]),
        ("data:one||data:  two||", [Event("one"), Event(" two")]),
        ("data: a: b|other: c|nothing||", [Event("a: b")]),
        ("data: last", [Event("last")]),
        ("data: last|", [Event("last")]),
        ("\ufeffdata: one||", [Event("one")]),
        ("\ufeffdata: one", [Event("one")]),
        ("data: 你👍||", [Event("你👍")]),
        ("", []),
    ],
)
def test_an_event_is_what_its_lines_say(end: str, lines: str, expected: list[Event]) -> None:
    data = lines.replace("|", end).encode()
    assert read(data) == expected
    assert read(*(bytes([byte]) for byte in data)) == expected
    for cut in range(len(data)):
        assert read(data[:cut], b"", data[cut:]) == expected


def test_an_event_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    for piece in (b"data: " + b"x" * 90, b"data: " + b"x" * 90 + b"\n"):
        with pytest.raises(LongEventError):
            read(*[piece] * 20)
    assert len(read(*[b"data: " + b"x" * 90 + b"\n\n"] * 20)) == 20
