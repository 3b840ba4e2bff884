"""What callers pass: every setting of every kind, taken as it is meant or refused by name."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from conftest import readable

from blendin import Blend, Defer, InterventionCap, Nudge, Policy, Sampling
from blendin.policy import POLICIES, as_policy, described, named_policy
from blendin.settings import DEFAULTS, KINDS, SchedulingSettings, ScoreSettings, checked
from blendin.values import Integer, Kind, for_json, spelled

INTEGERS: dict[str, int] = {"max_new_tokens": 3, "seed": 3, "sampling_top_k": 3}
INTEGERS |= {
    "repetition_penalty_range": 3,
    "max_batch_size": 3,
    "max_cached_tokens": 3,
    "speculate": 3,
    "trace_top": 3,
}
REALS: dict[str, float] = {"temperature": 0.5, "top_p": 0.5, "repetition_penalty": 0.5}
REALS |= {"min_p": 0.5}


def as_integers(value: int) -> list[Any]:
    """A whole number in every way it is written."""
    return [
        value,
        float(value),
        np.int64(value),
        np.uint8(value),
        np.float32(value),
        np.array(value),
        torch.tensor(value),
        torch.tensor(float(value)),
        Decimal(value),
        Fraction(value),
    ]


def as_reals(value: float) -> list[Any]:
    """A number in every way it is written, in halves so that all of them are exact."""
    numpys = [np.float16(value), np.float32(value), np.float64(value), np.longdouble(value)]
    tensors = [torch.tensor(value, dtype=dtype) for dtype in (torch.bfloat16, torch.float64)]
    others = [np.array(value), Decimal(str(value)), Fraction(value)]
    return [value, *numpys, *tensors, *others]


NO_NUMBERS: list[Any] = [
    "5", b"5", "", True, False, np.True_, torch.tensor(True), math.nan, math.inf, -math.inf,
    np.float32("nan"), Decimal("NaN"), Decimal("Infinity"), 1e400,
    1j, [3], (3,), {3}, {"value": 3}, np.array([3]), torch.tensor([3]), torch.tensor([3, 4]),
    range(3), iter([3]), object(), int, np.datetime64("2026-01-01"),
]  # fmt: skip


def test_every_setting_has_a_kind_and_takes_its_default() -> None:
    assert set(KINDS) == set(get_type_hints(SchedulingSettings)) == set(DEFAULTS)
    assert checked(DEFAULTS) == DEFAULTS
    assert set(get_type_hints(ScoreSettings)) <= set(KINDS)
    for field in fields(Sampling):
        assert "kind" in field.metadata


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_taken_however_they_are_written(name: str) -> None:
    for value in as_integers(INTEGERS[name]):
        found = KINDS[name](name, value)
        assert type(found) is int and found == INTEGERS[name], repr(value)


@pytest.mark.parametrize("name", REALS)
def test_numbers_are_taken_however_they_are_written(name: str) -> None:
    for value in as_reals(REALS[name]):
        found = KINDS[name](name, value)
        assert type(found) is float and found == REALS[name], repr(value)
    for value in as_integers(1):
        found = KINDS[name](name, value)
        assert type(found) is float and found == 1.0, repr(value)


@pytest.mark.parametrize("name", [*INTEGERS, *REALS])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=readable)
def test_what_is_no_number_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*; use "):
        KINDS[name](name, value)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(
    "value", [5.5, np.float32(2.5), Decimal("0.1"), Fraction(1, 3)], ids=readable
)
def test_what_is_no_whole_number_is_no_integer(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*; use "):
        KINDS[name](name, value)


NONE_MEANS_SOMETHING = {"system", "policy", "stop", "sampling_top_k", "seed"}
NONE_MEANS_SOMETHING |= {
    "repetition_penalty_range",
    "max_cached_tokens",
    "progress",
    "chat_template_kwargs",
}


@pytest.mark.parametrize("name", KINDS)
def test_none_is_a_value_where_it_means_something(name: str) -> None:
    if name in NONE_MEANS_SOMETHING:
        assert KINDS[name](name, None) is None
    else:
        with pytest.raises(ValueError, match=f"^{name} is None; use "):
            KINDS[name](name, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_batch_size", 0),
        ("max_cached_tokens", 0),
        ("sampling_top_k", 0),
        ("speculate", 0),
        ("speculate", 16),
        ("temperature", -0.1),
        ("temperature", 1e39),
        ("top_p", 0),
        ("top_p", 1.0001),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-40),
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*; use "):
        KINDS[name](name, value)


def test_a_seed_out_of_torchs_range_is_told_the_range() -> None:
    with pytest.raises(ValueError, match=r"-9223372036854775808 to 18446744073709551615"):
        Sampling(do_sample=True, seed=2**64)
    for seed in (2**64 - 1, -(2**63)):
        Sampling(do_sample=True, seed=seed).generator(index=1)  # the row after it, too


@pytest.mark.parametrize("name", ["do_sample", "progress"])
def test_truth_values_are_no_texts(name: str) -> None:
    for value in (True, np.True_, torch.tensor(True), 1):
        assert KINDS[name](name, value) is True
    for value in (False, np.False_, 0):
        assert KINDS[name](name, value) is False
    for value in ("False", "true", "", 2, 0.5, [], [True], object()):
        with pytest.raises(ValueError, match=f"^{name} is .*; use True or False"):
            KINDS[name](name, value)


class Word(str):
    """A text of a class of its own."""


@pytest.mark.parametrize("value", [Word("x"), np.str_("x"), np.array("x")], ids=type)
def test_a_subclass_of_str_is_a_text(value: Any) -> None:
    for name, expected in (("system", "x"), ("stop", ("x",))):
        found = KINDS[name](name, value)
        assert found == expected
        assert {type(text) for text in found} == {str}


@pytest.mark.parametrize(
    "value", [b"x", bytearray(b"x"), 5, 0.5, {"a": "b"}, object()], ids=readable
)
@pytest.mark.parametrize("name", ["system", "stop"])
def test_what_is_no_text_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is "):
        KINDS[name](name, value)


@pytest.mark.parametrize("name", ["system", "stop"])
def test_a_lone_surrogate_is_no_text(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} has a lone surrogate, '\\ud800' at 1"):
        KINDS[name](name, "a\ud800")


def test_stop_texts_are_one_or_several_and_not_empty() -> None:
    kind = KINDS["stop"]
    assert kind("stop", None) is None
    assert kind("stop", ()) == ()
    several: list[Any] = [["a", "b"], ("a", "b"), np.array(["a", "b"]), {"a": 0, "b": 0}.keys()]
    for value in [*several, iter(["a", "b"])]:
        assert kind("stop", value) == ("a", "b")
    for value in ("", [""], ["a", ""], ["a", None], ["a", b"b"], [["a"]]):
        with pytest.raises(ValueError, match=r"^stop is"):
            kind("stop", value)


# -- policies --------------------------------------------------------------------------------------

POLICY_FIELDS: list[tuple[Any, str, Kind]] = [
    (policy, field.name, field.metadata["kind"])
    for policy in (Blend, Nudge, Defer, InterventionCap)
    for field in fields(policy)
    if "help" in field.metadata
]


def test_every_parameter_of_a_policy_has_a_kind() -> None:
    assert len(POLICY_FIELDS) == 11
    assert all(kind is not None for _, _, kind in POLICY_FIELDS)


NUMBER_FIELDS = [
    (p, name) for p, name, _ in POLICY_FIELDS if name not in ("unit", "rule", "calibration")
]


@pytest.mark.parametrize(("policy", "name"), NUMBER_FIELDS)
def test_numbers_of_policies_are_plain(policy: Any, name: str) -> None:
    whole = name in ("top_k", "grace_steps")
    for value in as_integers(1) if whole else [*as_reals(0.5), *as_integers(1)]:
        made = policy(**{name: value})
        assert type(getattr(made, name)) is (int if whole else float)
        assert getattr(made, name) == value
        assert made == policy(**{name: getattr(made, name)})
        json.dumps(described(made))


@pytest.mark.parametrize(("policy", "name"), NUMBER_FIELDS)
@pytest.mark.parametrize("value", [*NO_NUMBERS, -1], ids=readable)
def test_numbers_of_policies_that_are_none_are_refused(policy: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}( \(.\))? is .*; .*use "):
        policy(**{name: value})


@pytest.mark.parametrize("policy", [Blend, Nudge, Defer])
@pytest.mark.parametrize(
    ("value", "meant"), [(40, "0.4"), (15, "0.15"), (100, "1"), (2.5, "0.025")]
)
def test_a_threshold_in_percent_is_told_the_probability(
    policy: Any, value: float, meant: str
) -> None:
    with pytest.raises(ValueError, match=rf"is {value}; did you mean {meant}\?"):
        policy(threshold=value)
    name = next(name for name, (_, classes, _) in POLICIES.items() if policy in classes)
    with pytest.raises(ValueError, match=rf"did you mean {meant}\?"):
        named_policy(name, threshold=value)


@pytest.mark.parametrize("policy", [Blend, Nudge, Defer])
def test_thresholds_up_to_two_are_no_percents(policy: Any) -> None:
    for value in (0, 1, 1.5, 2):
        assert policy(threshold=value).threshold == value
    with pytest.raises(ValueError) as caught:
        policy(threshold=4000)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "given", "meant"),
    [(Blend, {"alpha": 40}, "0.4"), (InterventionCap, {"max_rate": 20}, "0.2")],
)
def test_other_percents_are_told_too(policy: Any, given: Any, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean {meant}\?"):
        policy(**given)


@pytest.mark.parametrize(("policy", "name"), [(Nudge, "unit"), (Defer, "rule")])
def test_words_of_policies(policy: Any, name: str) -> None:
    word = getattr(policy(), name)
    made = policy(**{name: Word(word)})
    assert type(getattr(made, name)) is str
    for value in ("line", "", None, 1, b"token", ["token"]):
        with pytest.raises(ValueError, match=f"^{name} is .*; use one of "):
            policy(**{name: value})


def test_the_whole_vocabulary_is_zero_and_not_false() -> None:
    assert named_policy("blend", top_k=np.int64(0)) == Blend(top_k=None)
    for value in (False, "0", -1, 1.5):
        with pytest.raises(ValueError, match=r"^top_k is"):
            named_policy("blend", top_k=value)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_by_its_name(name: str) -> None:
    assert (
        as_policy(name) == as_policy(Word(name)) == as_policy(np.str_(name)) == named_policy(name)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Blend, r"policy is the class Blend; use a Policy such as Blend\(...\)"),
        (Nudge, r"policy is the class Nudge; use a Policy such as Nudge\(...\)"),
        ({"name": "blend"}, r"policy is \{'name': 'blend'\}; use a Policy such as"),
        (None, "policy is None; use a Policy"),
        (0.4, "policy is 0.4; use a Policy"),
        (["blend"], r"policy is \['blend'\]; use a Policy"),
        (dict, "policy is the class dict; use a Policy"),
        ("blind", "policy 'blind' is unknown"),
    ],
)
def test_what_is_no_policy_gets_a_sentence(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_policy(value)
    with pytest.raises(ValueError, match=message):
        InterventionCap(value)
    if not isinstance(value, str):
        with pytest.raises(TypeError):
            as_policy(value)


def test_a_capped_policy_may_be_named() -> None:
    assert InterventionCap("nudge") == InterventionCap(Nudge())  # type: ignore[arg-type]


HALF = np.float32(0.5)


def test_a_policy_of_ones_own_is_told_in_json() -> None:
    @dataclass(frozen=True)
    class Own(Policy):
        weight: Any = HALF
        sizes: tuple[Any, ...] = (np.int64(2), torch.tensor(3))
        dtype: Any = torch.float32

    told = described(Own())
    assert told == {"name": "Own", "weight": 0.5, "sizes": [2, 3], "dtype": "torch.float32"}
    assert json.loads(json.dumps(told)) == told


def test_everything_has_a_form_for_json() -> None:
    values = {1: {2}, "a": Decimal("0.5"), "b": np.arange(2), "c": None, "d": True, "e": 10**30}
    told = json.loads(json.dumps(for_json(values)))
    assert told == {
        "1": [2], "a": 0.5, "b": "array([0, 1])", "c": None, "d": True, "e": 10**30
    }  # fmt: skip


# -- sampling --------------------------------------------------------------------------------------


def test_temperature_zero_is_greedy() -> None:
    for given in ({}, {"do_sample": True}, {"top_p": 0.5}, {"sampling_top_k": 3, "seed": 1}):
        for zero in (0, 0.0, -0.0, np.float32(0), Decimal(0)):
            sampling = Sampling(temperature=zero, **given)
            assert not sampling.do_sample and sampling.is_argmax
    assert not Sampling(temperature=0, repetition_penalty=1.5).is_argmax
    scores = torch.tensor([0.0, 1.0, 0.9])
    picked = Sampling(temperature=0, repetition_penalty=2).pick(scores, [1], torch.Generator())
    assert picked == 2


@pytest.mark.parametrize("temperature", [1e-20, 1e-6, 2, np.float32(0.5), 1e6, 1e20])
@pytest.mark.parametrize("repetition_penalty", [2, 1e-12, np.float16(1.5), 1e12])
def test_sampling_at_any_legal_value_draws(temperature: Any, repetition_penalty: Any) -> None:
    sampling = Sampling(
        do_sample=np.True_,  # type: ignore[arg-type]
        temperature=temperature,
        repetition_penalty=repetition_penalty,
        top_p=np.float32(0.9),  # type: ignore[arg-type]
        sampling_top_k=np.int64(2),  # type: ignore[arg-type]
        seed=np.int64(3),  # type: ignore[arg-type]
        repetition_penalty_range=np.int64(2),  # type: ignore[arg-type]
        min_p=np.float32(0.5),  # type: ignore[arg-type]
    )
    assert sampling.pick(torch.randn(5), [1], sampling.generator()) in range(5)
    assert {type(value) for value in vars(sampling).values()} == {bool, float, int}


def test_settings_that_act_on_sampling_name_themselves() -> None:
    with pytest.raises(
        ValueError, match=r"^top_p and sampling_top_k act on sampling only: add do_"
    ):
        Sampling(top_p=0.5, sampling_top_k=1)


# -- errors ----------------------------------------------------------------------------------------


def test_errors_are_spelled_as_the_caller_spells() -> None:
    with spelled(lambda name, value=None: f"<{name}>"):
        with pytest.raises(ValueError, match=r"^<max_new_tokens> is 0"):
            checked({"max_new_tokens": 0})
        with pytest.raises(ValueError, match="add <do_sample>"):
            Sampling(top_p=0.5)
    with pytest.raises(ValueError, match=r"^max_new_tokens is 0"):
        checked({"max_new_tokens": 0})


def test_an_error_is_one_short_line() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError

    for value in ("x\n" * 500, torch.zeros(50, 50), Rude()):
        with pytest.raises(ValueError) as caught:
            Integer(1)("limit", value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_policies_are_checked_without_torch() -> None:
    code = "import sys; from blendin import Blend; Blend(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
