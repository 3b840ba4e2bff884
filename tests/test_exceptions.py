"""Every error of the package survives what processes and queues do to it."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import blendin
from blendin import Generation, Interrupted, Step
from blendin.evaluation.tasks.chat_server import NoReply
from blendin.models.remote.errors import PassingError, ServerError
from blendin.protocol.errors import ApiError

LEFT_OUT = (
    "blendin.kernels",
    "blendin.__main__",
    "blendin.cli.__main__",
    "blendin.models.conversion",
    "blendin.vllm.processor",  # imports vLLM
)


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(blendin.__path__, "blendin."):
        if not found.name.startswith(LEFT_OUT):
            yield importlib.import_module(found.name)


def classes() -> list[type[BaseException]]:
    found = {
        each
        for module in modules()
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, BaseException)
        and each.__module__.startswith("blendin")
    }
    return sorted(found, key=lambda each: each.__name__)


OUTPUTS = [Generation("a", [Step("a", b"a", "base", False)], "end"), Generation("b")]
MADE: dict[type[BaseException], tuple[Any, ...]] = {
    Interrupted: (OUTPUTS,),
    PassingError: ("no server", 3.0),
    NoReply: ("is lost", "start it"),
    ApiError: (404, "no such model"),
}


def instances() -> Iterator[BaseException]:
    for each in classes():
        error = each(*MADE.get(each, ("a sentence",)))
        error.add_note("a note")
        if isinstance(error, ServerError):
            error.output = OUTPUTS[0]
        yield error


def told(error: BaseException) -> tuple[Any, ...]:
    return type(error), str(error), vars(error)


@pytest.mark.parametrize(
    "through",
    [
        *(lambda error, p=p: pickle.loads(pickle.dumps(error, p)) for p in range(6)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=[*(f"pickle {p}" for p in range(6)), "copy", "deepcopy"],
)
def test_errors_are_pickled_and_copied(through: Callable[[Any], Any]) -> None:
    errors = list(instances())
    assert {"Interrupted", "ServerError", "PairError", "NotCausal", "SettingTypeError"} <= {
        type(each).__name__ for each in errors
    }
    for error in errors:
        assert told(through(error)) == told(error)
