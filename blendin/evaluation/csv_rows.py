"""CSV by Python's `csv` in its strict mode, with what parts its cells found out or named."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
NAMED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|"}
_field_limit = Lock()


def as_delimiter(text: str | None) -> str | None:
    r"""A delimiter as it is given on a command line: one character, or `tab`, `\t`, `comma` ...

    Raises:
        ValueError: it is no such character.
    """
    if text is None:
        return None
    found = NAMED.get(text.strip().lower(), text)
    if len(found) != 1 or found in '"\r\n\0' or found.isalnum():
        raise ValueError(f"--delimiter {text!r}: use one character, such as ',', ';', '|' or tab")
    return found


def named_delimiter(delimiter: str) -> str:
    """A delimiter in words."""
    return DELIMITERS.get(delimiter, repr(delimiter))


def folded(name: str) -> str:
    """What names of one column have in common."""
    return name.strip().casefold()


def csv_rows(text: str, delimiter: str, path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header's names and the rows.

    Raises:
        ValueError: there is no header, it is not CSV, or a row has not the header's cells; names
            the file, and the row or line.
    """
    with _cells_of_any_length():
        parsed = _parsed_csv(text, delimiter, path)
        header = [name.strip() for name in next(parsed, (0, []))[1]]
        if not header:
            raise ValueError(f"{path} is empty: give it a header and rows")
        found: list[dict[str, str]] = []
        for line, cells in parsed:
            place = f"{path}, row {len(found) + 1}"
            if len(cells) != len(header):
                raise ValueError(
                    f"{place}: it has not the header's {len(header)} cells but {len(cells)} (line "
                    f"{line}): put cells with {named_delimiter(delimiter)} or a line break in "
                    'double quotes, "..."'
                )
            if len(cells) > 1 and not any(cell.strip() for cell in cells):
                raise ValueError(f"{place}: all its cells are empty (line {line}): take it out")
            found.append(dict(zip(header, cells, strict=True)))
    return header, found


def _parsed_csv(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows with the lines, from 1, where they begin; blank lines are none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}, the row that begins in line {line}: it is not CSV ({error}): close each "
                "double quote that opens a cell, and double those within"
            ) from error
        if cells:
            yield line, cells


def sniffed(text: str, wanted: Sequence[str], path: Path) -> str:
    """The delimiter under which the header has most of the wanted columns.

    Raises:
        ValueError: it is not CSV under any.
    """
    keys, found, error = set(map(folded, wanted)), {}, None
    for delimiter in DELIMITERS:
        try:
            with _cells_of_any_length():
                header = next(_parsed_csv(text, delimiter, path), (0, []))[1]
        except ValueError as wrong:
            error = error or wrong
        else:
            found[delimiter] = (len(keys & set(map(folded, header))), len(header))
    if not found and error is not None:
        raise error
    best = max(found.values())
    return next(delimiter for delimiter, each in found.items() if each == best)


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """Python's limit, 128 KiB, is of the whole process: it is put back."""
    with _field_limit:
        before = csv.field_size_limit(2**31 - 1)
        try:
            yield
        finally:
            csv.field_size_limit(before)
