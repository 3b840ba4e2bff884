"""What a real browser makes of a page: Debian's chromium, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium: `apt-get install chromium` brings it"
)


def run(page: str, folder: Path) -> str:
    """The document after its scripts, if it has any that run, had two seconds."""
    path = folder / "page.html"
    path.write_text(page, "utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()
