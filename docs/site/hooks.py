"""What mkdocs is told beside mkdocs.yml: pages from the repository's root, equations as MathML."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]

FROM_ROOT = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "results.md",
    "benchmarks/pairs.toml": "pairs.toml",
    **{f"benchmarks/{each.name}": each.name for each in (ROOT / "benchmarks").glob("*.svg")},
}
"""Files outside docs/ that are pages too, or pictures on them, and their names here."""

LINK = re.compile(r"\]\((?!\w+:|#)([^)\s]+)\)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from the root; their links, which begin there, begin in docs/."""
    for source, name in FROM_ROOT.items():
        if not source.endswith(".md"):
            files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
            continue
        text = with_links((ROOT / source).read_text("utf-8"), (ROOT / source).parent)
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lets links that leave docs/ arrive at the pages that are made of those files."""
    if page.file.generated_by is not None:
        return markdown
    return with_links(markdown, Path(page.file.abs_src_path).parent)


def with_links(text: str, folder: Path) -> str:
    """A page that stood in a folder, with its links as they have to be on the site."""
    return LINK.sub(lambda found: relinked(found, folder), text)


def relinked(found: re.Match[str], folder: Path) -> str:
    """A link as it has to be on the site, given the folder of the file that it stands in."""
    path, mark, anchor = found[1].partition("#")
    target = (folder / path).resolve()
    if not target.is_relative_to(ROOT):
        return found[0]
    name = target.relative_to(ROOT).as_posix()
    if name in FROM_ROOT:
        up = "../" * len(folder.relative_to(ROOT / "docs").parts) if in_docs(folder) else ""
        return f"]({up}{FROM_ROOT[name]}{mark}{anchor})"
    if not in_docs(folder) and in_docs(target):
        return f"]({target.relative_to(ROOT / 'docs').as_posix()}{mark}{anchor})"
    return found[0]


def in_docs(path: Path) -> bool:
    """Whether a path is within docs/."""
    return path.is_relative_to(ROOT / "docs")


def on_page_content(content: str, **_: Any) -> str:
    """Writes equations as MathML, which browsers show without a script."""

    def equation(found: re.Match[str]) -> str:
        latex = html.unescape(found[3]).strip()
        if found[2] == "(":
            return convert(latex)
        return f'<div class="equation">{convert(latex, display="block")}</div>'

    return EQUATION.sub(equation, content)
