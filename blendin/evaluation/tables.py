"""The one reader of files of rows: benchmark data, prompts, completions, tables of results.

The suffix, in any case, says what a file is: .csv, .tsv or .tab, .json, .jsonl or .ndjson.

- CSV is read by Python's `csv` in its strict mode. It guesses no types (pandas, polars and pyarrow
  make a number of "007" and nothing of "NA"), and refuses what it cannot take apart. What parts
  the cells is sniffed from the header (a comma, a semicolon, a tab, a bar) unless it is named.
- JSON may be a list or an object a line under either suffix: its first character tells.

Names of columns are known in any case and without the blanks around them. Rows are counted from 1,
the header not among them. Compressed files are refused by name.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Never

from ..files import write_whole
from ..text_files import lines, read_text
from ..values import told
from ..visible import to_json

logger = logging.getLogger("blendin")

Row = dict[str, Any]

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
NAMED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|", "pipe": "|"}
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
NAMES = {
    "csv": "CSV",
    "tsv": "CSV with tabs",
    "json": "JSON",
    "jsonl": "JSON Lines",
    "txt": "a text with a prompt per line",
}
_field_limit = Lock()


@dataclass(frozen=True)
class Table:
    """A file's rows.

    Attributes:
        path: of the file.
        rows: the columns that were asked for, by the names under which that was, as texts.
        cells: the rows as they are, by the file's own names.
        columns: those of `rows` that the file has.
        delimiter: between the cells of CSV; a comma where the file is JSON.
    """

    path: Path
    rows: Sequence[Row]
    cells: Sequence[Row]
    columns: frozenset[str]
    delimiter: str = ","

    def place(self, number: int) -> str:
        """Where a row is, for an error."""
        return f"{self.path}, row {number}"

    def numbered(self) -> Iterator[tuple[str, Row]]:
        """The rows, each with its place."""
        return ((self.place(number), row) for number, row in enumerate(self.rows, start=1))


def format_of(path: str | Path, otherwise: str = "csv") -> str:
    """One of `NAMES`, by the suffix; what another suffix is read as is said in a warning."""
    suffix = Path(path).suffix.lower()
    known = {**FORMATS, ".txt": "txt"} if otherwise == "txt" else FORMATS
    if suffix not in known:
        which = f"the suffix {suffix!r} is not known" if suffix else "it has no suffix"
        logger.warning("%s: %s; it is read as %s", path, which, NAMES[otherwise])
    return known.get(suffix, otherwise)


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


def read(
    path: str | Path,
    columns: Sequence[str] = (),
    optional: Sequence[str] = (),
    *,
    structured: Sequence[str] = (),
    delimiter: str | None = None,
) -> Table:
    """The rows of a file; a row of CSV may span several lines.

    Args:
        path: of the file.
        columns: those that have to be there.
        optional: those that may be there.
        structured: of these, those that hold more than a text in JSON and are kept as they are.
        delimiter: what parts the cells of CSV; None: what its header shows.

    Raises:
        ValueError: the content is not what the suffix says, there are no rows, a column is missing
            or there twice, or a cell is no text; names the file and the row or line.
        OSError: the file cannot be read.
    """
    path, kind = Path(path), format_of(path)
    wanted = (*columns, *optional)
    if kind in ("json", "jsonl"):
        if delimiter is not None:
            raise ValueError(f"{path} is {NAMES[kind]}, which has no delimiter: leave it out")
        cells = list(_json_rows(read_text(path), path))
        header = list(dict.fromkeys(name for row in cells for name in row))
        shown = ""
    else:
        text = read_text(path)
        if kind == "tsv" and delimiter is None:
            delimiter = "\t"
        delimiter = delimiter or _sniffed(text, wanted, path)
        header, cells = _csv_rows(text, delimiter, path)
        shown = f" (cells parted by {DELIMITERS.get(delimiter, repr(delimiter))})"
    names = _resolved(header, wanted, path)
    for column in columns:
        if column not in names:
            raise ValueError(f"{path}: there is no column {column!r} among {header}{shown}")
    if not cells:
        raise ValueError(f"{path} has no rows: add one for each item")
    found = []
    for number, row in enumerate(cells, start=1):
        place = f"{path}, row {number}"
        for column in columns:
            if names[column] not in row:
                raise ValueError(f"{place} lacks {column}")
        found.append(
            {
                column: row[name] if column in structured else _as_text(row[name], place, column)
                for column, name in names.items()
                if name in row
            }
        )
    return Table(path, found, cells, frozenset(names), delimiter or ",")


def _resolved(header: Sequence[str], wanted: Sequence[str], path: Path) -> dict[str, str]:
    """The file's own names for the columns that are wanted, as far as it has them."""
    own = Counter(map(_folded, header))
    if twice := [name for name in header if own[_folded(name)] > 1]:
        raise ValueError(
            f"{path}: the columns {', '.join(map(repr, twice))} have one name: give each its own"
        )
    by_key = {_folded(name): name for name in header}
    return {name: by_key[_folded(name)] for name in wanted if _folded(name) in by_key}


