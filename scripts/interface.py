"""Prints how the names in `blendin.__all__` have changed since a git ref, its one argument."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parent.parent


def described(member: griffe.Object) -> str:
    """One line: a function's signature, an attribute's type and default."""
    if isinstance(member, griffe.Function):
        signature = member.signature(return_type=True).removeprefix(member.name)
        return signature.replace("(self, ", "(").replace("(self)", "()")
    if isinstance(member, griffe.Attribute):
        kind = f": {member.annotation}" if member.annotation is not None else ""
        return kind + (f" = {member.value}" if member.value is not None else "")
    return ""


def interface(folder: Path) -> dict[str, str]:
    """The public names under `folder`, those of public classes included, each with its line."""
    package = griffe.load(
        "blendin", search_paths=[folder], allow_inspection=False, try_relative_path=False
    )
    lines: dict[str, str] = {}
    names = [str(name) for name in package.exports or []]
    for name in names:
        entry = package[name]
        entry = entry.final_target if entry.is_alias else entry
        lines[name] = described(entry)
        if not entry.is_class:
            continue
        for member_name, member in entry.all_members.items():
            try:
                member = member.final_target if member.is_alias else member
            except griffe.AliasResolutionError:  # inherited from another package
                continue
            if member.parent is not entry and member.parent and member.parent.name in names:
                continue  # inherited from a public class, and shown there
            if not member_name.startswith("_") or member_name == "__init__":
                lines[f"{name}.{member_name}"] = described(member)
    return lines


def interface_at(ref: str) -> dict[str, str]:
    archive = subprocess.run(
        ["git", "archive", ref, "blendin"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        return interface(Path(folder))


def main(ref: str) -> None:
    before, now = interface_at(ref), interface(ROOT)
    changes = [f"- {name}{before[name]}" for name in before if name not in now]
    changes += [f"+ {name}{now[name]}" for name in now if name not in before]
    for name in now:
        if name in before and before[name] != now[name]:
            changes += [f"~ {name}", f"    was {before[name]}", f"    now {now[name]}"]
    print(f"Public interface since {ref}:", *(changes or ["no change"]), sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1])
