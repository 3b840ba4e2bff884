"""Files with traces: what `Generation.save`, `--trace` and `--json` write."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args

from ..text_files import lines, read_text
from ..trace import FORMAT, FORMAT_VERSION, Generation, Source, Step

SOURCES = (*get_args(Source), "you", "text")
"""Of a step; the last two in what the page saves: its reader's choice, a text without a trace."""


def read_traces(path: str | Path) -> list[Generation]:
    """The traces of a file.

    It may be of `Generation.save`, of `blendin generate --json`, one object or one a line, or of
    `--trace`, a step a line; these have no settings.

    Raises:
        ValueError: it is another file, or damaged; names the place.
        OSError: it cannot be read.
    """
    traces: list[Generation] = []
    steps: list[Step] = []
    for where, value in _values(path):
        if isinstance(value, Mapping) and isinstance(value.get("steps"), list):
            traces.append(_generation(where, value))
        else:
            steps.append(_step(where, value))
    if steps:
        traces.append(Generation("".join(step.text for step in steps), steps))
    if not traces:
        raise ValueError(f"{path} has no steps: name a file with a trace")
    return traces


def _values(path: str | Path) -> Iterator[tuple[str, Any]]:
    text = read_text(path)
    try:
        whole = _loaded(text)
    except (ValueError, RecursionError):
        for number, line in enumerate(lines(text), 1):
            if line.strip():
                yield f"{path}, line {number}", _from_line(f"{path}, line {number}", line)
        return
    if not isinstance(whole, list):
        yield str(path), whole
        return
    for number, value in enumerate(whole, 1):
        yield f"{path}, item {number}", value


def _from_line(where: str, line: str) -> Any:
    try:
        return _loaded(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error}): name a file with a trace") from error


def _loaded(text: str) -> Any:
    return json.loads(text, parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no probability")


def _generation(where: str, told: Mapping[str, Any]) -> Generation:
    form, version = told.get("format", FORMAT), told.get("version", FORMAT_VERSION)
    if (form, version) != (FORMAT, FORMAT_VERSION):
        raise ValueError(
            f"{where} is of format {form!r}, version {version!r}, and this blendin reads version "
            f"{FORMAT_VERSION} of {FORMAT}: read it with the blendin that wrote it"
        )
    own = {each.name: told[each.name] for each in fields(Generation) if each.name in told}
    steps = [_step(f"{where}, step {n}", step) for n, step in enumerate(told["steps"], 1)]
    settings = own.get("settings") or {}
    if not isinstance(settings, Mapping):
        raise ValueError(f"{where} is damaged: its settings are no object; save it anew")
    return Generation(**own | {"steps": steps, "settings": settings})


def _step(where: str, told: Any) -> Step:
    try:
        step = Step.from_dict(told)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{where} is no step of a trace ({type(error).__name__}: {error}): name a file of "
            "Generation.save, `blendin generate --trace` or `--json`"
        ) from error
    numbers = (step.base_top_prob, step.guide_top_prob, step.alpha, step.agreement)
    if (
        not (isinstance(step.text, str) and isinstance(step.intervened, bool))
        or step.source not in SOURCES
    ):
        raise ValueError(f"{where} is no step of a trace: its text, intervened or source is wrong")
    for number in numbers:
        if number is not None and not (isinstance(number, int | float) and number >= 0):
            raise ValueError(f"{where} has {number!r} where a probability should be")
    return step
