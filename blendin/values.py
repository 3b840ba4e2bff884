"""What a value may be that a caller passes: the kinds of settings, each checked and made plain.

A kind is called with the setting's name and the value. It returns the value as plain Python
(numbers may come as numpy's, torch's, `Decimal` or `Fraction`), so that whatever is recorded goes
into JSON, or refuses it with one sentence that names the setting as the caller spells it.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, SupportsIndex

Kind = Callable[[str, Any], Any]
"""Checks a setting's value, given its name."""

_LONGEST_SHOWN = 80


class SettingTypeError(TypeError, ValueError):
    """A value of the wrong type: a `ValueError`, as every refusal of a value is."""


_spelling: ContextVar[Callable[[str, Any], str] | None] = ContextVar("spelling", default=None)


@contextmanager
def spelled(spelling: Callable[[str, Any], str]) -> Iterator[None]:
    """Within it, errors name settings as another interface does: `--do-sample`, `until`.

    Args:
        spelling: from a setting's name, and its value or None, to how it is written.
    """
    token = _spelling.set(spelling)
    try:
        yield
    finally:
        _spelling.reset(token)


def shown(name: str, value: Any = None) -> str:
    """A setting as the caller writes it: `do_sample`, or `do_sample=True`."""
    if (spelling := _spelling.get()) is not None:
        return spelling(name, value)
    return name if value is None else f"{name}={value}"


def told(value: Any) -> str:
    """A value in an error: its repr in one line, shortened."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


def plain(value: Any) -> Any:
    """numpy's and torch's scalars, and arrays without dimensions, as Python's; others unchanged."""
    item = getattr(value, "item", None)
    if item is None or isinstance(value, type) or getattr(value, "ndim", None) != 0:
        return value
    try:
        return item()
    except Exception:  # a tensor without data
        return value


def encodable(name: str, text: str) -> str:
    """A text as a `str` proper.

    Raises:
        ValueError: for half of a surrogate pair, which is no character.
    """
    text = str.__str__(text)  # of a subclass, too
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{shown(name)} has a lone surrogate, {text[error.start]!r} at {error.start}, which is "
            'no text: decode its bytes with errors="replace"'
        ) from None
    return text


@dataclass(frozen=True)
class Text:
    """A text, which may be empty.

    Attributes:
        none: whether None is a value too.
    """

    none: bool = False

    def __call__(self, name: str, value: Any) -> str | None:
        value = plain(value)
        if value is None and self.none:
            return None
        if isinstance(value, (bytes, bytearray, memoryview)):
            raise SettingTypeError(f"{shown(name)} is {told(value)}: decode it first, to a text")
        if not isinstance(value, str):
            raise SettingTypeError(f"{shown(name)} is {told(value)}; use a text{_one(value)}")
        return encodable(name, value)


@dataclass(frozen=True)
class Integer:
    """An integer, however it is written; 8.0 is 8.

    Attributes:
        low: the lowest.
        high: the highest; None where there is none.
        none: what None means; empty where it is no value.
    """

    low: int
    high: int | None = None
    none: str = ""

    def __call__(self, name: str, value: Any) -> int | None:
        value = plain(value)
        if value is None and self.none:
            return None
        whole = _whole(value)
        if whole is None or whole < self.low or (self.high is not None and whole > self.high):
            bounds = f"from {self.low} up" if self.high is None else f"{self.low} to {self.high}"
            allowed = f"an integer {bounds}" + f", or None for {self.none}" * bool(self.none)
            raise _refusal(value, f"{shown(name)} is {told(value)}; use {allowed}{_one(value)}")
        return whole


