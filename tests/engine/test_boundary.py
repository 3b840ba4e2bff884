"""Prompts, settings and lists as callers pass them, and what is wrong with one row of a list."""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict, UserList, deque
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import generator, readable
from transformers import set_seed

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly, Nudge
from blendin.prompts import BASE_STOP

TEXTS = ["How many?", "Why?", "x"]
SHORT: dict[str, Any] = {"max_new_tokens": 2}


@pytest.fixture
def gen() -> BlendInGenerator:
    return generator(("llama", "byte-level", 0), ("llama", "sentencepiece", 1))


@pytest.fixture
def silent(gen: BlendInGenerator, monkeypatch: pytest.MonkeyPatch) -> BlendInGenerator:
    """Models that must not run."""

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model ran before the input was checked")

    monkeypatch.setattr(gen.base.model, "forward", forbidden)
    monkeypatch.setattr(gen.guide.model, "forward", forbidden)
    return gen


class Word(str):
    """A text of a class of its own."""


class Old:
    """Iterable by the old protocol alone."""

    def __getitem__(self, place: int) -> str:
        return TEXTS[place]


class Rows:
    """A column of a table, such as pandas' and datasets' are: sized, iterable and no Sequence."""

    ndim = 1

    def __len__(self) -> int:
        return len(TEXTS)

    def __iter__(self) -> Iterator[str]:
        return iter(TEXTS)


LISTS: dict[str, Callable[[], Any]] = {
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "iterator": lambda: iter(TEXTS),
    "map": lambda: map(str, TEXTS),
    "keys": lambda: dict.fromkeys(TEXTS).keys(),
    "values": lambda: dict(enumerate(TEXTS)).values(),
    "array": lambda: np.array(TEXTS),
    "array of objects": lambda: np.array(TEXTS, dtype=object),
    "deque": lambda: deque(TEXTS),
    "user list": lambda: UserList(TEXTS),
    "column": Rows,
    "old": Old,
    "subclass": lambda: [Word(text) for text in TEXTS],
}


@pytest.mark.parametrize("kind", LISTS)
def test_whatever_yields_texts_is_a_list(gen: BlendInGenerator, kind: str) -> None:
    expected = [out.token_ids for out in gen.generate(TEXTS, **SHORT)]
    assert [out.token_ids for out in gen.generate(LISTS[kind](), **SHORT)] == expected
    batch = gen.stream_batch(LISTS[kind](), **SHORT)
    assert [out.token_ids for _, out in sorted(batch, key=lambda each: each[0])] == expected
    outs = gen.generate(base_prompt=LISTS[kind](), policy="base", **SHORT)
    assert len(outs) == 3 and all(out.error is None for out in outs)
    outs = gen.generate(guide_prompt=LISTS[kind](), policy="guide", **SHORT)
    assert len(outs) == 3 and all(out.error is None for out in outs)
    for out in outs:
        json.dumps(out.to_dict())


def test_columns_of_tables_are_lists(gen: BlendInGenerator) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"prompt": TEXTS})
    assert len(gen.generate(table["prompt"], **SHORT)) == 3
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": [*TEXTS, None]}, index=[7, 5, 3, 1])
    outs = gen.generate(frame["prompt"], max_new_tokens=frame.index.to_series(), **{})
    assert [len(out.steps) for out in outs] == [7, 5, 3, 0]
    with pytest.raises(ValueError, match=r"prompt is a DataFrame .* pass one of its columns"):
        gen.generate(frame)


def test_sets_are_lists_and_no_prompts_are_no_results(gen: BlendInGenerator) -> None:
    assert (
        len(gen.generate(set(TEXTS), **SHORT)) == len(gen.generate(frozenset(TEXTS), **SHORT)) == 3
    )
    for nothing in ([], (), iter(()), set(), np.array([], dtype=str)):
        assert gen.generate(nothing) == []
    assert gen.score([], []) == gen.score("x", []) == []


