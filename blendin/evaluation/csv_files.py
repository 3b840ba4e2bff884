"""The one reader of CSV files: benchmark data, completions, tables of results."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path


def read_csv(path: str | Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows after the header; a row may span several lines.

    Raises:
        ValueError: the file is not UTF-8, not CSV, lacks one of `columns`, or a row does not have
            as many cells as the header; names the file and row (from 1).
        OSError: the file cannot be read.
    """
    try:
        # A spreadsheet may have left a byte order mark; a quoted field may have lines of its own.
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header, found = list(reader.fieldnames or []), list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is not UTF-8 ({error})") from error
    except csv.Error as error:
        raise ValueError(f"{path}: it is not CSV ({error})") from error
    for column in columns:
        if column not in header:
            raise ValueError(f"{path}: there is no column {column!r} among {header}")
    for number, row in enumerate(found, start=1):
        if None in row or None in row.values():
            raise ValueError(f"{path}, row {number}: it has not the header's {len(header)} cells")
    return found
