"""The list of pairs that `blendin evidence` runs: a TOML or JSON file, checked before any work."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...policy import all_parameters
from ...prompts import checked_template_kwargs
from ...spelling import did_you_mean
from ...text_files import read_text
from ...values import Choice, Flag, Integer, Kind, Real, Text, spelled, told
from ..runs import arms
from ..tasks import registry
from ..tasks.data import SUBSET_SEED

NAME = re.compile(r"\w[\w.-]{0,99}")
ADAPTIVE = "adaptive"
"""α that is no number."""


def _texts(name: str, value: Any) -> list[str]:
    return [Text()(f"{name}[{place}]", each) for place, each in enumerate(_list(name, value))]  # type: ignore[misc]


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {told(value)}; use a list with something in it")
    return value


MODELS: dict[str, Kind] = {
    "base": Text(),
    "guide": Text(),
    "dtype": Choice(("auto", "float32", "bfloat16", "float16")),
    "device_map": Text(),
    "trust_remote_code": Flag(),
    "compile_layers": Flag(),
    "base_tokenizer": Text(),
    "guide_tokenizer": Text(),
    "top_logprobs": Integer(1),
    "base_header": _texts,
    "guide_header": _texts,
    "base_verify": Text(),
    "guide_verify": Text(),
}
"""What of a pair goes to its loading, by the names of `blendin evaluate`'s options."""


@dataclass(frozen=True)
class PairOfModels:
    """One pair of the list.

    Attributes:
        name: a folder's.
        models: what `MODELS` has, as far as it is given.
        chat_template_kwargs: for the guide's template.
    """

    name: str
    models: Mapping[str, Any] = field(default_factory=dict)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """A grid of τ and α, beside the arms.

    Attributes:
        thresholds, alphas: its sides; None in `alphas` where α adapts.
        tasks: on which.
        pairs: the names of those that it is for.
        limit: items of a task; None: all.
    """

    thresholds: tuple[float, ...]
    alphas: tuple[float | None, ...]
    tasks: tuple[str, ...]
    pairs: tuple[str, ...]
    limit: int | None


@dataclass(frozen=True)
class Evidence:
    """What is to be run: every pair on every task, under the same arms, within the same budget.

    Attributes:
        pairs: in the file's order.
        tasks: by name.
        arms: by name.
        settings: of the arms' policies, as `arms.arms` takes them.
        limit: items of each task; None: all.
        max_new_tokens: of an answer, by task; None: the task's own.
        seed: of the subsets.
        batch_size: the most answers in flight.
        sweep: None for none.
    """

    pairs: tuple[PairOfModels, ...]
    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    settings: Mapping[str, Any]
    limit: Mapping[str, int | None]
    max_new_tokens: Mapping[str, int | None]
    seed: int
    batch_size: int
    sweep: Sweep | None


