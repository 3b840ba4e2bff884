"""The page: a window into every token, one HTML file that stands alone."""

from .document import ALTERNATIVES, page
from .reading import read_traces

__all__ = ["ALTERNATIVES", "page", "read_traces"]
