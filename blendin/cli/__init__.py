"""The command line: `blendin generate`, `chat`, `compare`, `evaluate`, `diagnose` and the rest."""

from .app import app, main

__all__ = ["app", "main"]
