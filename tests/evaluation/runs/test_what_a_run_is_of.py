"""What may change between two commands on one folder: refused, gone on with, or scored anew."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from classifiers import saved_classifier
from conftest import generator, model
from fake_server import FakeServer
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from blendin import BaseOnly, BlendInGenerator
from blendin.cli.app import app
from blendin.cli.options import ModelOptions
from blendin.evaluation.evidence.markdown import page
from blendin.evaluation.evidence.report import Report
from blendin.evaluation.records import Record
from blendin.evaluation.runs import benchmark
from blendin.evaluation.runs import folder as folder_module
from blendin.evaluation.runs.folder import MANIFEST, RunFolder, Shard
from blendin.evaluation.runs.items import ITEMS
from blendin.evaluation.runs.reading import read_results
from blendin.evaluation.tasks.registry import NAMES, load
from blendin.evaluation.tasks.task import Task, origin

QUESTIONS = [f"How many {what}?" for what in ("apples", "clips", "odd ones", "days", "pears")]


class Place:
    """A pair of models in folders, data, and an `--out`."""

    def __init__(self, folder: Path, pair: list[str]) -> None:
        self.data, self.out = folder / "data", folder / "runs"
        self.models = {"base": folder / "base", "guide": folder / "guide"}
        for role, source in zip(self.models, pair[1::2], strict=True):
            shutil.copytree(source, self.models[role])
        self.data.mkdir()
        problems = [{"question": q, "answer": f"#### {n}"} for n, q in enumerate(QUESTIONS)]
        self.write("gsm8k_test.jsonl", "\n".join(map(json.dumps, problems)))
        choices = {"mc1_targets": {"Yes": 1, "No": 0}, "mc2_targets": {"Yes": 1, "No": 0, "So": 1}}
        self.write(
            "truthfulqa_mc.json", json.dumps([{"question": q, **choices} for q in QUESTIONS])
        )
        kinds = ("homonyms,safe", "contrast_homonyms,unsafe")
        rows = [f"{n},{q},{kinds[n % 2]}" for n, q in enumerate(QUESTIONS)]
        self.write("xstest_prompts.csv", "\n".join(["id,prompt,type,label", *rows]))

    def write(self, name: str, text: str) -> None:
        (self.data / name).write_text(text)

    def copy(self, folder: Path) -> Place:
        """The same in another folder."""
        shutil.copytree(self.data.parent, folder)
        other = copy(self)
        other.data, other.out = folder / "data", folder / "runs"
        other.models = {role: folder / role for role in self.models}
        return other

    def change(self, name: str, old: str, new: str) -> None:
        path = self.data / name
        path.write_text(path.read_text().replace(old, new))

    def evaluate(self, *arguments: str, task: str = "gsm8k") -> Result:
        given = ["evaluate", *task.split(), "--data", str(self.data), "--out", str(self.out)]
        for role, folder in self.models.items():
            given += [f"--{role}", str(folder)]
        given += ["--arm", "base", "--max-new-tokens", "3", "--threshold", "0.5", *arguments]
        return CliRunner().invoke(app, given)

    def report(self, *arguments: str, task: str = "gsm8k") -> Result:
        page = self.out / "page.md"
        given = ["report", str(self.out / task), "--out", str(page), *arguments]
        return CliRunner().invoke(app, given)

    def records(self, task: str = "gsm8k", arm: str = "base") -> list[dict[str, Any]]:
        files = sorted((self.out / task).glob(f"{arm}.*.jsonl"))
        return [json.loads(line) for path in files for line in path.open()]

    def kept(self) -> dict[str, bytes]:
        """All that runs have written, but for locks."""
        found = (path for path in self.out.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in found if path.suffix != ".lock"}


@pytest.fixture
def place(tmp_path: Path, pair_folders: list[str]) -> Place:
    return Place(tmp_path, pair_folders)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, pair_folders: list[str]) -> Place:
    place = Place(tmp_path_factory.mktemp("evaluated"), pair_folders)
    assert place.evaluate("--arm", "nudge").exit_code == 0
    return place


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


def weights(place: Place, role: str) -> None:
    """The last weight is another, in a file of the same size and time."""
    path = place.models[role] / "model.safetensors"
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 0x80]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def setting(place: Place, role: str, file: str, name: str, value: Any) -> None:
    path = place.models[role] / file
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))


def more_tokens(place: Place) -> None:
    tokenizer = AutoTokenizer.from_pretrained(place.models["base"])
    tokenizer.add_tokens(["apples"])
    tokenizer.save_pretrained(place.models["base"])


def retold(place: Place) -> None:
    path = place.models["guide"] / "chat_template.jinja"
    path.write_text(path.read_text() + "{# another #}")


def fewer_rows(place: Place) -> None:
    place.write("gsm8k_test.jsonl", "\n".join(_rows(place)[1:]))


def another_order(place: Place) -> None:
    place.write("gsm8k_test.jsonl", "\n".join(reversed(_rows(place))))


def _rows(place: Place) -> list[str]:
    return (place.data / "gsm8k_test.jsonl").read_text().splitlines()


REFUSED: dict[str, tuple[Callable[[Place], Any] | None, list[str], str]] = {
    "the base's weights": (lambda p: weights(p, "base"), [], "the base is another model, by its w"),
    "the guide's weights": (lambda p: weights(p, "guide"), [], "the guide is another model"),
    "a model's configuration": (
        lambda p: setting(p, "base", "config.json", "rms_norm_eps", 0.5), [], "by its config"
    ),
    "the tokens that end a text": (
        lambda p: setting(p, "base", "generation_config.json", "eos_token_id", [396, 5]), [],
        "by its end_ids",
    ),
    "a tokenizer": (more_tokens, [], "the base is another model, by its tokenizer"),
    "a chat template": (retold, [], "the guide is another model, by its chat_template"),
    "models exchanged": (
        lambda p: p.models.update(base=p.models["guide"], guide=p.models["base"]), [], "the base is"
    ),
    "a dtype": (None, ["--dtype", "bfloat16"], "config.dtype is"),
    "a length": (None, ["--max-new-tokens", "4"], "config.max_new_tokens is 3 there and 4 here"),
    "a threshold": (None, ["--threshold", "0.6", "--arm", "nudge"], "arms.nudge.threshold is 0.5"),
    "a seed": (None, ["--seed", "7"], "config.seed is 2606 there and 7 here"),
    "what a template is told": (
        None, ["--chat-template-kwargs", "x=1"], "config.chat_template_kwargs"
    ),
    "a prompt": (
        lambda p: p.change("gsm8k_test.jsonl", "apples", "figs"), [], "item 0 has another prompt"
    ),
    "rows left out": (fewer_rows, [], "item 0 has another prompt there"),
    "rows in another order": (another_order, [], "item 0 has another prompt there"),
    "references": (
        lambda p: p.change("gsm8k_test.jsonl", "#### 3", "#### 4"), [],
        "other facts (references, choices or labels) of 1 items, the first of them item 3",
    ),
    "the manifest is gone": (
        lambda p: (p.out / "gsm8k" / MANIFEST).unlink(), [], "and no manifest.json"
    ),
    "the items are damaged": (
        lambda p: (p.out / "gsm8k" / ITEMS).write_text("{"), [], "items.json is damaged"
    ),
    "the scorer": (
        lambda p: noted(p, scorer="1"), [], "config.scorer is '1' there and '2' here"
    ),
    "a version that noted no more than names": (
        lambda p: noted(p, models=...), [], "did not note what tells models of one name apart"
    ),
}  # fmt: skip


def noted(place: Place, **changes: Any) -> None:
    """The manifest's configuration with these entries, or without them (...)."""
    path = place.out / "gsm8k" / MANIFEST
    manifest = json.loads(path.read_text())
    config = manifest["config"] | changes
    manifest["config"] = {name: value for name, value in config.items() if value is not ...}
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", REFUSED)
def test_another_run_is_refused_by_what_it_differs_in(
    kind: str, evaluated: Place, tmp_path: Path
) -> None:
    change, arguments, message = REFUSED[kind]
    place = evaluated.copy(tmp_path / "copy")
    if change is not None:
        change(place)
    before = place.kept()
    result = place.evaluate(*arguments)
    assert result.exit_code == 2 and message in said(result), result.output
    assert place.kept() == before