@dataclass(frozen=True)
class Real:
    """A finite number.

    Attributes:
        low: the lowest.
        high: the highest.
        above: whether `low` itself is too low.
        none: what None means; empty where it is no value.
        symbol: its letter in the papers.
        advice: what to use instead, where the bounds do not say it.
    """

    low: float
    high: float = math.inf
    above: bool = False
    none: str = ""
    symbol: str = ""
    advice: str = ""

    def __call__(self, name: str, value: Any) -> float | None:
        value = plain(value)
        if value is None and self.none:
            return None
        number = _real(value)
        low = number is not None and (number > self.low if self.above else number >= self.low)
        if number is None or not low or number > self.high:
            letter = f" ({self.symbol})" if self.symbol else ""
            raise _refusal(
                value,
                f"{shown(name)}{letter} is {told(value)}; {self._percent(number)}"
                f"{self.advice or self._bounds()}{_one(value)}",
            )
        return number

    def _bounds(self) -> str:
        start = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        end = " up" * (not self.above) if self.high == math.inf else f" to {self.high:g}"
        return f"use a number {start}{end}" + f", or None for {self.none}" * bool(self.none)

    def _percent(self, number: float | None) -> str:
        is_percent = self.high <= 2 and number is not None and 2 < number <= 100
        return f"did you mean {number / 100:g}? " if is_percent and number else ""


@dataclass(frozen=True)
class Flag:
    """True or False; 1 and 0 count as such, texts do not.

    Attributes:
        none: what None means; empty where it is no value.
    """

    none: str = ""

    def __call__(self, name: str, value: Any) -> bool | None:
        value = plain(value)
        if value is None and self.none:
            return None
        if not isinstance(value, bool) and _whole(value) not in (0, 1):
            allowed = "True or False" + f", or None for {self.none}" * bool(self.none)
            raise SettingTypeError(f"{shown(name)} is {told(value)}; use {allowed}{_one(value)}")
        return bool(value)


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def __call__(self, name: str, value: Any) -> str:
        value = plain(value)
        if not isinstance(value, str) or value not in self.words:
            words = ", ".join(map(repr, self.words))
            raise _refusal(value, f"{shown(name)} is {told(value)}; use one of {words}")
        return str.__str__(value)


def setting(default: Any, kind: Kind, **metadata: Any) -> Any:
    """A dataclass's field with a default and the kind of its values."""
    return field(default=default, metadata={"kind": kind, **metadata})


def check_fields(instance: Any) -> None:
    """Checks the fields of a frozen dataclass that have a kind, and makes their values plain."""
    for each in fields(instance):
        if (kind := each.metadata.get("kind")) is not None:
            object.__setattr__(instance, each.name, kind(each.name, getattr(instance, each.name)))


def for_json(value: Any) -> Any:
    """A value as JSON can hold it; what it has no word for is told by its repr."""
    value = plain(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if (number := _whole(value)) is not None and not isinstance(value, float):
        return number
    if isinstance(value, (numbers.Real, Decimal)):
        return float(value)
    if is_dataclass(value) and not isinstance(value, type):
        return for_json(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): for_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [for_json(each) for each in value]
    return repr(value)


def _whole(value: Any) -> int | None:
    """The integer that a value is, if it is one; None for texts and truth values."""
    if isinstance(value, (bool, type)):
        return None
    if isinstance(value, SupportsIndex) and not isinstance(value, Iterable):
        return operator.index(value)
    if not isinstance(value, (numbers.Real, Decimal)):
        return None
    try:
        whole = operator.index(math.trunc(value))
        return whole if value == whole else None
    except (ValueError, OverflowError, ArithmeticError):  # NaN and infinity
        return None


def _real(value: Any) -> float | None:
    """The finite number that a value is, if it is one; None for texts and truth values."""
    if isinstance(value, (bool, type)):
        return None
    if not isinstance(value, (numbers.Real, Decimal, Fraction)):
        whole = _whole(value)
        if whole is None:
            return None
        value = whole
    try:
        number = float(value)
    except (ValueError, OverflowError, ArithmeticError):
        return None
    return number if math.isfinite(number) else None


def _refusal(value: Any, sentence: str) -> ValueError:
    """An error of the class that fits: the value is of the wrong type, or out of range."""
    is_number = isinstance(value, (numbers.Real, Decimal)) and not isinstance(value, bool)
    return (ValueError if is_number or isinstance(value, str) else SettingTypeError)(sentence)


def _one(value: Any) -> str:
    """What to say of a list in the place of one value."""
    is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
    return "; a list of them goes with a list of prompts" if is_list else ""