MESSAGE = {"role": "user", "content": "Why?"}


@pytest.mark.parametrize(
    "prompt",
    [
        MESSAGE,
        MappingProxyType(MESSAGE),
        OrderedDict(MESSAGE),
        (MESSAGE,),
        deque([MESSAGE]),
        {"role": "user", "content": Word("Why?")},
    ],
    ids=lambda value: type(value).__name__,
)
def test_messages_are_one_prompt(gen: BlendInGenerator, prompt: Any) -> None:
    expected = gen.generate("Why?", **SHORT)
    assert gen.generate(prompt, **SHORT).steps == expected.steps
    assert gen.generate((message for message in [MESSAGE]), **SHORT).steps == expected.steps
    outs = gen.generate(
        [prompt, "Why?"] if isinstance(prompt, dict) else [prompt, [MESSAGE]], **SHORT
    )
    assert [out.steps for out in outs] == [expected.steps] * 2


NO_TEXTS: list[Any] = [
    None, float("nan"), 5, 0.5, b"x", bytearray(b"x"), True, ["a", "b"], object(), "a\ud800",
    np.float64("nan"), torch.tensor(3), {"content": "x"}, "", " \n",
]  # fmt: skip


@pytest.mark.parametrize("value", NO_TEXTS, ids=readable)
def test_what_is_no_text_is_an_error_of_its_row(gen: BlendInGenerator, value: Any) -> None:
    outs = gen.generate(["Why?", value, "x"], **SHORT)
    assert [out.error is None for out in outs] == [True, False, True]
    assert outs[0].steps == gen.generate("Why?", **SHORT).steps
    json.dumps(outs[1].to_dict()), repr(outs[1]), outs[1]._repr_html_()


@pytest.mark.parametrize("value", NO_TEXTS, ids=readable)
def test_what_is_no_text_is_refused_alone(silent: BlendInGenerator, value: Any) -> None:
    if isinstance(value, list):
        return
    with pytest.raises(ValueError):
        silent.generate(value)
    with pytest.raises(ValueError):
        silent.generate("x", base_prompt=value if value is not None else "")
    if value != " \n":  # a text like any other after a prompt
        with pytest.raises(ValueError):
            silent.score("x", value)
        with pytest.raises(ValueError, match=r"text 1|text to score"):
            silent.score("x", ["a", value])


def test_bytes_are_to_be_decoded(silent: BlendInGenerator) -> None:
    for given in ({"prompt": b"x"}, {"base_prompt": b"x"}, {"prompt": "x", "guide_prompt": b"x"}):
        with pytest.raises(ValueError, match=r"prompt is b'x': decode it first"):
            silent.generate(**given)


def test_a_lone_surrogate_in_a_message_is_named(silent: BlendInGenerator) -> None:
    with pytest.raises(ValueError, match="prompt has a lone surrogate"):
        silent.generate([{"role": "user", "content": "\udc80"}])


# -- settings --------------------------------------------------------------------------------------

ACCEPTED: list[dict[str, Any]] = [
    {"max_new_tokens": np.int64(2)},
    {"max_new_tokens": 2.0},
    {"max_new_tokens": torch.tensor(2)},
    {"do_sample": True, "seed": np.int64(3)},
    {"do_sample": np.True_, "temperature": 2},
    {"do_sample": True, "temperature": np.float32(0.7), "top_p": np.float16(0.9)},
    {"do_sample": True, "repetition_penalty": 2, "sampling_top_k": np.uint8(4)},
    {"policy": Blend(threshold=np.float32(0.4), top_k=np.int32(5))},  # type: ignore[arg-type]
    {"policy": "nudge"},
    {"stop": np.array(["a", "b"])},
    {"system": Word("Be brief.")},
    {"speculate": np.int64(3)},
    {"temperature": 0},
    {"max_batch_size": np.int64(3), "max_cached_tokens": 500.0, "progress": np.False_},
    {"progress": False},
]


