"""The page with traces in it.

What models and users wrote is data: it stands in the file as JSON in which no character of HTML is
left as it is, and the page's script makes text nodes of it, nothing else. A content security policy
lets no other script run, and nothing be loaded but from the server that the page came from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from ..trace import Generation
from ..visible import to_json

ALTERNATIVES = 5
"""What `trace_top` is where a trace is made for the page: as many as a reader compares."""

EMPTY = '{"traces": []}'
"""What stands in the file where the traces go."""


def page(traces: Mapping[str, Generation] | None = None) -> str:
    """The HTML of the page, which needs no other file and no network.

    Args:
        traces: by the names that they are shown under, side by side in this order; none for a page
            that waits for files to be dropped on it, or for a server behind it.

    Raises:
        ValueError: a number in them is NaN or infinite.
    """
    if not traces:
        return _template()
    told = {"traces": [{"name": name, **trace.to_dict()} for name, trace in traces.items()]}
    return _template().replace(EMPTY, for_script(told), 1)


def for_script(value: Any) -> str:
    """JSON that no HTML parser takes for anything else within a script element.

    Raises:
        ValueError: a number in it is NaN or infinite.
    """
    try:
        text = to_json(value, allow_nan=False)
    except ValueError as error:
        raise ValueError("a trace has a number that is NaN or infinite: make it anew") from error
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


@cache
def _template() -> str:
    return resources.files(__package__).joinpath("trace.html").read_text("utf-8")
