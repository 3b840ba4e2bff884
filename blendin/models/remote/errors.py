"""What goes wrong with a server: for good, for a while, or because a context is full."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...trace import Generation

LONGEST_QUOTED = 500
SHORTEST_SECRET = 6
"""Characters of a header's value that is hidden in messages; a shorter one is no secret."""

PLAIN_HEADERS = frozenset(
    {
        *("host", "accept", "accept-encoding", "connection", "user-agent"),
        *("content-length", "content-type"),
    }
)


class ServerError(ConnectionError):
    """A server that cannot be reached or refuses; the message names its URL and what to change.

    Attributes:
        output: the `Generation` as far as it was decided, where one sequence was.
    """

    output: Generation | None = None


class PassingError(ServerError):
    """A failure that another try, or another replica, may not meet.

    Attributes:
        wait: seconds after which the server wants to be asked again, where it says so.
        tries: so many in a row, and it is held for a lasting one; None: as patience allows.
    """

    def __init__(self, message: str, wait: float | None = None, tries: int | None = None) -> None:
        super().__init__(message)
        self.wait, self.tries = wait, tries


class ContextFullError(ServerError):
    """A text and what was asked for are longer than the server's context.

    Attributes:
        limit: how many tokens that holds, where the server says so.
    """

    def __init__(self, message: str, limit: int | None = None) -> None:
        super().__init__(message)
        self.limit = limit


def one_line(text: object) -> str:
    """What a server says, shortened, without line ends and control characters."""
    words = " ".join(str(text).split())[:LONGEST_QUOTED]
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "replace").decode()
        for each in words
    )


def without_secrets(text: str, headers: Mapping[str, str]) -> str:
    """A message in which no value of a request's own headers stands, such as its API key."""
    for name, value in headers.items():
        secret = value.removeprefix("Bearer ")
        if name.lower() not in PLAIN_HEADERS and len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "[hidden]")
    return text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, given as a number or as a date; None for none."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
