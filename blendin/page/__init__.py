"""The page: a window into every token, one HTML file that stands alone."""

from .document import page
from .reading import read_traces

__all__ = ["page", "read_traces"]