@pytest.mark.parametrize("given", ACCEPTED, ids=str)
def test_results_of_every_accepted_value_go_into_json(
    gen: BlendInGenerator, given: dict[str, Any]
) -> None:
    given = SHORT | given
    alone, (first, _) = gen.generate("Why?", **given), gen.generate(["Why?", "x"], **given)
    for out in (alone, first):
        told = json.loads(json.dumps(out.to_dict()))
        assert told["settings"] == {**out.settings, "stop": list(out.settings["stop"])}
        assert len(out.steps) == 2
    if not given.get("do_sample") or "seed" in given:
        assert alone.token_ids == first.token_ids


@pytest.mark.parametrize("length", [10**6, 10**9, 2**63, 10**30])
def test_as_many_tokens_as_there_may_be(gen: BlendInGenerator, length: int) -> None:
    """Whoever wants no limit writes a large number: room is reserved for what can be."""
    with contextlib.closing(gen.stream("Why?", max_new_tokens=length)) as stream:
        assert next(stream) == gen.generate("Why?", max_new_tokens=1).steps[0]
    with contextlib.closing(
        gen.stream_batch(["Why?", "x"], max_new_tokens=[length, 1], stop=())
    ) as batch:
        assert next(batch)[1].error is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 5.5}, "max_new_tokens is 5.5; use an integer from 1 up"),
        ({"max_new_tokens": "5"}, "max_new_tokens is '5'"),
        ({"max_new_tokens": None}, "max_new_tokens is None"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"seed": 2**64}, "seed is 18446744073709551616; use an integer -9223"),
        ({"stop": ""}, "stop is"),
        ({"stop": b"x"}, "stop is"),
        ({"policy": Blend}, "policy is the class Blend"),
        ({"policy": {"threshold": 0.4}}, "policy is"),
        ({"system": 5}, "system is 5; use a text"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_cached_tokens": 2.5}, "max_cached_tokens is 2.5"),
        ({"progress": "yes"}, "progress is 'yes'"),
    ],
)
def test_what_is_wrong_for_all_is_refused_at_once(
    silent: BlendInGenerator, given: dict[str, Any], message: str
) -> None:
    for prompt in ("Why?", ["Why?", "x"]):
        with pytest.raises(ValueError, match=message):
            silent.generate(prompt, **given)
    (name, value), *_ = given.items()
    if name not in ("max_batch_size", "max_cached_tokens", "progress"):
        with pytest.raises(ValueError, match=message):
            silent.generate(["Why?", "x"], **{name: [value, value]})


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("max_new_tokens", [2, 0], "max_new_tokens is 0"),
        ("max_new_tokens", [2, "5"], "max_new_tokens is '5'"),
        ("stop", [["a"], ""], "stop is"),
        ("stop", [["a"], [""]], "stop is"),
        ("stop", [["a"], 5], "stop is 5"),
        ("temperature", [1.0, -1], "temperature is -1"),
        ("temperature", [1.0, 0.5], "act on sampling only|acts? on sampling"),
        ("policy", ["nudge", Nudge], "policy is the class Nudge"),
        ("policy", ["nudge", None], "policy is None"),
        ("policy", ["nudge", "blind"], "policy 'blind' is unknown"),
        ("system", ["Be brief.", b"x"], "system is b'x'"),
        ("seed", [1, 1.5], "seed is 1.5"),
        ("speculate", ["off", "on"], "speculate is 'on'"),
        ("do_sample", [False, "no"], "do_sample is 'no'"),
    ],
)
def test_a_bad_setting_of_one_row_is_that_rows_error(
    gen: BlendInGenerator, name: str, values: list[Any], message: str
) -> None:
    import re

    outs = gen.generate(["Why?", "x"], **SHORT | {name: values})
    assert outs[0].error is None and len(outs[0].steps) == 2
    assert re.search(message, str(outs[1].error)) and not outs[1].steps
    json.dumps(outs[1].to_dict())


