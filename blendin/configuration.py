"""`blendin.toml`: pairs of models that are used again, by name.

    [pairs.llama]
    base = "meta-llama/Meta-Llama-3-8B"
    guide = "Qwen/Qwen2.5-0.5B-Instruct"
    dtype = "bfloat16"

It is looked for in the working directory and then in `~/.config/blendin` (`XDG_CONFIG_HOME`);
`BLENDIN_CONFIG` names another file instead of both.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from .spelling import did_you_mean
from .values import told

FILE = "blendin.toml"

TEXTS = ("base", "guide", "dtype", "device_map", "base_tokenizer", "guide_tokenizer")
SERVERS = ("base_verify", "guide_verify")
LISTS = ("base_header", "guide_header")
NUMBERS = ("top_logprobs",)
FLAGS = ("compile_layers",)
SETTINGS = (*TEXTS, *SERVERS, *LISTS, *NUMBERS, *FLAGS)
"""What a pair may have: command-line options, with _ for -."""

PLACES = ("base", "guide", "base_tokenizer", "guide_tokenizer")
"""Of these what begins with ./ or ../ is meant from the file's folder."""


def files() -> list[Path]:
    """Where a pair is looked for, in this order, whether there is a file or not.

    Raises:
        ValueError: there is no home folder.
    """
    if named := os.environ.get("BLENDIN_CONFIG"):
        return [Path(named)]
    try:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error}: set HOME, or BLENDIN_CONFIG to a file") from error
    return [Path(FILE), home / "blendin" / FILE]


def pairs() -> dict[str, tuple[Path, dict[str, Any]]]:
    """All named pairs, each with its file; where two files have a name, the earlier one's.

    Raises:
        ValueError: a file is no such file, or one that was named is not there.
        OSError: a file cannot be read.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in files():
        if path.exists():
            found = {name: (path, pair) for name, pair in _read(path).items()} | found
        elif os.environ.get("BLENDIN_CONFIG"):
            raise ValueError(f"BLENDIN_CONFIG is {path}, which is not there: name a file that is")
    return found


def named_pair(name: str) -> dict[str, Any]:
    """A pair's settings, checked.

    Raises:
        ValueError: there is no such pair, or something in it is wrong; with what to write.
        OSError: a file cannot be read.
    """
    known = pairs()
    if name not in known:
        places = " and ".join(map(str, files()))
        there = f"there are {', '.join(known)}" if known else "there are none"
        raise ValueError(
            f"no pair is called {name!r} in {places}: {there}; a pair is a table [pairs.{name}] "
            f"with base and guide{did_you_mean(name, known)}"
        )
    path, given = known[name]
    where = f"{path}, [pairs.{name}]"
    if not isinstance(given, dict):
        raise ValueError(f"{where} is {told(given)}: make it a table with base and guide")
    return {key: _checked(where, path, key, value) for key, value in given.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:  # no TOML, or no UTF-8
        raise ValueError(f"{path} is no TOML ({error}): mend it") from error
    if unknown := sorted(content.keys() - {"pairs"}):
        raise ValueError(
            f"{path} has {unknown[0]!r}, of which nothing is known; it holds tables "
            f"[pairs.NAME]{did_you_mean(unknown[0], ['pairs'])}"
        )
    found = content.get("pairs", {})
    if not isinstance(found, dict):
        raise ValueError(f"{path}: pairs is {told(found)}; write tables [pairs.NAME]")
    return found


def _checked(where: str, path: Path, key: str, value: Any) -> Any:
    if key == "trust_remote_code":
        raise ValueError(
            f"{where} has trust_remote_code: code that a checkpoint brings is let run by hand "
            "alone; take it out and add --trust-remote-code to the command"
        )
    if key not in SETTINGS:
        raise ValueError(
            f"{where} has {key!r}; there are {', '.join(SETTINGS)}{did_you_mean(key, SETTINGS)}"
        )
    if key in LISTS:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"{where}: {key} is {told(value)}; use a list of NAME=VARIABLE")
    elif key in NUMBERS:
        if type(value) is not int:
            raise ValueError(f"{where}: {key} is {told(value)}; use a whole number")
    elif key in FLAGS:
        if type(value) is not bool:
            raise ValueError(f"{where}: {key} is {told(value)}; use true or false")
    elif not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {key} is {told(value)}; use a text")
    elif key in PLACES and value.startswith(("./", "../")):
        return str(path.resolve().parent / value)
    return value
