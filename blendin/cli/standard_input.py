"""What comes in on standard input: text, in whatever encoding it says that it is in."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from ..text_files import decoded, encoding_of
from ..text_files import lines as split_lines

REMEDY = "send it as UTF-8, or give the prompt as an argument"


def read() -> str:
    """All that comes, without a byte order mark, each line ended by a newline.

    Raises:
        ValueError: standard input is closed, or what comes is no text.
    """
    return "\n".join(_split(_chunks(whole=True)))


def lines() -> Iterator[str]:
    """The lines as they come; those that are typed are asked for by a prompt. Ctrl-C ends them.

    Raises:
        ValueError: as `read` does.
    """
    try:
        if sys.stdin is None or not sys.stdin.isatty():
            yield from _split(_chunks(whole=False))
            return
        while True:
            yield input("> ")
    except UnicodeDecodeError as error:
        raise ValueError(f"the line is no {error.encoding} text: type it again") from None
    except (EOFError, KeyboardInterrupt):
        return


def _split(chunks: Iterable[str]) -> Iterator[str]:
    for chunk in chunks:
        yield from split_lines(chunk)


def _chunks(whole: bool) -> Iterator[str]:
    """Lines with their ends, or all at once, as they must be in UTF-16."""
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("standard input is closed: give the prompt as an argument, or a file")
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:  # a stand-in that has text already
        yield from [sys.stdin.read()] if whole else sys.stdin
        return
    first = stream.read() if whole else stream.readline()
    encoding = encoding_of(first)
    if not encoding.startswith("utf-8"):
        first += stream.read()
    yield _decoded(first, encoding)
    for line in stream:
        yield _decoded(line, "utf-8")


def _decoded(data: bytes, encoding: str) -> str:
    """Text in an encoding; what is no UTF-8 may be in the one that the terminal has been told."""
    others = (sys.stdin.encoding or encoding,) if encoding == "utf-8" else ()
    return decoded(data, "standard input", REMEDY, encoding, *others)
