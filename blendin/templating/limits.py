"""What a template may spend: its operators, calls and filters, each with its price asked first.

Jinja's sandbox keeps a template from attributes, and from changing what it is given. It does not
keep it from looping for hours or from making a text of a terabyte. The functions here stand in a
template in the place of its own operations (`bounded.py` puts them there). Python cannot stop an
operation that it has begun, so none is begun whose result would be too large.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import pass_context
from jinja2.runtime import Context

SECONDS = 5.0
"""Processor time of one rendering; that of a long conversation takes milliseconds."""
SIZE = 1 << 24
"""Characters of a text, or eight times the entries of a list: some four million tokens."""
LONGEST_NUMBER = 1 << 16
"""Bits of an integer."""
WIDEST = 100_000
"""The largest width or count that a filter or a method of a text is given."""
SLOW_INPUT = 100_000
"""Characters for filters that take the square of their input's length."""

_LAZY = ("map", "select", "reject", "selectattr", "rejectattr")
_SLOW = ("striptags", "title", "urlize", "wordwrap")
_DIGITS = re.compile(r"\d{1,20}")
_WIDTHS = {"%": re.compile(r"%[^a-zA-Z%]*"), "{": re.compile(r"\{[^{}]*:[^{}]*")}
_WIDTH_IS_A_VALUE = {"%": re.compile(r"%[^a-zA-Z%]*\*"), "{": re.compile(r"\{[^{}]*\{")}


class TemplateLimitError(ValueError):
    """A template would not end in time, or would take too much memory."""


class _Exceeded(BaseException):
    """Raised within a template; no Exception, for some filters take those for a default."""


class _Budget:
    """What one rendering may spend."""

    def __init__(self) -> None:
        self.until = time.thread_time() + SECONDS
        self.operations = self.shown = 0

    def spend_time(self) -> None:
        self.operations += 1
        if self.operations % 16 == 0 and time.thread_time() > self.until:
            raise _Exceeded(f"it runs for more than {SECONDS:g} s")

    def spend_text(self, size: int) -> None:
        self.shown += size
        if self.shown > 4 * SIZE:
            raise _too_large()


_budget: ContextVar[_Budget] = ContextVar("_budget")


@contextmanager
def limited() -> Iterator[None]:
    """Bounds the rendering within.

    Raises:
        TemplateLimitError: it would go beyond.
    """
    token = _budget.set(_Budget())
    try:
        yield
    except _Exceeded as error:
        raise TemplateLimitError(str(error)) from None
    finally:
        _budget.reset(token)


# -- what stands in a template ---------------------------------------------------------------------


def tick() -> bool:
    """Stands at the head of every loop, and in every loop's condition."""
    _budget.get().spend_time()
    return True


def spent(size: int) -> str:
    """Stands beside the template's own text, of so many characters."""
    _budget.get().spend_text(size)
    return ""


def shown(value: Any) -> Any:
    """Stands around what is written out."""
    _budget.get().spend_text(_weight(value))
    return value


def made(value: Any) -> Any:
    """Stands around lists, mappings, sums and joined texts, and the parts of those texts."""
    tick()
    _allow(_weight(value))
    return value


def multiply(left: Any, right: Any) -> Any:
    tick()
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | bytes | Sequence) and isinstance(times, int):
            _allow(_weight(value) * times)
    if isinstance(left, int) and isinstance(right, int):
        _allow_bits(left.bit_length() + right.bit_length())
    return left * right


def power(left: Any, right: Any) -> Any:
    tick()
    if isinstance(left, int) and isinstance(right, int):
        _allow_bits(left.bit_length() * abs(right))
    return left**right


def modulo(left: Any, right: Any) -> Any:
    tick()
    if isinstance(left, str | bytes):
        _allow(_formatted(left, "%", right if isinstance(right, tuple) else (right,)))
    return left % right