def _folded(name: str) -> str:
    return name.strip().casefold()


def _as_text(value: Any, place: str, column: str) -> str:
    """A cell as a text, as CSV would have it."""
    if isinstance(value, list | dict):
        raise ValueError(f"{place}: the column {column!r} is {told(value)}: give a text")
    text = _cell(value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(
            f"{place}: the column {column!r} has a NUL or half a surrogate pair in it, which are "
            "no text: take it out"
        )
    return text


def _csv_rows(text: str, delimiter: str, path: Path) -> tuple[list[str], list[Row]]:
    with _cells_of_any_length():
        parsed = _parsed_csv(text, delimiter, path)
        header = [name.strip() for name in next(parsed, (0, []))[1]]
        if not header:
            raise ValueError(f"{path} is empty: give it a header and rows")
        found: list[Row] = []
        for line, cells in parsed:
            place = f"{path}, row {len(found) + 1}"
            if len(cells) != len(header):
                raise ValueError(
                    f"{place}: it has not the header's {len(header)} cells but {len(cells)} (line "
                    f"{line}): put cells with {DELIMITERS.get(delimiter, repr(delimiter))} or a "
                    'line break in double quotes, "..."'
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


def _sniffed(text: str, wanted: Sequence[str], path: Path) -> str:
    """The delimiter under which the header has most of the wanted columns."""
    keys, found, error = set(map(_folded, wanted)), {}, None
    for delimiter in DELIMITERS:
        try:
            header = next(_parsed_csv(text, delimiter, path), (0, []))[1]
        except ValueError as wrong:
            error = error or wrong
        else:
            found[delimiter] = (len(keys & set(map(_folded, header))), len(header))
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


def _json_rows(text: str, path: Path) -> Iterator[Row]:
    start = text.lstrip()[:1]
    if not start:
        raise ValueError(f"{path} has no rows: it is empty")
    if start == "[":
        listed = _parsed_json(text, str(path))
        placed = ((f"{path}, row {number}", row) for number, row in enumerate(listed, start=1))
    else:
        placed = (
            (f"{path}, line {number}", _parsed_json(line, f"{path}, line {number}"))
            for number, line in enumerate(lines(text), start=1)
            if line.strip()
        )
    for place, row in placed:
        if not isinstance(row, dict):
            raise ValueError(
                f"{place} is {told(row)} and no row: use JSON objects with the columns as names, "
                "in a list or one a line"
            )
        yield row


def _parsed_json(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place} is no JSON ({error}): correct it; rows are objects in a list, or one a line"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(n for n, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has {twice!r} twice")
    return found


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is no value of JSON")


def warn_of_repeats(place: object, what: str, values: Sequence[str], outcome: str) -> None:
    """One warning that counts values that stand there again."""
    repeats = len(values) - len(set(values))
    if repeats:
        logger.warning("%s: %d of %d %s repeat an earlier one: %s",
                       place, repeats, len(values), what, outcome)  # fmt: skip


def with_columns(rows: Sequence[Row], added: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows with further columns; a warning names those that replace the rows' own."""
    new = {_folded(name): name for more in added for name in more}
    own = dict.fromkeys(name for row in rows for name in row)
    if replaced := [name for name in own if _folded(name) in new]:
        logger.warning("the file's own columns %s are replaced", ", ".join(replaced))
    return [
        {name: value for name, value in row.items() if _folded(name) not in new} | dict(more)
        for row, more in zip(rows, added, strict=True)
    ]


def write(destination: str | Path, rows: Sequence[Mapping[str, Any]], delimiter: str = ",") -> None:
    r"""Writes rows whole, in the format of the suffix, CSV for any other; `read` gives them back.

    Texts are written as they are, also those that a spreadsheet would take for a formula ("=1+1"):
    a quote before them would change what other programs read. What CSV cannot hold is written as an
    escape, NUL as `\x00` and half a surrogate pair as `\ud800`.

    Args:
        destination: of the file.
        rows: at least one; the columns are those of all, and where a row lacks one it is empty.
        delimiter: of CSV; .tsv has a tab.

    Raises:
        OSError: it cannot be written; names the file.
    """
    kind = FORMATS.get(Path(destination).suffix.lower(), "csv")
    if kind == "json":
        whole = to_json(list(rows), indent=2) + "\n"
    elif kind == "jsonl":
        whole = "".join(to_json(dict(row)) + "\n" for row in rows)
    else:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter="\t" if kind == "tsv" else delimiter)
        header = list(dict.fromkeys(name for row in rows for name in row))
        writer.writerow(header)
        writer.writerows([_cell(row.get(name)) for name in header] for row in rows)
        whole = text.getvalue().replace("\0", "\\x00")
    write_whole(destination, whole)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
