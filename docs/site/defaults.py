"""Plain defaults in signatures: of `field = parameter(0.4, "help", kind)` the reader wants 0.4."""

from __future__ import annotations

from typing import Any

import griffe

MAKERS = {"parameter", "setting"}
"""Functions of blendin that make a dataclass field; their first argument is its default."""


class PlainDefaults(griffe.Extension):
    """Puts the default of a field in the place of the call that makes the field."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        value = attr.value
        if isinstance(value, griffe.ExprCall) and str(value.function) in MAKERS:
            attr.value = value.arguments[0]
