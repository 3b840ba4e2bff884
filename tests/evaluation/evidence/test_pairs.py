"""The list of pairs: read, or refused by the name of what is wrong, before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blendin.evaluation.evidence.pairs import PairOfModels, Sweep, read_pairs
from blendin.evaluation.runs.arms import NAMES
from blendin.evaluation.tasks import registry

LIST = """
tasks = ["gsm8k", "xstest"]
arms = ["base", "blend"]
limit = { gsm8k = 5 }
max_new_tokens = 64
settings = { threshold = 0.3 }

[[pair]]
name = "one"
guide = "a/b"
dtype = "bfloat16"
chat_template_kwargs = { enable_thinking = false }

[[pair]]
name = "two"

[sweep]
thresholds = [0.2, 0.4]
alphas = ["adaptive", 1]
pairs = ["two"]
"""


def written(folder: Path, content: Any, name: str = "pairs.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_list_is_read_with_the_same_budget_for_every_pair(tmp_path: Path) -> None:
    found = read_pairs(written(tmp_path, LIST, "pairs.toml"))
    models = {"guide": "a/b", "dtype": "bfloat16"}
    assert found.pairs == (
        PairOfModels("one", models, {"enable_thinking": False}),
        PairOfModels("two"),
    )
    assert (found.tasks, found.arms) == (("gsm8k", "xstest"), ("base", "blend"))
    assert found.limit == {"gsm8k": 5, "xstest": None}
    assert found.max_new_tokens == {"gsm8k": 64, "xstest": 64}
    assert found.sweep == Sweep((0.2, 0.4), (None, 1), found.tasks, ("two",), None)


def test_a_pair_alone_is_a_list_and_json_will_do(tmp_path: Path) -> None:
    found = read_pairs(written(tmp_path, {"pair": [{"name": "x"}]}))
    assert (found.tasks, found.arms, found.sweep) == (registry.NAMES, NAMES, None)
    assert set(found.limit.values()) == {None}


PAIR = {"name": "x"}
SWEEP = {"thresholds": [0.2, 0.3, 0.4]}
REFUSED = [
    ({}, r"there is no pair: add one"),
    ({"pair": []}, "pair is \\[\\]; use a list with something in it"),
    ({"pair": ["x"]}, "pair 1 is 'x'"),
    ({"pair": [{"guide": "x"}]}, "pair 1 has the name None"),
    ({"pair": [{"name": "../x"}]}, "pair 1 has the name '../x'; use letters"),
    ({"pair": [PAIR, {"name": "X"}]}, "pair 2 is called 'X', as one above it"),
    ({"pair": [PAIR | {"gide": "x"}]}, "pair 'x' has 'gide'.* did you mean 'guide'"),
    ({"pair": [PAIR | {"dtype": "int3"}]}, "pair 'x': dtype is 'int3'; use one of"),
    ({"pair": [PAIR | {"guide": 3}]}, "pair 'x': guide is 3; use a text"),
    ({"pair": [PAIR | {"base_header": "x"}]}, "pair 'x': base_header is 'x'; use a list"),
    ({"pair": [PAIR], "task": ["gsm8k"]}, "the list has 'task'.* did you mean 'tasks'"),
    ({"pair": [PAIR], "tasks": ["gsm9k"]}, "tasks has 'gsm9k'.* did you mean 'gsm8k'"),
    ({"pair": [PAIR], "tasks": ["gsm8k", "gsm8k"]}, "name each of them once"),
    ({"pair": [PAIR], "arms": ["bland"]}, "arm 'bland' is unknown"),
    ({"pair": [PAIR], "settings": {"tau": 1}}, "settings has 'tau'"),
    ({"pair": [PAIR], "settings": {"threshold": 40}}, "threshold .* did you mean 0.4"),
    ({"pair": [PAIR], "limit": 0}, "limit is 0; use an integer from 1 up"),
    ({"pair": [PAIR], "limit": {"arc": 3}}, "limit has 'arc'"),
    ({"pair": [PAIR], "max_new_tokens": {"gsm8k": "x"}}, "max_new_tokens.gsm8k is 'x'"),
    ({"pair": [PAIR], "seed": -1}, "seed is -1"),
    ({"pair": [PAIR], "sweep": {"thresholds": [0.2]}}, "sweep: it has fewer than 3 cells"),
    ({"pair": [PAIR], "sweep": {}}, "sweep: thresholds is None"),
    ({"pair": [PAIR], "sweep": {"thresholds": [0.2, 0.2, 1]}}, "thresholds has a value twice"),
    ({"pair": [PAIR], "sweep": SWEEP | {"alphas": ["x"]}}, r"sweep: alphas\[0\] is 'x'"),
    ({"pair": [PAIR], "sweep": SWEEP | {"pairs": ["y"]}}, "sweep: pairs has 'y'; use some of x"),
    ({"pair": [PAIR], "sweep": 3}, "sweep is 3; use a table"),
    ([PAIR], 'use an object with a list "pair"'),
    ("{", "is no JSON"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED, ids=[each[1] for each in REFUSED])
def test_what_is_wrong_is_named(tmp_path: Path, content: Any, message: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        read_pairs(path)
    assert str(path) in str(error.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name a file that ends in \.toml or \.json"):
        read_pairs(tmp_path / "pairs.yaml")
    with pytest.raises(ValueError, match="is no TOML"):
        read_pairs(written(tmp_path, "x", "pairs.toml"))


def test_the_projects_own_list_is_one() -> None:
    found = read_pairs(Path(__file__).parents[3] / "benchmarks" / "pairs.toml")
    assert [pair.name for pair in found.pairs] == ["aligned-guide", "default"]
