"""Where the published benchmark files lie for the tests that read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("BLENDIN_DATA") or Path(__file__).parents[2] / "shared" / "data")


def needs_data(*names: str) -> pytest.MarkDecorator:
    """Skips a test where one of these files is missing."""
    missing = [name for name in names if not (DATA / name).is_file()]
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} in {DATA}")