@pytest.mark.parametrize("values", [(2, 3), np.array([2, 3]), torch.tensor([2, 3]), deque([2, 3])])
def test_whatever_yields_values_is_one_for_each(gen: BlendInGenerator, values: Any) -> None:
    for given in (values, iter(values)):
        outs = gen.generate(["Why?", "x"], max_new_tokens=given, stop=())
        assert [len(out.steps) for out in outs] == [2, 3]


def test_settings_for_all_and_for_each_go_together(gen: BlendInGenerator) -> None:
    outs = gen.generate(["Why?"] * 3, **SHORT, do_sample=True, temperature=[0.5, 1, 0], seed=3)
    assert [out.settings["temperature"] for out in outs] == [0.5, 1, 0]
    assert [out.settings["do_sample"] for out in outs] == [True, True, False]
    outs = gen.generate(["Why?"] * 2, **SHORT, do_sample=[True, False], top_p=0.5)
    assert outs[0].error is None and "add do_sample=True" in str(outs[1].error)
    with pytest.raises(ValueError, match="add do_sample=True"):
        gen.generate(["Why?"] * 2, top_p=0.5)
    with pytest.raises(ValueError, match="add do_sample=True"):
        gen.generate(["Why?"] * 2, top_p=0.5, seed=[1, 2])


def test_values_without_an_order_and_of_another_number_are_refused(
    silent: BlendInGenerator,
) -> None:
    with pytest.raises(ValueError, match="max_new_tokens is a set, which has no order"):
        silent.generate(["Why?", "x"], max_new_tokens={2, 3})
    with pytest.raises(ValueError, match="seed has 3 values for 2 prompts"):
        silent.generate(["Why?", "x"], seed=range(3))


@pytest.mark.parametrize(
    "name", ["max_new_tokens", "temperature", "seed", "policy", "system", "do_sample", "speculate"]
)
def test_a_list_of_settings_does_not_go_with_one_prompt(
    silent: BlendInGenerator, name: str
) -> None:
    value = {"policy": "nudge", "system": "Be brief."}.get(name, 1)
    with pytest.raises(ValueError, match=f"^{name} is "):
        silent.generate("Why?", **{name: [value, value]})


def test_a_list_does_not_go_into_a_stream(silent: BlendInGenerator) -> None:
    with pytest.raises(ValueError, match="stream takes one prompt"):
        silent.stream(["Why?", "x"])  # type: ignore[list-item]


def test_temperature_zero_is_greedy(
    gen: BlendInGenerator, caplog: pytest.LogCaptureFixture
) -> None:
    greedy = gen.generate("Why?", max_new_tokens=8)
    for given in ({}, {"do_sample": True}, {"do_sample": True, "seed": 3}):
        out = gen.generate("Why?", max_new_tokens=8, temperature=0, **given)
        assert out.steps == greedy.steps
        assert (out.settings["do_sample"], out.settings["temperature"]) == (False, 0)
    assert not caplog.records
    given = {"do_sample": True, "top_p": 0.5, "sampling_top_k": 2}
    outs = gen.generate(["Why?"] * 2, max_new_tokens=8, temperature=0, **given)
    assert [out.steps for out in outs] == [greedy.steps] * 2
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "temperature=0 is greedy: top_p and sampling_top_k cannot change the most probable token"
    ]


