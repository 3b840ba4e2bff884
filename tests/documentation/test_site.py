"""The site builds without a warning, and what is built asks nobody else for anything."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from documented import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None,
    reason="mkdocs is not installed: `pip install 'blendin[docs]'`",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `scripts/docs` builds it; a link or anchor that leads nowhere ends the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        [*command, "--config-file", "docs/site/mkdocs.yml"],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


class Resources(HTMLParser):
    """What a browser fetches for a page: the addresses of scripts, styles, pictures and frames."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        names = {"link": "href", "a": "", "base": "href"}
        if address := given.get(names.get(tag, "src")):
            self.found.append(address)


def test_no_page_asks_another_host_for_anything(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        resources = Resources()
        resources.feed(page.read_text("utf-8"))
        assert resources.found
        assert not [each for each in resources.found if re.match(r"(https?:)?//", each)], page
    for style in site.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", style.read_text("utf-8"))
        assert not [each for each in addresses if re.match(r"(https?:)?//", each)], style


def test_equations_and_signatures_are_there(site: Path) -> None:
    """Neither left as LaTeX, nor with the calls that make a policy's fields."""
    method = (site / "method.html").read_text("utf-8")
    assert "<math" in method and "\\frac" not in method and "arithmatex" not in method
    policies = (site / "api" / "policies.html").read_text("utf-8")
    assert "Real(" not in policies and "agreement_bonus" in policies