def read_pairs(path: str | Path) -> Evidence:
    """Reads the list; docs/evidence.md describes it.

    Args:
        path: a file that ends in .toml or .json.

    Raises:
        ValueError: it is neither, or a setting is unknown, missing or out of range; names the
            file, the pair and the setting.
        OSError: it cannot be read.
    """
    path = Path(path)
    given = _parsed(path)
    with spelled(lambda name, value: name):  # of a file, not of the command line's options
        try:
            return _evidence(given)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _parsed(path: Path) -> dict[str, Any]:
    readers: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": json.loads}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is no list of pairs: name a file that ends in .toml or .json")
    text = read_text(path)
    try:
        given = reader(text)
    except (ValueError, RecursionError) as error:
        kind = path.suffix[1:].upper()
        raise ValueError(f"{path} is no {kind}: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f'{path} is {told(given)}; use an object with a list "pair"')
    return given


def _evidence(given: dict[str, Any]) -> Evidence:
    known = ("pair", "tasks", "arms", "settings", "limit", "max_new_tokens", "seed", "batch_size")
    _refuse_unknown("the list", given, (*known, "sweep"))
    pairs = _pairs(given.get("pair"))
    tasks = _words("tasks", given.get("tasks", list(registry.NAMES)), registry.NAMES)
    settings = _settings(given.get("settings", {}))
    names = tuple(_texts("arms", given.get("arms", list(arms.NAMES))))
    arms.arms(names, **settings)  # refuses what no policy takes
    limit = _by_task("limit", given.get("limit"), tasks, Integer(1, none="all"))
    sweep = given.get("sweep")
    return Evidence(
        pairs,
        tasks,
        names,
        settings,
        limit,
        _by_task("max_new_tokens", given.get("max_new_tokens"), tasks, Integer(1, none="its own")),
        _integer("seed", given.get("seed", SUBSET_SEED), 0),
        _integer("batch_size", given.get("batch_size", 32), 1),
        None if sweep is None else _sweep(sweep, pairs, tasks, settings),
    )


def _pairs(given: Any) -> tuple[PairOfModels, ...]:
    if given is None:
        raise ValueError('there is no pair: add one, in TOML "[[pair]]" with its name below')
    found: dict[str, PairOfModels] = {}
    for place, each in enumerate(_list("pair", given), start=1):
        if not isinstance(each, dict):
            raise ValueError(f'pair {place} is {told(each)}; use a table with a "name"')
        name = each.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(
                f"pair {place} has the name {told(name)}; use letters, digits, _, . and -, for "
                "it names a folder"
            )
        if name.casefold() in found:
            raise ValueError(f"pair {place} is called {name!r}, as one above it: name them apart")
        where = f"pair {name!r}"
        _refuse_unknown(where, each, ("name", "chat_template_kwargs", *MODELS))
        models = {
            key: kind(f"{where}: {key}", each[key]) for key, kind in MODELS.items() if key in each
        }
        template = _table(f"{where}: chat_template_kwargs", each.get("chat_template_kwargs", {}))
        found[name.casefold()] = PairOfModels(name, models, checked_template_kwargs(template))
    return tuple(found.values())


def _sweep(
    given: Any,
    pairs: tuple[PairOfModels, ...],
    tasks: tuple[str, ...],
    settings: Mapping[str, Any],
) -> Sweep:
    _refuse_unknown(
        "sweep", _table("sweep", given), ("thresholds", "alphas", "tasks", "pairs", "limit")
    )
    names = [pair.name for pair in pairs]
    found = Sweep(
        tuple(
            Real(0)(f"sweep: thresholds[{place}]", each)  # type: ignore[misc]
            for place, each in enumerate(_list("sweep: thresholds", given.get("thresholds")))
        ),
        tuple(
            None if each == ADAPTIVE else Real(0, 1)(f"sweep: alphas[{place}]", each)
            for place, each in enumerate(_list("sweep: alphas", given.get("alphas", [ADAPTIVE])))
        ),
        _words("sweep: tasks", given.get("tasks", list(tasks)), registry.NAMES),
        _words("sweep: pairs", given.get("pairs", names), names),
        Integer(1, none="all")("sweep: limit", given.get("limit")),
    )
    for side, values in (("thresholds", found.thresholds), ("alphas", found.alphas)):
        if len(set(values)) < len(values):
            raise ValueError(f"sweep: {side} has a value twice: name each of them once")
    if len(arms.sweep(found.thresholds, found.alphas, **settings)) < arms.FEWEST_OF_A_SWEEP:
        raise ValueError(
            f"sweep: it has fewer than {arms.FEWEST_OF_A_SWEEP} cells: give more thresholds or "
            "alphas, or leave it out"
        )
    return found


def _settings(given: Any) -> dict[str, Any]:
    _refuse_unknown("settings", _table("settings", given), all_parameters())
    return dict(given)


def _by_task(name: str, given: Any, tasks: tuple[str, ...], kind: Kind) -> dict[str, int | None]:
    """One number for every task, or a table of them by task."""
    if not isinstance(given, dict):
        return dict.fromkeys(tasks, kind(name, given))
    _refuse_unknown(name, given, tasks)
    return {task: kind(f"{name}.{task}", given.get(task)) for task in tasks}


def _words(name: str, given: Any, known: Any) -> tuple[str, ...]:
    words = _texts(name, given)
    for word in words:
        if word not in known:
            raise ValueError(
                f"{name} has {word!r}; use some of {', '.join(known)}{did_you_mean(word, known)}"
            )
    if len(set(words)) < len(words):
        raise ValueError(f"{name} has {told(words)}: name each of them once")
    return tuple(words)


def _integer(name: str, value: Any, low: int) -> int:
    found = Integer(low)(name, value)
    assert found is not None
    return found


def _table(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{name} is {told(given)}; use a table of names and values")
    return given


def _refuse_unknown(where: str, given: Mapping[str, Any], known: Any) -> None:
    for name in given:
        if name not in known:
            raise ValueError(
                f"{where} has {name!r}, which is no setting of it; there are "
                f"{', '.join(known)}{did_you_mean(name, known)}"
            )
