"""`blendin view`: traces as a page."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..files import is_special, write_whole
from .errors import as_option, check_file
from .options import takes_options
from .streams import messages

if TYPE_CHECKING:
    from ..trace import Generation


@takes_options
def view(
    traces: Annotated[
        list[Path],
        typer.Argument(
            help="Files of Generation.save, or of `blendin generate` with --trace or --json; "
            "several lie side by side."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page, one HTML file.")] = Path(
        "trace.html"
    ),
    is_opened: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser, too.")
    ] = False,
) -> None:
    """Make a page of traces: who chose each token, how sure both models were, what else was likely.

    The page stands alone: it opens from disk and loads nothing.
    """
    from ..page import page, read_traces

    check_file("out", out)
    shown: dict[str, Generation] = {}
    for path in traces:
        if not is_special(out) and out.resolve() == path.resolve():
            raise ValueError(f"{as_option('out', out)} is one of the traces: choose another file")
        found = read_traces(path)
        for number, each in enumerate(found, 1):
            name = path.name if len(found) == 1 else f"{path.name} {number}"
            shown[_free(name, shown)] = each
    write_whole(out, page(shown))
    messages.print(f"written to {out}", soft_wrap=True)
    if is_opened and not webbrowser.open(out.resolve().as_uri()):
        messages.print(f"no browser was found: open {out} yourself", soft_wrap=True)


def _free(name: str, taken: dict[str, Generation]) -> str:
    """The name, or with a number behind it the first that is not taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free