def moved(place: Place) -> None:
    place.models["base"] = place.models["base"].rename(place.models["base"].with_name("elsewhere"))


def saved_again(place: Place) -> None:
    setting(place, "base", "config.json", "transformers_version", "0")
    os.utime(place.models["base"] / "model.safetensors")


SAME: dict[str, Callable[[Place], Any]] = {
    "nothing": lambda p: None,
    "a folder that was moved": moved,
    "files that were written again": saved_again,
    "other settings of an arm that is not there": lambda p: None,
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_run_goes_on_and_does_nothing_twice(kind: str, place: Place) -> None:
    place.evaluate("--limit", "2")
    SAME[kind](place)
    further = ["--arm", "nudge", "--threshold", "0.6"] if kind.startswith("other") else []
    result = place.evaluate("--limit", "2", *further)
    assert result.exit_code == 0, result.output
    assert len(place.records()) == 2
    assert len(place.records(arm="nudge")) == (2 if further else 0)


def test_models_that_are_given_loaded_are_known_by_their_weights(tmp_path: Path) -> None:
    """Changed in memory, too."""
    lm, tokenizer = model("llama", "byte-level", 1)
    guide = model("llama", "sentencepiece", 2)
    weight = lm.model.embed_tokens.weight
    task = _task(tmp_path)

    def go() -> None:
        gen = BlendInGenerator((lm, tokenizer), guide)
        config = benchmark.config(gen, task, max_new_tokens=2, **origin(task, None, 1))
        run = RunFolder(tmp_path / "run", config)
        benchmark.run(gen, task, {"base": BaseOnly()}, run, progress=False)

    go()
    with torch.no_grad():
        weight[5, 3] += 1e-9
        try:
            with pytest.raises(ValueError, match="the base is another model, by its weights"):
                go()
        finally:
            weight[5, 3] -= 1e-9


def _task(folder: Path, count: int = 5) -> Task:
    problems = [{"question": q, "answer": f"#### {n}"} for n, q in enumerate(QUESTIONS[:count])]
    (folder / "gsm8k_test.jsonl").write_text("\n".join(map(json.dumps, problems)))
    return load("gsm8k", folder)


def test_a_servers_other_model_is_another(place: Place) -> None:
    tokenizer = model("llama", "byte-level")[1]

    def evaluate(seed: int) -> Result:
        served = model("llama", "byte-level", seed)[0], tokenizer
        with FakeServer(served, root=str(place.models["base"])) as server:
            return place.evaluate("--base", server.url, "--limit", "1")

    assert evaluate(0).exit_code == 0 and evaluate(0).exit_code == 0
    other = evaluate(7)
    assert other.exit_code == 2 and "the base is another model, by its answer" in said(other)


def test_likelihoods_have_no_length(place: Place) -> None:
    """A default of theirs is as good as a length for other tasks of the same command."""
    given = ["evaluate", "truthfulqa", "--data", str(place.data), "--out", str(place.out)]
    for length in ([], ["--max-new-tokens", "9"]):
        result = CliRunner().invoke(app, [*given, *_flat(place), "--arm", "base", *length])
        assert result.exit_code == 0, result.output
    assert len(place.records("truthfulqa")) == 5


# -- more and fewer items --------------------------------------------------------------------------


@pytest.mark.parametrize("task", NAMES)
def test_a_small_limit_first_and_then_more_is_one_run(task: str, place: Place) -> None:
    whole = Place(place.data.parent / "whole", [*_flat(place)])
    whole.models = place.models
    for limit in ("2", "4"):
        result = place.evaluate("--limit", limit, task=task)
        assert result.exit_code == 0 and f"n = {limit}" in result.stdout, result.output
        assert len(place.records(task)) == int(limit)
    assert place.evaluate(task=task).exit_code == whole.evaluate(task=task).exit_code == 0
    assert len(place.records(task)) == 5
    config = json.loads((place.out / task / MANIFEST).read_text())["config"]
    assert config == json.loads((whole.out / task / MANIFEST).read_text())["config"]
    assert (place.out / task / ITEMS).read_text() == (whole.out / task / ITEMS).read_text()
    before = {str(path): path.read_bytes() for path in (place.out / task).glob("*.0*.jsonl")}
    fewer = place.evaluate("--limit", "3", task=task)
    assert fewer.exit_code == 0 and "n = 3" in fewer.stdout
    assert "has 5 items, and these results are of the 3 that were asked for" in said(fewer)
    assert all(Path(path).read_bytes() == data for path, data in before.items())
    assert len(read_results(place.out / task).task.items) == 5


def _flat(place: Place) -> list[str]:
    return [part for role, folder in place.models.items() for part in (f"--{role}", str(folder))]


def test_processes_share_what_a_larger_limit_adds(tmp_path: Path) -> None:
    gen = generator(("llama", "byte-level", 1), ("llama", "sentencepiece", 2))
    task = _task(tmp_path)
    for limit in (2, 5):
        part = load("gsm8k", tmp_path, limit)
        for rank in (1, 0):
            config = benchmark.config(gen, part, max_new_tokens=2, **origin(part, limit, 2606))
            run = RunFolder(tmp_path / "run", config, Shard(rank, 2))
            benchmark.run(gen, part, {"base": BaseOnly()}, run, progress=False)
        assert len(run.records("base")) == limit
    assert sum(1 for path in run.folder.glob("base.*.jsonl") for _ in path.open()) == 5
    assert run.manifest["config"]["items"] == run.items == len(task.items)


def test_what_is_not_done_yet_is_said(place: Place) -> None:
    place.evaluate("--limit", "2")
    place.evaluate()
    path = place.out / "gsm8k" / "base.000.jsonl"
    path.write_text("".join(path.open().readlines()[:2]))
    result = place.report()
    sentence = "Not done yet: 3 of 5 under base"
    assert sentence in said(result) and sentence in (place.out / "page.md").read_text()


# -- from the folder alone -------------------------------------------------------------------------


@pytest.mark.parametrize("task", NAMES)
def test_a_report_needs_the_folder_alone(
    task: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place.evaluate(task=task)
    found = Report([read_results(place.out / task, place.data)])
    told = page(found, {each.name: f"page-{each.name}.svg" for each in found.pictures})
    shutil.rmtree(place.data)
    place.out = place.out.rename(place.out.with_name("another machine"))
    for arguments in ([], ["--rescore"]):
        assert place.report(*arguments, task=task).exit_code == 0
        assert (place.out / "page.md").read_text() == told


CORRECTED = {
    "gsm8k": ("gsm8k_test.jsonl", '"#### 1"', '"#### 7"'),
    "truthfulqa": (
        "truthfulqa_mc.json",
        '"Yes": 1, "No": 0, "So": 1',
        '"Yes": 0, "No": 1, "So": 1',
    ),
    "xstest": ("xstest_prompts.csv", "homonyms,safe", "contrast_homonyms,unsafe"),
}


@pytest.mark.parametrize("task", CORRECTED)
def test_corrected_facts_are_told_and_scored_by(task: str, place: Place) -> None:
    place.evaluate(task=task)
    texts = [(each["id"], each["text"]) for each in place.records(task)]
    place.change(*CORRECTED[task])
    alone = place.report(task=task)
    assert alone.exit_code == 0 and "other facts" not in alone.stderr, alone.output
    told = place.report("--data", str(place.data), task=task)
    assert told.exit_code == 0 and "The data has other facts" in said(told), told.output
    assert "The data has other facts" in (place.out / "page.md").read_text()
    refused = place.evaluate(task=task)
    (command,) = re.findall(r"`blendin (report [^`]*)`", said(refused))
    anew = CliRunner().invoke(
        app, [*command.split(), "--data", str(place.data), "--out", str(place.out / "page.md")]
    )
    assert anew.exit_code == 0 and "other facts" not in anew.stderr, anew.output
    run = load(task, place.data)
    items = {item.id: item for item in run.items}
    for line in place.records(task):
        record = Record.from_json(json.dumps(line))
        answer = record.text if run.writes else record.log_likelihoods
        expected = (
            run.score_answer(items[record.id], record.text, record.stop_reason)
            if run.writes
            else run.score(items[record.id], answer)
        )
        assert record.metrics == expected
    assert texts == [(each["id"], each["text"]) for each in place.records(task)]
    assert place.evaluate(task=task).exit_code == 0  # and goes on


def test_a_rescoring_that_ended_half_way_is_told_and_done_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.evaluate("--arm", "nudge")
    whole = folder_module.write_whole

    def full(path: Path, content: str) -> None:
        if path.name == "nudge.000.jsonl":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        whole(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(folder_module, "write_whole", full)
        assert "free some space" in said(place.report("--rescore"))
    assert "a rescoring that did not end" in said(place.report())
    refused = place.evaluate()
    assert refused.exit_code == 2 and "was scored otherwise" in said(refused)
    ended = place.report("--rescore")
    assert ended.exit_code == 0 and "did not end" not in ended.stderr
    assert place.evaluate().exit_code == 0


def test_another_judge_of_refusals_is_another_run_and_its_word_stays(
    place: Place, tmp_path: Path
) -> None:
    """Corrected labels need no judge again: what it said of each answer is on record."""
    judge = saved_classifier(tmp_path / "judge", {0: "NORMAL", 1: "REJECTION"}, always=1)
    arguments = ["--refusal-model", str(judge)]
    assert place.evaluate(*arguments, task="xstest").exit_code == 0
    place.change(*CORRECTED["xstest"])
    anew = place.report("--rescore", "--data", str(place.data), task="xstest")
    assert anew.exit_code == 0, anew.output
    assert {each["metrics"]["as it should"] for each in place.records("xstest")} == {1}
    assert place.evaluate(*arguments, task="xstest").exit_code == 0
    saved_classifier(judge, {0: "NORMAL", 1: "REJECTION"}, always=0)
    other = place.evaluate(*arguments, task="xstest")
    assert other.exit_code == 2 and "config.refusal_model_sha256 is" in said(other)


def test_a_run_that_ended_while_it_grew_goes_on(place: Place) -> None:
    """Its items are written before its manifest."""
    place.evaluate()
    whole = (place.out / "gsm8k" / ITEMS).read_bytes()
    shutil.rmtree(place.out)
    place.evaluate("--limit", "2")
    (place.out / "gsm8k" / ITEMS).write_bytes(whole)
    assert place.report().exit_code == 0 and "3 of 5 under base" in said(place.report())
    for limit in (["--limit", "2"], ["--limit", "3"], []):
        assert place.evaluate(*limit).exit_code == 0
    assert len(place.records()) == 5


def test_a_run_of_an_earlier_version_is_reported_with_what_is_not_known(place: Place) -> None:
    place.evaluate()
    noted(place, models=..., facts_sha256=...)
    (place.out / "gsm8k" / ITEMS).unlink()
    shown = place.report("--data", str(place.data))
    assert shown.exit_code == 0 and "tokenizers and chat template" in said(shown)
    (place.data / "gsm8k_test.jsonl").unlink()
    without = place.report("--data", str(place.data))
    assert without.exit_code == 2 and "there is no file" in said(without)


# -- before models are loaded ----------------------------------------------------------------------

BEFORE: dict[str, tuple[list[str], str]] = {
    "another length": (["--max-new-tokens", "9"], "config.max_new_tokens is 3 there"),
    "another seed": (["--seed", "9"], "config.seed is 2606 there"),
    "another setting of an arm": (["--threshold", "0.9", "--arm", "nudge"], "arms.nudge.threshold"),
    "no such arm": (["--arm", "bland"], "arm 'bland' is unknown"),
    "no such data": (["--data", "/absent"], "there is no file /absent/xstest_prompts.csv"),
    "a limit": (["--limit", "0"], "--limit is 0"),
    "a batch": (["--batch-size", "0"], "--batch-size is 0"),
    "a place that cannot be": (["--out", "/dev/null/x"], "--out /dev/null/x"),
    "a judge": (["--refusal-model", "/absent"], "--refusal-model"),
    "what a template is told": (["--chat-template-kwargs", "{"], "chat"),
}


@pytest.mark.parametrize("kind", BEFORE)
def test_checks_come_before_models_are_loaded(
    kind: str, evaluated: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second task, too."""

    def load(self: ModelOptions, *_: Any) -> Any:
        raise AssertionError("models are loaded")

    monkeypatch.setattr(ModelOptions, "load", load)
    arguments, message = BEFORE[kind]
    before = evaluated.kept()
    result = evaluated.evaluate(*arguments, task="xstest gsm8k")
    assert result.exit_code == 2 and message in said(result), result.output
    assert evaluated.kept() == before and not (evaluated.out / "xstest").exists()


def test_diagnose_checks_its_folders_before_models_are_loaded_and_grows(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["diagnose", "--data", "gsm8k", "--data-dir", str(place.data), *_flat(place)]
    given += ["--out", str(place.out), "--max-new-tokens", "3", "--threshold", "0.9"]

    def diagnose(*arguments: str) -> Result:
        return CliRunner().invoke(app, [*given, *arguments])

    for limit in ("2", "0"):
        assert diagnose("--limit", limit).exit_code == 0
    assert len(next(place.out.rglob("blend.000.jsonl")).read_text().splitlines()) == 5
    weights(place, "guide")
    changed = diagnose()
    assert changed.exit_code == 2 and "the guide is another model" in said(changed)
    monkeypatch.setattr(ModelOptions, "load", None)
    refused = diagnose("--threshold", "0.8")
    assert refused.exit_code == 2 and "arms.blend.threshold is 0.9" in said(refused)


def test_a_template_that_writes_the_date_is_told_where_a_run_goes_on_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.evaluate("--limit", "1").exit_code == 0
    path = place.out / "gsm8k" / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["sessions"][0]["prompts"] = "of another day"
    path.write_text(json.dumps(manifest))
    later = place.evaluate("--limit", "2")
    assert later.exit_code == 0 and "writes other text than when the run" in said(later)
