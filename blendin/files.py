"""Files that are written whole or not at all, and errors that name them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_PLACE = (Path("/dev"), Path("/proc"))
"""Where names stand for devices and for what is already open."""


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Replaces a file at once: a reader finds either the old content or the new.

    A link stays one, and its target is replaced. What is no file (a pipe, `/dev/stdout`) is written
    to as it is, and so is a file in a folder that takes no new ones.

    Args:
        path: of the file.
        content: a text is written in UTF-8, half a surrogate pair as an escape.

    Raises:
        OSError: it cannot be written; names the file. What was there is still there.
    """
    path = Path(path)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with naming(path):
        if is_special(path):
            with path.open("ab") as file:  # /dev/stdout may be a file that has begun
                file.write(data)
            return
        target = path.resolve()
        draft = target.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            draft.write_bytes(data)
            with draft.open("rb") as file:
                os.fsync(file.fileno())  # or a power cut might leave the name without the content
            if target.exists():
                shutil.copymode(target, draft)
            draft.replace(target)
        except PermissionError:
            if draft.exists() or not target.exists():
                raise
            target.write_bytes(data)
        finally:
            draft.unlink(missing_ok=True)


def is_special(path: Path) -> bool:
    """Whether a path is of a device, a pipe or a folder, or of what a process has open."""
    is_other = path.exists() and not path.is_file()
    return is_other or any(path.absolute().is_relative_to(folder) for folder in IN_PLACE)


def refusal(path: Path) -> str | None:
    """Why a file cannot be written, as far as that is known before; None where it seems it can.

    Raises:
        OSError: there can be no file of that name; names it.
    """
    with naming(path):
        if path.is_dir() or path.name in ("", ".."):
            return "it is a folder"
        if path.exists():
            return None if os.access(path, os.W_OK) else "it is write-protected"
        if not path.parent.is_dir():
            return "its folder does not exist"
        return None if os.access(path.parent, os.W_OK) else "its folder is write-protected"


def folder_refusal(path: Path) -> str | None:
    """Why a folder cannot be made, or files in it, as far as that is known before; else None.

    Raises:
        OSError: there can be no folder of that name; names it.
    """
    with naming(path):
        nearest = path.absolute()
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        if not nearest.is_dir():
            return f"{nearest} is no folder"
        return None if os.access(nearest, os.W_OK) else f"{nearest} is write-protected"


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Within it, an error of the system names this file, as errors of writing do not.

    Raises:
        OSError: of the class that was raised.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
