"""What the engine and its requests may be told, and what is refused before anything runs."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from stand_in import params

from blendin import BaseOnly, Blend, Defer, InterventionCap, Nudge
from blendin.vllm.arguments import EngineArguments, RequestArguments, validated

SAID = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, Blend()), ({"policy": "nudge"}, Nudge()),
        ({"policy": {"name": "nudge", "threshold": 0.3}}, Nudge(0.3)),
        ({"policy": {"threshold": 0.3}}, Blend(0.3)),
        ({"policy": {"name": "cap", "max_rate": 0.1}}, InterventionCap(Blend(), 0.1)),
    ],
)  # fmt: skip
def test_the_engine_is_told_a_guide_and_a_policy(given: dict[str, Any], policy: Any) -> None:
    own = EngineArguments.of({"blendin": {"guide": "g", **given}})
    assert own.guide == "g" and own.policy == policy


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, "guide is missing"), ({}, "guide is missing"),
        ({"blendin": "g"}, "guide is missing"),
        ({"blendin": {}}, "name a model"), ({"blendin": {"guide": " "}}, "name a model"),
        ({"blendin": {"guide": 5}}, "name a model"),
        ({"blendin": {"guide": "g", "gide": 1}}, "did you mean 'guide'"),
        ({"blendin": {"guide": "g", "policy": "nudg"}}, "nudge"),
        ({"blendin": {"guide": "g", "policy": "guide"}}, "serve the guide"),
        ({"blendin": {"guide": "g", "policy": {"name": "nudge", "top_k": 3}}}, "no setting"),
        ({"blendin": {"guide": "g", "max_cached_tokens": 0}}, "max_cached_tokens"),
        ({"blendin": {"guide": "g", "guide_kwargs": []}}, "guide_kwargs"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_is_refused(config: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        EngineArguments.of(config)


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        (SAID, Nudge(0.9)), (SAID | {"threshold": 0.3}, Nudge(0.3)),
        (SAID | {"policy": "nudge", "threshold": 0.3}, Nudge(0.3)),
        ({"guide_prompt": "Hi"}, Nudge(0.9)), ({"guide_prompt_ids": [1, 2]}, Nudge(0.9)),
        ({"policy": "base"}, BaseOnly()),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_text", [False, True])
def test_a_request_says_what_the_guide_reads(given: Any, policy: Any, as_text: bool) -> None:
    extra = {"blendin": json.dumps(given) if as_text else given, "other": 1}
    own = RequestArguments.of(extra, Nudge(0.9))
    assert own is not None
    assert own.ours.policy == policy
    made = params(extra_args=extra)
    again = params(extra_args=extra)
    assert made.extra_args["other"] == 1 and extra == {**extra}
    keys = [RequestArguments.of(each.extra_args, Blend()) for each in (made, again)]
    assert all(keys) and keys[0].key != keys[1].key  # type: ignore[union-attr]


@pytest.mark.parametrize("extra", [None, {}, {"blendin": None}, {"blendin": False}, {"other": {}}])
def test_a_request_that_does_not_ask_is_left_alone(extra: Any) -> None:
    assert RequestArguments.of(extra, Blend()) is None
    assert params(extra_args=extra, n=3, min_p=0.1).extra_args == extra


@pytest.mark.parametrize(
    ("given", "own", "told"),
    [
        ("{", {}, "no JSON"), ("[1]", {}, "give a mapping"), (5, {}, "give a mapping"),
        ({}, {}, "nothing to read"), ({"policy": "nudge"}, {}, "nothing to read"),
        (SAID | {"guide_prompt": "Hi"}, {}, "give one of them"),
        (SAID | {"polcy": "nudge"}, {}, "did you mean 'policy'"),
        (SAID | {"policy": "nudg"}, {}, "did you mean 'nudge'"),
        (SAID | {"policy": "guide"}, {}, "serve the guide"),
        (SAID | {"policy": "nudge", "top_k": 4}, {}, "no setting top_k"),
        (SAID | {"threshold": 40}, {}, "threshold"), (SAID | {"trace": "yes"}, {}, "trace"),
        (SAID | {"rule": "bet", "alpha": 0.5}, {}, "name one"),
        ({"messages": []}, {}, "user"),
        ({"messages": [{"role": "tool", "content": ""}]}, {}, "role"),
        ({"guide_prompt_ids": []}, {}, "token ids"), ({"guide_prompt_ids": [-1]}, {}, "ids"),
        ({"guide_prompt_ids": ["a"]}, {}, "ids"), ({"guide_prompt": 5}, {}, "guide_prompt"),
        (SAID | {"chat_template_kwargs": {"messages": 1}}, {}, "chat_template_kwargs"),
        (SAID, {"n": 2}, "n is 2"),
        (SAID, {"presence_penalty": 0.5}, "presence_penalty"),
        (SAID, {"frequency_penalty": -0.5}, "frequency_penalty"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_is_refused(given: Any, own: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        params(extra_args={"blendin": given}, **own)


def test_draws_have_one_seed_for_every_rank() -> None:
    made = params(extra_args={"blendin": SAID}, temperature=0.7)
    assert made.seed is not None
    assert params(extra_args={"blendin": SAID}, temperature=0.7, seed=3).seed == 3
    assert params(extra_args={"blendin": SAID}).seed is None
    made = SimpleNamespace(**vars(made))
    seed = made.seed
    validated(made)
    assert made.seed == seed


def test_settings_that_the_engines_policy_lacks_are_the_error_of_a_request_that_runs() -> None:
    """Where no frontend knew that policy."""
    made = params(extra_args={"blendin": SAID | {"rule": "bet", "id": "x"}})
    own = RequestArguments.begun(made.extra_args, Blend())
    assert own is not None and "has no setting rule" in str(own.error)
    assert own.id == "x" and own.key and own.ours.policy == BaseOnly()
    fitting = RequestArguments.begun(made.extra_args, Defer())
    assert (
        fitting is not None and fitting.error is None and fitting.ours.policy == Defer(rule="bet")
    )
