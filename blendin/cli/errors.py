"""What is wrong, in one line: what is refused before the work, and what goes wrong in it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from ..files import folder_refusal, refusal
from .streams import messages

ARGUMENTS = frozenset({"prompt", "tasks", "runs", "completions", "results", "traces", "pairs"})
"""What is given without a name."""

OPTIONS = {"max_batch_size": "batch_size", "json_file": "json", "as_json": "json"}
"""Options that are called otherwise than what they set."""

REMEDIES = {
    errno.ENOENT: "name one that is there",
    errno.EISDIR: "name a file",
    errno.ENOTDIR: "name a folder",
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What to do about an error of the system."""


def as_option(name: str, value: Any = None) -> str:
    """A setting as it is spelled on the command line: `--top-p`, `--do-sample`, `PROMPT`."""
    if name in ARGUMENTS or not name.islower():
        return name.upper()
    option = "--" + OPTIONS.get(name, name).replace("_", "-")
    return option if value is None or value is True else f"{option} {value}"


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """An error that the user can fix ends the command with one line and exit status 2."""
    try:
        yield
    except (ValueError, FloatingPointError, OSError, ModuleNotFoundError) as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:
            raise  # the reader is gone
        show_error(error)
        raise typer.Exit(2) from error


def show_error(error: Exception) -> None:
    """The line that names an error."""
    messages.print("error: ", style="bold red", end="")
    messages.print(sentence(error), soft_wrap=True)


def sentence(error: Exception) -> str:
    """An error in words: which file and what to do; of a missing package, its extra."""
    message = str(error)
    if isinstance(error, ModuleNotFoundError) and "pip install" not in message:
        return f"{message}: `pip install 'blendin[eval]'` brings what the evaluation needs"
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        reason = (error.strerror or message).lower()
        remedy = REMEDIES.get(error.errno, "name another")
        return f"{error.filename}: {reason}; {remedy}"
    return message


@contextmanager
def interruptible() -> Iterator[None]:
    """On Ctrl-C, ends the command with how to continue the run, which is kept as it goes."""
    try:
        yield
    except KeyboardInterrupt:
        messages.print("interrupted", style="yellow", end="")
        messages.print(": the same command continues from here")
        raise typer.Exit(130) from None


def check_file(name: str, path: Path | None) -> None:
    """Fails now rather than after the work for a file that cannot be written.

    Args:
        name: of the setting.
        path: None for no file.

    Raises:
        ValueError: it cannot be written.
    """
    if path is not None and (reason := refusal(path)):
        option = as_option(name, path)
        raise ValueError(f"{option} cannot be written ({reason}): name a file in a writable folder")


def check_folder(name: str, path: Path) -> None:
    """Fails now rather than after the work for a folder that cannot be written to.

    Raises:
        ValueError: it cannot.
    """
    if reason := folder_refusal(path):
        raise ValueError(
            f"{as_option(name, path)} cannot be used: {reason}; name a writable folder"
        )
