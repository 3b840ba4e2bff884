"""One prompt or many: what callers pass as prompts, texts and settings, taken apart into rows.

Whatever yields texts is a list of them: a tuple, a generator, a set, an array, a column of a table.
Chat messages are one prompt, and a message alone is a conversation of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..prompts import Prompt, RenderedPrompt
from ..values import SettingTypeError, Text, encodable, plain, shown, told

TEXT = Text()
"""The kind of a prompt given whole, and of a text that is scored."""


class Column(list[Any]):
    """A value for each row of a call."""


def prompts_or_column(name: str, value: Any) -> Any:
    """A caller's prompts: None, one of them, or a `Column`.

    Args:
        name: of the argument.
        value: what was passed; an iterator is exhausted.

    Raises:
        ValueError: for a whole table.
    """
    value = plain(value)
    if isinstance(value, Column) or not _is_iterable(value):
        return value
    if isinstance(value, Mapping):
        return [value]
    if getattr(value, "ndim", 1) > 1:
        raise SettingTypeError(
            f"{shown(name)} is a {type(value).__name__} of {value.ndim} dimensions; pass one of "
            "its columns"
        )
    cells = list(value)
    if cells and all(isinstance(each, Mapping) for each in cells):
        return cells
    return Column(cells)


def texts_or_column(name: str, value: Any) -> Any:
    """A caller's texts: None, one of them, or a `Column`.

    Raises:
        ValueError: for messages, or a whole table.
    """
    found = prompts_or_column(name, value)
    if isinstance(found, list) and not isinstance(found, Column):
        raise SettingTypeError(
            f"{shown(name)} is {told(value)}; use a text or a list of texts (messages go into "
            f"{shown('prompt')})"
        )
    return found


def one_prompt(name: str, value: Any) -> Prompt | None:
    """One prompt, a text or messages, as plain Python.

    Raises:
        ValueError: it is neither, or a text that cannot be encoded.
    """
    value = prompts_or_column(name, value)
    if value is None:
        return None
    if isinstance(value, Column):
        if value:
            raise SettingTypeError(
                f"{shown(name)} is {told(list(value))}; use a text or chat messages, one prompt "
                "in this place"
            )
        return []
    if isinstance(value, list):
        return [_plain_part(name, message) for message in value]
    return TEXT(name, value)


def one_text(name: str, value: Any) -> str:
    """One text, as a `str` proper or with the tokens that it has.

    Raises:
        ValueError: it is none.
    """
    text = TEXT(name, value) or ""
    return value if isinstance(value, RenderedPrompt) else text


def one_or_each(name: str, value: Any, count: int) -> Any:
    """A setting's value for all of `count` rows, or a `Column` with one each.

    Of `stop`, a list of texts is for all rows, and a list of such lists one for each.

    Raises:
        ValueError: for another number of values, or values in no order.
    """
    value = plain(value)
    if not _is_iterable(value) or isinstance(value, Mapping):
        return value
    cells = list(value)
    if name == "stop" and all(isinstance(each, str) for each in cells):
        return cells
    if isinstance(value, (set, frozenset)):
        raise SettingTypeError(f"{shown(name)} is a set, which has no order: use a list")
    if len(cells) != count:
        raise ValueError(
            f"{shown(name)} has {len(cells)} values for {count} prompts: give one for all, or "
            "one each"
        )
    return Column(cells)


def _is_iterable(value: Any) -> bool:
    """Whether it yields several values; texts and bytes are one."""
    if isinstance(value, (str, bytes, bytearray, memoryview, type)):
        return False
    try:
        iter(value)
    except TypeError:
        return False
    return True


def _plain_part(name: str, value: Any) -> Any:
    """A message, or a part of one, of plain dictionaries, lists and texts."""
    value = plain(value)
    if isinstance(value, str):
        return encodable(name, value)
    if isinstance(value, Mapping):
        return {key: _plain_part(name, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_part(name, each) for each in value]
    return value