def test_a_global_seed_repeats_draws_without_one(gen: BlendInGenerator) -> None:
    sampled: dict[str, Any] = {"do_sample": True, "max_new_tokens": 12}

    def drawn(seeded: Callable[[int], Any], seed: int, prompts: Any) -> Any:
        seeded(seed)
        outs = gen.generate(prompts, **sampled)
        return [o.token_ids for o in outs] if isinstance(outs, list) else outs.token_ids

    for seeded in (torch.manual_seed, set_seed):
        assert drawn(seeded, 1, "Why?") == drawn(seeded, 1, "Why?") != drawn(seeded, 2, "Why?")
        together = drawn(seeded, 1, ["Why?"] * 3)
        assert together == drawn(seeded, 1, iter(["Why?"] * 3)) != drawn(seeded, 2, ["Why?"] * 3)
        assert len({tuple(ids) for ids in together}) == 3
        assert together[0] == drawn(seeded, 1, "Why?")
    out = gen.generate("Why?", **sampled)
    assert out.steps == gen.generate("Why?", **sampled, seed=out.settings["seed"]).steps
    before = torch.get_rng_state()
    gen.generate(TEXTS, **SHORT)
    assert torch.equal(before, torch.get_rng_state()), "greedy decoding draws nothing"


# -- stop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"prompt": "x"}, (BASE_STOP,)),
        ({"prompt": [{"role": "user", "content": "x"}]}, (BASE_STOP,)),
        ({"prompt": "x", "stop": None}, (BASE_STOP,)),
        ({"prompt": "x", "stop": ()}, ()),
        ({"prompt": "x", "stop": []}, ()),
        ({"prompt": "x", "stop": "a"}, ("a",)),
        ({"prompt": "x", "guide_prompt": "y"}, (BASE_STOP,)),
        ({"prompt": "x", "policy": BaseOnly()}, (BASE_STOP,)),
        ({"prompt": "x", "policy": GuideOnly()}, ()),
        ({"prompt": "x", "base_prompt": "y"}, ()),
        ({"base_prompt": "x", "guide_prompt": "y"}, ()),
        ({"base_prompt": "x", "policy": BaseOnly()}, ()),
    ],
    ids=str,
)
def test_the_default_stop_goes_with_the_default_template(
    gen: BlendInGenerator, given: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert gen.generate(**given, max_new_tokens=1).settings["stop"] == expected
    rows = {n: value if n == "stop" else [value, value] for n, value in given.items()}
    outs = gen.generate(**rows, max_new_tokens=1)
    assert [out.settings["stop"] for out in outs] == [expected] * 2


# -- scoring ---------------------------------------------------------------------------------------


def test_several_texts_after_one_prompt(gen: BlendInGenerator) -> None:
    texts = [" So it is.", " Yes", " no"]
    alone = [gen.score("Why?", text) for text in texts]
    for kind in (list, tuple, iter, np.array, deque):
        assert gen.score("Why?", kind(texts)) == alone
    chat = [{"role": "user", "content": "Why?"}]
    assert gen.score(chat, texts) == gen.score(chat[0], texts) == alone
    whole = {"base_prompt": "One", "guide_prompt": "Two"}
    assert gen.score(text=texts, **whole) == [gen.score(text=text, **whole) for text in texts]
    rules = [Blend(), "nudge", BaseOnly()]
    expected = [
        gen.score("Why?", text, policy=rule) for text, rule in zip(texts, rules, strict=True)
    ]
    assert gen.score("Why?", texts, policy=rules) == expected


def test_one_text_after_several_prompts(gen: BlendInGenerator) -> None:
    expected = [gen.score(prompt, " Yes") for prompt in TEXTS]
    assert gen.score(TEXTS, " Yes") == gen.score(iter(TEXTS), " Yes") == expected


@pytest.mark.parametrize(
    "name", ["max_new_tokens", "stop", "temperature", "do_sample", "seed", "speculate"]
)
def test_settings_that_scoring_ignores_are_refused(silent: BlendInGenerator, name: str) -> None:
    for text in (" Yes", [" Yes"]):
        with pytest.raises(TypeError, match=f"^{name}: score has no use for it"):
            silent.score("Why?", text, **{name: 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no such setting"):
        silent.score("Why?", " Yes", temprature=1)  # type: ignore[call-arg]


def test_a_missing_text_is_named(silent: BlendInGenerator) -> None:
    with pytest.raises(ValueError, match="nothing to score: pass text="):
        silent.score("Why?")
