"""The one reader of files of rows: benchmark data, prompts, completions, tables of results.

The suffix, in any case, says what a file is: .csv, .tsv or .tab, .json, .jsonl or .ndjson.

- CSV is read by Python's `csv` in its strict mode. It guesses no types (pandas, polars and pyarrow
  make a number of "007" and nothing of "NA"), and refuses what it cannot take apart. What parts
  the cells is sniffed from the header (a comma, a semicolon, a tab, a bar) unless it is named.
- JSON may be a list or an object a line under either suffix: its first character tells.

Names of columns are known in any case and without the blanks around them. Rows are counted from 1,
the header not among them; blank lines are none. Compressed files are refused by name.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from ..files import write_whole
from ..text_files import lines, read_text
from ..values import told
from ..visible import to_json
from .csv_rows import csv_rows, folded, named_delimiter, sniffed

logger = logging.getLogger("blendin")

Row = dict[str, Any]

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


@dataclass(frozen=True)
class Table:
    """A file's rows.

    Attributes:
        path: of the file.
        rows: the columns that were asked for, by the names under which that was, as texts.
        cells: the rows as they are, by the file's own names.
        columns: those of `rows` that the file has.
        delimiter: between the cells of .csv; a comma where the file is another.
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
        delimiter = delimiter or sniffed(text, wanted, path)
        header, cells = csv_rows(text, delimiter, path)
        shown = f" (cells parted by {named_delimiter(delimiter)})"
    if not cells:
        raise ValueError(f"{path} has no rows: add one for each item")
    names = _resolved(header, wanted, path)
    for column in columns:
        if column not in names:
            raise ValueError(f"{path}: there is no column {column!r} among {header}{shown}")
    found = []
    for number, row in enumerate(cells, start=1):
        place = f"{path}, row {number}"
        for column in columns:
            if names[column] not in row:
                raise ValueError(f"{place} lacks {column}")
        found.append(
            {
                column: row[name] if column in structured else as_text(row[name], place, column)
                for column, name in names.items()
                if name in row
            }
        )
    between = delimiter if kind == "csv" else None
    return Table(path, found, cells, frozenset(names), between or ",")


def _resolved(header: Sequence[str], wanted: Sequence[str], path: Path) -> dict[str, str]:
    """The file's own names for the columns that are wanted, as far as it has them."""
    own = Counter(map(folded, header))
    if twice := [name for name in header if own[folded(name)] > 1]:
        raise ValueError(
            f"{path}: the columns {', '.join(map(repr, twice))} have one name: give each its own"
        )
    by_key = {folded(name): name for name in header}
    return {name: by_key[folded(name)] for name in wanted if folded(name) in by_key}


def as_text(value: Any, place: str, column: str) -> str:
    """A cell as a text, as CSV would have it.

    Raises:
        ValueError: it is a list or an object, or has what no text has in it; names the place.
    """
    if isinstance(value, list | dict):
        raise ValueError(f"{place}: the column {column!r} is {told(value)}: give a text")
    text = _cell(value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(
            f"{place}: the column {column!r} has a NUL or half a surrogate pair in it, which are "
            "no text: take it out"
        )
    return text


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
    new = {folded(name): name for more in added for name in more}
    own = dict.fromkeys(name for row in rows for name in row)
    if replaced := [name for name in own if folded(name) in new]:
        logger.warning("the file's own columns %s are replaced", ", ".join(replaced))
    return [
        {name: value for name, value in row.items() if folded(name) not in new} | dict(more)
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
