"""A server that lies, in any field of its answers: never wrong text in silence, never for ever."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import generator, model
from fake_server import FakeServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_remote import run_out_sooner

from blendin import BaseOnly, Blend, BlendInGenerator
from blendin.models.remote.errors import ServerError

BASE, GUIDE = ("llama", "byte-level", 0), ("llama", "byte-level", 1)
PROMPT = "How many apples are there?"
LENGTH = 6

JUNK = (
    None,
    True,
    "",
    "x",
    "\ud800",
    -1,
    148.5,
    10**30,
    math.inf,
    math.nan,
    [],
    {},
    [None],
    {"x": "y"},
    {"token_id:-1": -0.1},
    {"token_id:5": 148.0},
    ["token_id:" + "9" * 30],
    [[[[]]]],
)


class Liar(FakeServer):
    """Tells lies where it is told to; with none it is honest."""

    lies: list[tuple[int, list[int], Any]]
    told = 0

    def choice(self, *args: Any) -> dict[str, Any]:
        honest = super().choice(*args)
        self.told += 1
        for at, path, junk in self.lies:
            if at == self.told:
                return self.lying(copy.deepcopy(honest), path, junk)
        return honest

    def lying(self, answer: Any, path: list[int], junk: Any) -> Any:
        """An answer with junk, or with nothing, at a place that a path leads to."""
        here = answer
        for step in path:
            keys = list(here) if isinstance(here, dict) else range(len(here))
            key = keys[step % len(keys)]
            if step == path[-1] or not isinstance(here[key], dict | list) or not here[key]:
                if junk == "nothing":
                    del here[key]
                else:
                    here[key] = junk
                break
            here = here[key]
        return answer


lies = st.tuples(
    st.integers(1, 12),
    st.lists(st.integers(0, 50), min_size=1, max_size=4),
    st.sampled_from((*JUNK, "nothing")),
)


@pytest.fixture(scope="module")
def liar() -> Iterator[Liar]:
    Liar.lies = []
    with Liar(model(*BASE), max_logprobs=10_000) as server:
        yield server


@pytest.fixture(scope="module")
def gen(liar: Liar) -> Iterator[BlendInGenerator]:
    kwargs = {"tokenizer": model(*BASE)[1], "patience": 300.0, "timeout": 60.0}
    with pytest.MonkeyPatch.context() as patch:
        run_out_sooner(patch, 200)
        yield BlendInGenerator(liar.url, model(*GUIDE), base_kwargs=kwargs)


@pytest.mark.fuzz
@pytest.mark.timeout(300)
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(some=st.lists(lies, min_size=1, max_size=2), policy=st.sampled_from((BaseOnly(), Blend())))
def test_a_lie_is_found_out_or_changes_nothing(
    some: list[Any], policy: Any, gen: BlendInGenerator, liar: Liar
) -> None:
    honest = generator(BASE, GUIDE).generate(PROMPT, policy=policy, max_new_tokens=LENGTH)
    liar.told, liar.lies = 0, some
    began = time.monotonic()
    try:
        out = gen.generate(PROMPT, policy=policy, max_new_tokens=LENGTH)
    except (ServerError, ValueError) as error:
        assert str(error)
    else:
        assert out.text == honest.text
        assert out.token_ids == honest.token_ids
    finally:
        liar.lies = []
    assert time.monotonic() - began < 100
    again = gen.generate(PROMPT, policy=policy, max_new_tokens=LENGTH)
    assert again.token_ids == honest.token_ids
