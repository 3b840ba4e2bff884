"""Text that others wrote: bytes in the encoding that they name, and the lines in it."""

from __future__ import annotations

import codecs
from contextlib import suppress
from pathlib import Path

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NO_TEXT = (
    (b"\x1f\x8b", "is compressed by gzip: unpack it (gunzip)"),
    (b"BZh", "is compressed by bzip2: unpack it (bunzip2)"),
    (b"\xfd7zXZ", "is compressed by xz: unpack it (unxz)"),
    (b"\x28\xb5\x2f\xfd", "is compressed by Zstandard: unpack it (unzstd)"),
    (b"PK\x03\x04", "is a ZIP archive or a spreadsheet: unpack it, or save it as CSV in UTF-8"),
    (b"\xd0\xcf\x11\xe0", "is a document or a spreadsheet of Office: save it as CSV in UTF-8"),
    (b"PAR1", "is a Parquet file: save it as CSV or JSON Lines"),
)
"""How files begin that are often taken for text, and what to do about them."""


def encoding_of(data: bytes) -> str:
    """The encoding that a byte order mark names; UTF-8 without one."""
    return next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")


def decoded(data: bytes, source: str, remedy: str, encoding: str, *others: str) -> str:
    """Bytes as text, without a byte order mark.

    Args:
        data: the bytes.
        source: where they are from, for the error.
        remedy: what to do, for the error.
        encoding: theirs.
        *others: encodings to try where it is not.

    Raises:
        ValueError: they are in none of these, or have NUL characters.
    """
    for each in (encoding, *others):
        with suppress(UnicodeDecodeError):
            text = data.decode(each)
            break
    else:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"{source} is no {name} text: {remedy}")
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise ValueError(
            f"{source} has NUL characters, as UTF-16 has that does not say so by a byte order "
            f"mark (the first in line {line}): {remedy}"
        )
    return text


def read_text(path: str | Path) -> str:
    """A file's text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, which is left out.

    Raises:
        ValueError: it is no such text; names the file, and the line where one can.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    encoding, source = encoding_of(data), str(path)
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding.startswith("utf-8"):
            line = data.count(b"\n", 0, error.start) + 1
            source = f"{path}, line {line} (byte 0x{data[error.start]:02x}),"
    try:
        return decoded(data, source, "save it as UTF-8", encoding)
    except ValueError:
        for beginning, what in NO_TEXT:
            if data.startswith(beginning):
                raise ValueError(f"{path} {what}") from None
        raise


def plain_newlines(text: str) -> str:
    r"""The text with every line ended by "\n", where it may have been "\r\n" or "\r"."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines(text: str) -> list[str]:
    """A text's lines; what other characters part (U+2028, U+0085, a form feed) stays together."""
    return plain_newlines(text).removesuffix("\n").split("\n")