@pass_context
def call(context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Calls a function, macro or method, as the sandbox does."""
    tick()
    name = getattr(function, "__name__", "")
    owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)
    if isinstance(owner, str | bytes | int) or name == "generate_lorem_ipsum":
        _allow_numbers((*args, *kwargs.values()))
    if isinstance(owner, str | bytes):
        args = tuple(_listed(arg) if isinstance(arg, Iterator) else arg for arg in args)
        _allow(_price(name, owner, args, kwargs))
    environment: Any = context.environment
    result = environment.call(context, function, *args, **kwargs)
    _allow(_own_weight(result))
    return result


@pass_context
def apply_filter(context: Context, name: str, value: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Applies a filter by its name."""
    tick()
    _allow_numbers((*args, *kwargs.values()))
    if name in _LAZY:
        value = _watched(value)
        if name == "map" and args:
            inner, *further = args
            return (apply_filter(context, inner, each, *further, **kwargs) for each in value)
        return _filtered(context, name, value, args, kwargs)
    if name == "join":
        value, args, kwargs = _to_join(context, value, *args, **kwargs)
    elif isinstance(value, Iterator):
        value = _listed(value)
    if name in _SLOW and _weight(value) > SLOW_INPUT:
        raise _Exceeded(f"it gives {name!r} a text of more than {SLOW_INPUT:,} characters")
    if name == "sum" and not all(isinstance(each, int | float | str) for each in args):
        raise _Exceeded("it adds up what is no number")
    _allow(_price(name, value, args, kwargs))
    result = _filtered(context, name, value, args, kwargs)
    _allow(_own_weight(result))
    return result


def _filtered(
    context: Context, name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    return context.environment.call_filter(
        name, value, args, kwargs, context=context, eval_ctx=context.eval_ctx
    )


def _to_join(
    context: Context, value: Any, d: Any = "", attribute: Any = None
) -> tuple[list[Any], tuple[Any, ...], dict[str, Any]]:
    """The arguments of `join`, what is to be joined being listed and weighed."""
    if attribute is not None:
        value = _filtered(context, "map", value, (), {"attribute": attribute})
    return _listed(value), (d,), {}


def _watched(values: Any) -> Iterator[Any]:
    for value in values or ():
        tick()
        yield value


def _listed(values: Iterable[Any]) -> list[Any]:
    """The values of an iterator, as long as they may be kept."""
    found, size = [], 0
    for value in values:
        tick()
        size += _own_weight(value) + 8
        _allow(size)
        found.append(value)
    return found


# -- prices ----------------------------------------------------------------------------------------


def _too_large() -> _Exceeded:
    return _Exceeded(f"it makes a text of more than {SIZE:,} characters, or a list as large")


def _allow(size: int) -> None:
    if size > SIZE:
        raise _too_large()


def _allow_bits(bits: int) -> None:
    if bits > LONGEST_NUMBER:
        raise _Exceeded(f"it makes a number of more than {LONGEST_NUMBER:,} bits")


def _allow_numbers(values: Iterable[Any]) -> None:
    if any(isinstance(value, int) and abs(value) > WIDEST for value in values):
        raise _Exceeded(f"it asks for a width or a count of more than {WIDEST:,}")


def _own_weight(value: Any) -> int:
    """The size of a value but for what it holds."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, int):
        return 8 + value.bit_length() // 8
    return 8 * len(value) if isinstance(value, Sequence | Mapping | set | frozenset) else 8


def _weight(value: Any, known: dict[int, int] | None = None) -> int:
    """The size of a value written out; what is in it twice counts twice, and is looked at once."""
    if isinstance(value, range) or not isinstance(value, list | tuple | dict | set | frozenset):
        return _own_weight(value)
    known = {} if known is None else known
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 8 + sum(8 + _weight(part, known) for part in parts)
    return known[id(value)]


def _price(name: str, value: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The most that a filter, or a method of a text, can make of a value."""
    price = _PRICES.get(name)
    return _weight(value) if price is None else price(value, (*args, *kwargs.values()))


def _formatted(pattern: str | bytes, field: str, values: Sequence[Any]) -> int:
    """The most that a format can make; widths stand in it, or (`*`, `{:{}}`) are values."""
    text = pattern.decode("latin-1") if isinstance(pattern, bytes) else str(pattern)
    widths = [
        int(digits) for each in _WIDTHS[field].findall(text) for digits in _DIGITS.findall(each)
    ]
    if _WIDTH_IS_A_VALUE[field].search(text):
        widths += [int(d) for value in _leaves(values) for d in _DIGITS.findall(str(value)[:1000])]
    _allow_numbers(widths)
    return len(text) + text.count(field) * (_weight(tuple(values)) + max(widths, default=0))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _replaced(value: Any, given: Sequence[Any]) -> int:
    if len(given) < 2:
        return 0
    text: Any
    text, old, new = (
        each if isinstance(each, bytes) else str(each) for each in (value, *given[:2])
    )
    return len(text) + int(text.count(old)) * len(new)


def _joined(between: Any, given: Sequence[Any]) -> int:
    (parts,) = given[:1] or ((),)
    return _weight(between) * _own_weight(parts) // 8 + _weight(parts)


def _widened(value: Any, given: Sequence[Any]) -> int:
    """By as much in every line."""
    widths = [each if isinstance(each, int) else _own_weight(each) for each in given]
    lines = str(value).count("\n") + 2 if isinstance(value, str) else _weight(value)
    return _weight(value) + lines * max(widths, default=4)


_PRICES: dict[str, Callable[[Any, Sequence[Any]], int]] = {
    "replace": _replaced,
    "join": lambda value, given: (
        _joined(value, given) if isinstance(value, str | bytes) else _joined(given[0], [value])
    ),
    "format": lambda value, given: max(
        _formatted(value, "{", given), _formatted(value, "%", given)
    ),
    "format_map": lambda value, given: _formatted(value, "{", given),
    "expandtabs": lambda value, given: len(value) + value.count("\t") * max([8, *given]),
    "translate": lambda value, given: (
        len(value) * max([1, *map(_own_weight, given[0].values())]) if given else 0
    ),
    "indent": _widened,
    "tojson": _widened,
    "wordwrap": lambda value, given: (
        len(str(value)) * (1 + max([1, *(len(each) for each in given if isinstance(each, str))]))
    ),
    "center": lambda value, given: len(str(value)) + WIDEST,
}
