"""The documentation as the tests read it: its pages, and the code blocks on them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING"))])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


class Block(NamedTuple):
    """A code block.

    Attributes:
        language: the first word after its fence; None where the block is indented.
        text: what stands in it.
        line: of the fence, from 1.
    """

    language: str | None
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    found = []
    for token in MarkdownIt().parse(page.read_text("utf-8")):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            language = None if token.type == "code_block" else token.info.partition(" ")[0]
            found.append(Block(language, token.content, token.map[0] + 1))
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a shell block, as words: without comments, variables and redirections."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        words.whitespace_split = True
        command: list[str] = []
        for word in words:
            if set(word) <= set("|&;"):
                yield command
                command = []
            elif command or "=" not in word:
                command.append(word)
        if command:
            yield command
