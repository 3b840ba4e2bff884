"""Text that others wrote (models, data, names of files), fit to be shown: control characters seen.

An escape sequence in an answer would set a terminal's title, wipe its screen or write over what is
there, and a bidirectional override would show a name in another order than it has. What goes to a
terminal, a log, a page or a file that people read goes through `visible`.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any

# The controls C0 (without tab and newline) and C1, Unicode's Bidi_Control and its deprecated
# kin, its line and paragraph separators, and halves of surrogate pairs, which no file takes.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
)


def visible(text: object, one_line: bool = False) -> str:
    r"""A text with its control characters written as Python writes them: `\x1b`, `\u202e`.

    Tabs and newlines stay as they are, and a carriage return before a newline goes. All that is
    left can be encoded in UTF-8.

    Args:
        text: a text, or what is to be shown as one: a path, an error.
        one_line: whether tabs and newlines are written out, too, as in a name.
    """
    shown = _CONTROLS.sub(_escaped, str(text).replace("\r\n", "\n"))
    return re.sub(r"[\t\n]", _escaped, shown) if one_line else shown


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def to_json(
    value: Any, *, encoding: str = "utf-8", indent: int | None = None, allow_nan: bool = True
) -> str:
    """JSON of the same value, in which no control character stands as it is.

    Args:
        value: what `json.dumps` takes.
        encoding: of where it goes; where that lacks a character, the whole is written in ASCII.
        indent: as `json.dumps` takes it.
        allow_nan: as `json.dumps` takes it.

    Raises:
        TypeError, ValueError: as `json.dumps` does.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=allow_nan)
    text = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


class VisibleMessages(logging.Filter):
    """Lets a logger's messages through with their control characters made visible."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if (shown := visible(message)) != message:
            record.msg, record.args = shown, ()
        return True
