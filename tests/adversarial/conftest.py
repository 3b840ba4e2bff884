"""The budget of the fuzzers: a fixed small one, or `--budget SECONDS` shared by all of them."""

from __future__ import annotations

import time
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget",
        type=float,
        default=None,
        metavar="SECONDS",
        help="run the fuzzers again and again, with fresh draws, for so long altogether",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fuzz: repeated until its share of --budget is used up")


def _budget(config: pytest.Config) -> float | None:
    return config.getoption("--budget", None)  # pytest knows the option if it was given this folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shares the budget out, and lifts the limit of time from those who have a share."""
    budget = _budget(config)
    fuzzers = [item for item in items if item.get_closest_marker("fuzz")]
    for item in fuzzers if budget is not None else ():
        share = budget / len(fuzzers)
        item.stash[SHARE] = share
        item.add_marker(pytest.mark.timeout(900 + 2 * share))


SHARE = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Calls a fuzzer until its time is up; Hypothesis draws afresh each time."""
    share = pyfuncitem.stash.get(SHARE, None)
    if share is None:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    began, rounds = time.monotonic(), 0
    while rounds == 0 or time.monotonic() - began < share:
        pyfuncitem.obj(**arguments)
        rounds += 1
    pyfuncitem.user_properties.append(("rounds", rounds))
    return True
