"""What the documentation says of the code is so: messages, defaults, names, links."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from documented import DOCS, NAMES, PAGES, ROOT

import blendin
from blendin.policy import POLICIES, Defer, InterventionCap, parameters

ANYTHING = "…"


def literal(node: ast.AST) -> str:
    """A text of the source, with `…` where it has a value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(literal, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return literal(node.left) + literal(node.right)
    return ANYTHING


@cache
def texts_of_the_source() -> str:
    """Every text in the code, one a line."""
    found = []
    for path in sorted((ROOT / "blendin").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                found.append(literal(node))
    return "\n".join(found)


def quoted_messages(page: Path) -> Iterator[str]:
    """What stands in code on a page and has more than four words: a message."""
    text = page.read_text("utf-8")
    for ticks, code in re.findall(r"(?<!`)(`{1,2})(?!`)(.+?)(?<!`)\1(?!`)", text):
        message = code.strip() if len(ticks) == 2 else code
        if len(message.split()) > 4:
            yield message


def test_the_messages_of_troubleshooting_are_blendins_own() -> None:
    messages = list(quoted_messages(DOCS / "troubleshooting.md"))
    assert len(messages) > 30
    absent = [each for each in messages if each not in texts_of_the_source()]
    assert not absent, "\n".join(absent)


def sections(page: Path) -> dict[str, str]:
    """The text under each second heading of a page."""
    parts = re.split(r"^## (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def settings_table(text: str) -> dict[str, str]:
    """Names and defaults of the first table with a column "default"."""
    rows = re.search(r"^\| setting \| default \|.*\n\|[-|]+\|\n((?:\|.*\n)*)", text, re.MULTILINE)
    assert rows is not None
    cells = [[cell.strip() for cell in row.split("|")] for row in rows[1].splitlines()]
    return {row[1].strip("`"): row[2].strip('"') for row in cells}


@pytest.mark.parametrize(
    ("heading", "name", "more"),
    [
        ("Blend", "blend", {}),
        ("Nudge", "nudge", {"unit": "word"}),
        ("Defer", "defer", {}),
        ("InterventionCap", "cap", {"policy": "Blend()"}),
    ],
)
def test_a_policys_table_has_its_settings_and_their_defaults(
    heading: str, name: str, more: dict[str, str]
) -> None:
    own = {key: str(each.default) for key, each in parameters(name).items()}
    if name == "cap":  # its table leaves out those of the blend in it
        own = {key: value for key, value in own.items() if key not in parameters("blend")}
    assert settings_table(sections(DOCS / "policies.md")[heading]) == own | more


def test_every_policy_is_in_the_table_of_policies_and_has_a_section() -> None:
    text = (DOCS / "policies.md").read_text("utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \| `", text, re.MULTILINE) == [*POLICY_ORDER]
    assert {*POLICY_ORDER} == {*POLICIES}
    for policy in (Defer, InterventionCap):
        assert policy.__name__ in sections(DOCS / "policies.md")


POLICY_ORDER = ("blend", "nudge", "nudge-token", "defer", "cap", "base", "guide")


def test_every_public_name_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    named = set(re.findall(r"^(?:::: .*\.|\s+- )(\w+)$", pages, re.MULTILINE))
    assert named >= {*blendin.__all__}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_between_files_arrive(page: Path) -> None:
    """On GitHub, too, where there is no site; anchors are the site's builder's to check."""
    for link in re.findall(r"\]\((?!\w+:|#)([^)\s#]+)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


def test_every_page_is_in_the_navigation() -> None:
    configuration = (DOCS / "site" / "mkdocs.yml").read_text("utf-8")
    listed = set(re.findall(r"^ +- .*: (\S+\.md)$", configuration, re.MULTILINE))
    found = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    of_the_root = {"contributing.md", "security.md", "changelog.md", "results.md"}
    assert listed == found | of_the_root
