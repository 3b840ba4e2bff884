"""An OpenAI-compatible server of a pair that runs here (`blendin serve`, the extra `serve`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .settings import ServeSettings

if TYPE_CHECKING:
    from .app import application
    from .run import run

__all__ = ["ServeSettings", "application", "run"]


def __getattr__(name: str) -> Any:
    # FastAPI is an extra's: settings are checked without it.
    if name in ("application", "run"):
        from importlib import import_module

        module = import_module(".app" if name == "application" else ".run", __name__)
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
