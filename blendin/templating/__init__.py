"""Chat templates, rendered within bounds of time and size."""

from .bounded import render
from .limits import TemplateLimitError

__all__ = ["TemplateLimitError", "render"]
