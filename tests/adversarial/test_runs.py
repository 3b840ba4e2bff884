"""A run of a benchmark that is killed, starved, doubled or damaged ends up as one that was not."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import generator
from faulty_disk import FAULTS, Disk, faulty, in_a_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blendin import BaseOnly, Blend, BlendInGenerator
from blendin.evaluation.runs import benchmark
from blendin.evaluation.runs.folder import MANIFEST, RunFolder, Shard
from blendin.evaluation.runs.results import Results
from blendin.evaluation.tasks.registry import load
from blendin.evaluation.tasks.task import Task

ARMS = {"base": BaseOnly(), "blend": Blend(threshold=0.9)}
QUESTIONS = ("How many apples?", "And 24 + 24?", "Why?")


@pytest.fixture(scope="module")
def gen() -> BlendInGenerator:
    return generator(("llama", "byte-level", 1), ("llama", "sentencepiece", 2))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("data")
    problems = [{"question": text, "answer": f"#### {n}"} for n, text in enumerate(QUESTIONS)]
    (folder / "gsm8k_test.jsonl").write_text("\n".join(map(json.dumps, problems)))
    return load("gsm8k", folder)


def go(gen: BlendInGenerator, task: Task, folder: Path, shard: Shard | None = None) -> RunFolder:
    run = RunFolder(folder, benchmark.config(gen, task, max_new_tokens=4), shard)
    benchmark.run(gen, task, ARMS, run, max_batch_size=2, progress=False)
    return run


def report(task: Task, run: RunFolder) -> Any:
    """What a run has come to, but for when and how fast."""
    told = Results(task, run).to_dict()
    told.pop("manifest")
    for arm in told["arms"]:
        arm.pop("tokens_per_second"), arm.pop("seconds")
    answers = {
        arm: {
            id: (record.text, record.metrics)
            for id, record in run.records(arm).items()
            if id in [item.id for item in task.items]
        }
        for arm in ARMS
    }
    return told, answers, run.manifest["config"], run.manifest["arms"]


@pytest.fixture(scope="module")
def whole(gen: BlendInGenerator, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return report(task, go(gen, task, tmp_path_factory.mktemp("whole")))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.glob("*.jsonl") for line in path.open()]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_ends_at_any_write_goes_on_and_does_nothing_twice(
    fault: str, gen: BlendInGenerator, task: Task, whole: Any, tmp_path: Path
) -> None:
    for at in range(100):
        folder = tmp_path / str(at)
        disk = Disk(folder, at, fault)

        def begin(folder: Path = folder, disk: Disk = disk) -> None:
            with faulty(disk):
                go(gen, task, folder)

        if fault == "killed":
            status = in_a_child(begin)
            assert status in (0, -signal.SIGKILL)
        else:
            try:
                begin()
                status = 0
            except OSError as error:
                status = 1
                if disk.done[-1].startswith("write base"):
                    assert "what is finished is kept" in str(error)
        again = go(gen, task, folder)
        assert report(task, again) == whole, disk.done
        assert len(lines(folder)) == len(ARMS) * len(QUESTIONS)
        if status == 0:
            break
    assert at > 8


def test_a_file_that_cannot_grow_is_told_and_goes_on(
    gen: BlendInGenerator, task: Task, whole: Any, tmp_path: Path
) -> None:
    """The system itself writes half a record, as on a full disk."""
    folder = tmp_path / "run"
    go(gen, task, folder)
    size = max(path.stat().st_size for path in folder.glob("*.jsonl"))

    def starved(folder: Path, most: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        try:
            go(gen, task, folder)
        except OSError as error:
            os._exit(7 if "give the same command again" in str(error) else 1)

    for number, most in enumerate((size // 4, size // 2, size * 3 // 4)):
        folder = tmp_path / str(number)
        status = in_a_child(lambda folder=folder, most=most: starved(folder, most))  # type: ignore[misc]
        assert status in (1, 7)
        assert report(task, go(gen, task, folder)) == whole
        assert len(lines(folder)) == len(ARMS) * len(QUESTIONS)


def change(number: int, how: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        found = path.read_bytes().splitlines(keepends=True)
        found[number] = how(found[number])
        path.write_bytes(b"".join(found))

    return damage


def value(name: str, new: Any) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps(json.loads(line) | {name: new}).encode() + b"\n"


DAMAGE: dict[str, Callable[[Path], None]] = {
    "half of the last line": change(-1, lambda line: line[: len(line) // 2]),
    "no end of the last line": change(-1, lambda line: line[:-1]),
    "half of a line": change(1, lambda line: line[: len(line) // 2] + b"\n"),
    "the end of a line": change(1, lambda line: line[len(line) // 2 :]),
    "two lines run together": change(0, lambda line: line[:-1]),
    "two lines within each other": change(0, lambda line: line[:40] + line + line[40:]),
    "zeros in a line": change(1, lambda line: b"\0" * 512 + line),
    "zeros at the end": lambda path: path.write_bytes(path.read_bytes() + b"\0" * 4096),
    "no UTF-8": change(1, lambda line: line.replace(b'"id"', b'"\xff\xfeid"')),
    "a byte order mark": change(0, lambda line: b"\xef\xbb\xbf" + line),
    "an empty line": change(1, lambda line: b"\n" + line),
    "an empty object": change(1, lambda line: b"{}\n"),
    "a list": change(1, lambda line: b"[]\n"),
    "null": change(1, lambda line: b"null\n"),
    "deep JSON": change(1, lambda line: b"[" * 100_000 + b"\n"),
    "no id": change(1, lambda line: line.replace(b'"id"', b'"no"')),
    "an id that is no text": change(1, value("id", 1)),
    "metrics that are none": change(1, value("metrics", None)),
    "metrics of texts": change(1, value("metrics", {"accuracy": "1"})),
    "tokens that are no number": change(1, value("tokens", "4")),
    "steps that are none": change(1, value("steps", None)),
    "steps of other columns": change(1, value("steps", {"new": []})),
    "steps of different lengths": change(1, value("steps", {"text": ["a"], "intervened": []})),
    "a line twice": change(1, lambda line: line + line),
    "a line of no item": change(1, lambda line: value("id", "none")(line) + line),
    "other ends of lines": change(1, lambda line: line[:-1] + b"\r\n"),
    "another order": lambda path: path.write_bytes(
        b"".join(reversed(path.read_bytes().splitlines(keepends=True)))
    ),
    "nothing": lambda path: path.write_bytes(b""),
    "no file": lambda path: path.unlink(),
}
UNTOLD = (
    "half of the last line",
    "no end of the last line",
    "zeros at the end",
    "a line twice",
    "a line of no item",
    "other ends of lines",
    "another order",
    "nothing",
    "no file",
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_told_and_done_again(
    damage: str,
    gen: BlendInGenerator,
    task: Task,
    whole: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    go(gen, task, tmp_path)
    DAMAGE[damage](tmp_path / "blend.000.jsonl")
    with caplog.at_level(logging.WARNING, logger="blendin"):
        again = go(gen, task, tmp_path)
    assert report(task, again) == whole
    told = [each for each in caplog.messages if "does it again" in each]
    assert bool(told) == (damage not in UNTOLD)
    assert all(re.search(r"blend\.000\.jsonl is damaged in line \d", each) for each in told)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", '{"config": 1, "arms": {}, "sessions": []}', "\0" * 99,
             "\xff", "[" * 100_000]
)  # fmt: skip
def test_a_damaged_manifest_is_refused_and_nothing_is_touched(
    text: str, gen: BlendInGenerator, task: Task, tmp_path: Path
) -> None:
    go(gen, task, tmp_path)
    (tmp_path / MANIFEST).write_text(text, "latin-1")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"manifest\.json is damaged.*--out"):
        go(gen, task, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_two_processes_of_one_number_do_not_write_into_each_others_files(
    gen: BlendInGenerator, task: Task, whole: Any, tmp_path: Path
) -> None:
    settings = benchmark.config(gen, task, max_new_tokens=4)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with RunFolder(tmp_path, settings).claimed():
            os.write(writing, b"!")
            signal.pause()
    os.read(reading, 1)
    try:
        with pytest.raises(ValueError, match=r"another process is writing into .* number 0 of 1"):
            go(gen, task, tmp_path)
        assert list(tmp_path.glob("*.json*")) == []
        go(gen, task, tmp_path / "elsewhere")
        go(gen, task, tmp_path, Shard(1, 2))  # another number may
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert report(task, go(gen, task, tmp_path)) == whole  # a lock dies with its owner


def test_processes_that_begin_together_keep_each_others_arms(
    gen: BlendInGenerator, task: Task, tmp_path: Path
) -> None:
    settings = benchmark.config(gen, task, max_new_tokens=4)
    one, other = RunFolder(tmp_path, settings), RunFolder(tmp_path, settings)
    benchmark.run(gen, task, {"base": ARMS["base"]}, one, progress=False)
    benchmark.run(gen, task, {"blend": ARMS["blend"]}, other, progress=False)
    assert set(RunFolder(tmp_path, settings).manifest["arms"]) == set(ARMS)
    assert len(other.manifest["sessions"]) == 2
    late = RunFolder(tmp_path, settings)
    with pytest.raises(ValueError, match=r"arms\.blend\.threshold is 0\.9 there and 0\.4 here"):
        benchmark.run(gen, task, {"blend": Blend()}, late, progress=False)


def test_half_a_character_in_an_items_name_is_kept(
    gen: BlendInGenerator, task: Task, tmp_path: Path
) -> None:
    items = [type(each)(f"{each.id}\ud800", *_rest(each)) for each in task.items]
    odd = Task(
        **{name: getattr(task, name) for name in task.__dataclass_fields__} | {"items": items}
    )
    run = go(gen, odd, tmp_path)
    assert set(run.records("base")) == {item.id for item in items}


def _rest(item: Any) -> tuple[Any, ...]:
    return item.prompt, item.facts, item.texts


@pytest.mark.fuzz
@settings(
    deadline=None,
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_damage_to_the_records_leaves_the_same_report(
    data: st.DataObject,
    gen: BlendInGenerator,
    task: Task,
    whole: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Bytes overwritten, cut out and put in, anywhere but inside of what is still a record."""
    folder = tmp_path_factory.mktemp("damaged")
    go(gen, task, folder)
    for arm in data.draw(st.lists(st.sampled_from(sorted(ARMS)), min_size=1, unique=True)):
        path = folder / f"{arm}.000.jsonl"
        found = bytearray(path.read_bytes())
        begin = len(found) * data.draw(st.integers(0, 1000)) // 1000
        end = min(len(found), begin + data.draw(st.sampled_from((0, 1, 10, 500, 10_000))))
        # Never a digit or a letter: those could make another number or word of a sound record.
        found[begin:end] = data.draw(st.binary(max_size=20).map(lambda b: b"\xff" + b))
        path.write_bytes(found)
    assert report(task, go(gen, task, folder)) == whole
