"""The terminal: what is printed is shown, not obeyed, and no encoding is too small for it.

Everything that a command prints goes through `console` and `messages`, for which a text is only a
text: its control characters are shown, and it has no markup. `Commands` is the way in.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.style import Style
from rich.text import Text
from typer.core import TyperGroup

from ..visible import visible

READER_GONE = 141
"""The exit status of a program whose reader is gone: 128 and SIGPIPE's number."""

READABLE = "blendin.readable"
"""The error handler of streams that lack a character."""

SYMBOLS = {"α": "alpha", "λ": "lambda", "τ": "tau"}
"""The paper's, where they stand alone: within a word they are letters."""

SIGNS = str.maketrans({"·": "-", "–": "-", "…": "...", "→": "->"})


class ShowingConsole(Console):
    """A console that shows texts as they are: no markup, no emoji codes, control characters seen.

    Styles are given by `style=` or by a `Text`.
    """

    def __init__(self, *, stderr: bool = False, soft_wrap: bool = False) -> None:
        super().__init__(
            highlight=False, markup=False, emoji=False, stderr=stderr, soft_wrap=soft_wrap
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does it, of the text made visible."""
        return super().render_str(visible(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As rich does it; what a `Text` of somebody's has brought is made visible, too."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else visible(segment.text)
            yield segment if shown == segment.text else Segment(shown, segment.style)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """As rich does it, with a spinner that the terminal's encoding has."""
        text = Text(visible(status, one_line=True)) if isinstance(status, str) else status
        spinner = "dots" if self.encoding.startswith("utf") else "line"
        return super().status(text, **{"spinner": spinner, **options})

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does it.

        Raises:
            OSError: names the stream where it cannot be written to.
        """
        with self._named():
            super().print(*objects, **options)

    def put(self, text: str, style: Style | str = "", end: str = "") -> None:
        """Prints a piece of text, tabs and all where nobody looks on; styled where somebody does.

        Raises:
            OSError: names the stream where it cannot be written to.
        """
        if self.is_terminal:
            self.print(text, style=style, end=end)
            return
        with self._named():
            self.file.write(visible(text) + end)
            self.file.flush()

    def on_broken_pipe(self) -> None:
        """Ends the program in silence.

        Raises:
            SystemExit: always.
        """
        self.quiet = True
        raise SystemExit(READER_GONE)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.on_broken_pipe()
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            name = "standard error" if self.stderr else "standard output"
            raise OSError(error.errno, error.strerror, name) from error


console = ShowingConsole(soft_wrap=True)
messages = ShowingConsole(stderr=True)


class Commands(TyperGroup):
    """The program: its streams take every character; where its reader leaves it ends in silence."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        """As typer does it."""
        make_readable(sys.stdout, sys.stderr)
        for each in sys.argv[1:] if args is None else args:
            if "\0" in each:  # of no shell, and of no file
                messages.print(f"error: the argument {each} has a NUL character: leave it out")
                sys.exit(2)
        try:
            try:
                return super().main(args, *more, **settings)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            give_up(sys.stdout, sys.stderr)
            sys.exit(READER_GONE)
        except OSError as error:  # commands tell their own
            messages.print(f"error: standard output: {error.strerror or error}", soft_wrap=True)
            give_up(sys.stdout)
            sys.exit(2)
        except SystemExit as leaving:
            if leaving.code == READER_GONE or isinstance(leaving.__context__, BrokenPipeError):
                give_up(sys.stdout, sys.stderr)
                sys.exit(READER_GONE)
            raise

    def make_context(self, *args: Any, **settings: Any) -> Any:
        """As typer does it; a usage error shows what was given."""
        with _usage_errors_visible():
            return super().make_context(*args, **settings)

    def invoke(self, *args: Any, **settings: Any) -> Any:
        """As typer does it; a usage error shows what was given."""
        with _usage_errors_visible():
            return super().invoke(*args, **settings)


@contextmanager
def _usage_errors_visible() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            error.message = visible(message)  # type: ignore[attr-defined]
        raise


def make_readable(*streams: TextIO | None) -> None:
    """Lets streams write what their encoding lacks: `tau` for τ, escapes for most."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=READABLE)


def give_up(*streams: TextIO | None) -> None:
    """Turns streams that cannot be written to away from where they go, so that Python is silent."""
    for stream in streams:
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _readable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    if missing in SYMBOLS:
        return SYMBOLS[missing], error.end
    ascii_only = missing.translate(SIGNS).encode("ascii", "backslashreplace").decode()
    return ascii_only, error.end


codecs.register_error(READABLE, _readable)
