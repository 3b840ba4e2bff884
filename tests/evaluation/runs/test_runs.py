"""Runs of benchmarks: resumed, split, scored and reported, on tiny models and tiny data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from classifiers import saved_classifier
from conftest import generator, model
from hostile import HOSTILE, MARKUP, SCRIPT, SEQUENCES, dangerous
from markdown_it import MarkdownIt
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly, Nudge
from blendin.cli.app import app
from blendin.evaluation.evidence.html import html
from blendin.evaluation.evidence.markdown import SHOWN, code, one_line, page
from blendin.evaluation.evidence.report import Report
from blendin.evaluation.records import Record
from blendin.evaluation.runs import benchmark
from blendin.evaluation.runs.arms import NAMES, arms
from blendin.evaluation.runs.folder import MANIFEST, RunFolder, Shard
from blendin.evaluation.runs.reading import read_results
from blendin.evaluation.runs.results import Results
from blendin.evaluation.tasks.registry import load, of_prompts
from blendin.evaluation.tasks.task import Measure, Task, origin
from blendin.visible import visible

ARMS = {"base": BaseOnly(), "blend": Blend(threshold=0.9)}
QUESTIONS = ["How many apples?", "How many clips in May?", "And 24 + 24?", "Is 72 odd?", "Why?"]


@pytest.fixture
def gen() -> BlendInGenerator:
    return generator(("llama", "byte-level", 1), ("llama", "sentencepiece", 2))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    problems = [{"question": text, "answer": f"#### {n}"} for n, text in enumerate(QUESTIONS)]
    (folder / "gsm8k_test.jsonl").write_text("\n".join(map(json.dumps, problems)))
    choices = [
        {
            "question": text,
            "mc1_targets": {"Nothing": 1, "Bad luck": 0, "You leave": 0},
            "mc2_targets": {"Nothing": 1, "You wait": 1, "Bad luck": 0},
        }
        for text in QUESTIONS
    ]
    (folder / "truthfulqa_mc.json").write_text(json.dumps(choices))
    rows = ["id,prompt,type,label"]
    rows += [f"{n},{text},homonyms,safe" for n, text in enumerate(QUESTIONS[:3])]
    rows += [f"{n},{text},contrast_homonyms,unsafe" for n, text in enumerate(QUESTIONS[3:], 3)]
    (folder / "xstest_prompts.csv").write_text("\n".join(rows))
    return folder


def opened(
    gen: BlendInGenerator, task: Task, folder: Path, shard: Shard | None = None
) -> RunFolder:
    return RunFolder(folder, benchmark.config(gen, task, max_new_tokens=12), shard)


def of_runs(results: list[Results]) -> str:
    return page(Report(results))


def go(gen: BlendInGenerator, task: Task, run: RunFolder, policies: Any = None) -> None:
    benchmark.run(gen, task, policies or ARMS, run, max_batch_size=2, progress=False)


def kept(run: RunFolder, *names: str) -> dict[str, Any]:
    """What the arms' records say, but for the time they took."""
    return {
        name: {
            id: (record.text, record.metrics, record.steps.intervened)
            for id, record in run.records(name).items()
        }
        for name in names or ARMS
    }


def lines(folder: Path) -> list[str]:
    return [line for path in sorted(folder.glob("*.jsonl")) for line in path.open()]


@pytest.mark.parametrize("name", ["gsm8k", "truthfulqa", "truthfulqa-letter", "xstest"])
def test_a_killed_run_goes_on_where_it_stopped_and_does_nothing_twice(
    name: str,
    gen: BlendInGenerator,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = load(name, data)
    monkeypatch.setattr(benchmark, "QUESTIONS_AT_ONCE", 2)
    whole = opened(gen, task, tmp_path / "whole")
    go(gen, task, whole)
    score, scored = task.score, iter(range(3))

    def killed(*arguments: Any) -> Any:
        if next(scored, None) is None:
            raise KeyboardInterrupt
        return score(*arguments)

    object.__setattr__(task, "score", killed)
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        go(gen, task, opened(gen, task, folder))
    assert len(lines(folder)) == 3
    object.__setattr__(task, "score", score)
    with (folder / "base.000.jsonl").open("a") as file:
        file.write('{"id": "4", "metr')  # the kill came while a line was written
    again = opened(gen, task, folder)
    go(gen, task, again)
    assert kept(again) == kept(whole)
    assert len(lines(folder)) == len(ARMS) * len(QUESTIONS)
    forwards = gen.base.forwards
    go(gen, task, opened(gen, task, folder))
    assert gen.base.forwards == forwards
    assert len(again.manifest["sessions"]) == 2


def test_processes_share_the_items_and_make_what_one_makes(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("gsm8k", data)
    alone = opened(gen, task, tmp_path / "alone")
    go(gen, task, alone)
    for rank in (1, 0):
        run = opened(gen, task, tmp_path / "shared", Shard(rank, 2))
        go(gen, task, run)
    assert kept(run) == kept(alone)
    assert len(lines(run.folder)) == len(ARMS) * len(QUESTIONS)
    assert len(list(run.folder.glob("blend.*.jsonl"))) == 2


def test_a_folder_of_another_run_is_refused_before_any_work(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("gsm8k", data)
    go(gen, task, opened(gen, task, tmp_path / "run"))
    before = lines(tmp_path / "run")
    with pytest.raises(ValueError, match=r"config\.max_new_tokens is 12 there and 512 here"):
        RunFolder(tmp_path / "run", benchmark.config(gen, task))
    with pytest.raises(ValueError, match=r"arms\.blend\.threshold is 0\.9 there and 0\.4 here"):
        go(gen, task, opened(gen, task, tmp_path / "run"), {"blend": Blend()})
    go(gen, task, opened(gen, task, tmp_path / "run"), {"nudge": Nudge()})  # one more is no other
    assert lines(tmp_path / "run")[: len(before)] == before


def test_records_are_what_the_generator_gives_alone(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("gsm8k", data)
    run = opened(gen, task, tmp_path)
    go(gen, task, run)
    for item in task.items:
        out = gen.generate(
            item.prompt,
            system=task.system,
            policy=ARMS["blend"],
            max_new_tokens=12,
            stop=["\nQuestion:"],
        )
        record = run.records("blend")[item.id]
        assert record.text == out.text
        assert "".join(record.steps.text).startswith(out.text)
        assert record.intervention_rate == out.intervention_rate
        assert record.mean_alpha == pytest.approx(out.mean_alpha, abs=1e-4)
        assert record.steps.agreement_rank == [step.agreement_rank for step in out.steps]


def test_choices_are_scored_by_the_policys_own_likelihood(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("truthfulqa", data, limit=2)
    policies = {"blend": Blend(threshold=0.9), "guide": GuideOnly()}
    run = opened(gen, task, tmp_path)
    go(gen, task, run, policies)
    for name, space in (("blend", " "), ("guide", "")):
        for item in task.items:
            alone = {
                text: gen.score(item.prompt, space + text, policy=policies[name])
                for text in item.texts
            }
            record = run.records(name)[item.id]
            expected = task.score(item, [alone[text].log_likelihood for text in item.texts])
            assert record.metrics == pytest.approx(expected, abs=1e-6)
            assert record.interventions == sum(each.interventions for each in alone.values())
            assert record.tokens == sum(len(each.token_ids) for each in alone.values())


@pytest.mark.parametrize("name", ["gsm8k", "truthfulqa"])
def test_an_item_that_fails_costs_itself_alone(
    name: str, gen: BlendInGenerator, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load(name, data)
    prompt = task.items[1].prompt
    items = [*task.items]
    items[1] = type(items[1])(items[1].id, prompt * 2000, items[1].facts, items[1].texts)
    object.__setattr__(task, "items", items)
    monkeypatch.setattr(gen.base, "max_length", 512)
    run = opened(gen, task, tmp_path)
    go(gen, task, run)
    records = run.records("blend")
    assert "holds 512" in (records.pop("1").error or "")
    assert len(records) == 4 and all(record.metrics for record in records.values())
    (arm,) = (arm for arm in Results(task, run).arms if arm.name == "blend")
    assert (arm.n, arm.failed) == (4, 1)


def test_arms_are_compared_on_the_items_that_both_have(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("gsm8k", data)
    run = opened(gen, task, tmp_path)
    go(gen, task, run)
    path = tmp_path / "base.000.jsonl"
    path.write_text("".join(list(path.open())[1:]))
    first = json.loads(next(iter((tmp_path / "blend.000.jsonl").open())))["id"]
    ours, theirs = Results(task, run).scores(Measure("accuracy"), "blend", "base")
    assert len(ours) == len(theirs) == len(QUESTIONS) - 1
    assert first is not None


def test_comparisons_are_corrected_together_and_those_left_out_are_named(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("truthfulqa", data)
    run = opened(gen, task, tmp_path)
    go(gen, task, run, ARMS | {"nudge": Nudge(0.9)})
    told = Results(task, run)  # MC1 and MC2 of blend with base and nudge, and of nudge with base
    assert len(told.conclusions) == 6 and told.caution().startswith("6 comparisons, their p")
    assert all("corrected for 6" in each or "alike" in each for each in told.conclusions)
    path = tmp_path / "nudge.000.jsonl"
    path.write_text(next(iter(path.open())))
    told = Results(task, run)
    assert len(told.conclusions) == 2
    assert "fewer than 2 items in common: blend and nudge, nudge and base." in told.caution()
    alone = Results(replace(task, compared=(Measure("MC1"),)), run).caution()
    assert (
        "1 comparison: arms that score alike would be told apart by chance in at most 0.05" in alone
    )


def test_items_without_a_token_count_in_no_rate(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("gsm8k", data)
    run = opened(gen, task, tmp_path)
    go(gen, task, run)
    for name, kept_tokens in (("base", 0), ("blend", 2)):
        path = tmp_path / f"{name}.000.jsonl"
        records = [json.loads(line) for line in path.open()]
        for each in records[kept_tokens:]:
            each |= {"tokens": 0, "interventions": 0}
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
    results = Results(task, run)
    base, blend = results.arms
    assert base.rate is None and blend.rate is not None and (base.without, blend.without) == (5, 3)
    assert results.to_dict()["arms"][0]["intervention_rate"] is None
    assert "–" in results.table()[1][0]
    assert "count in no rate: 5 of 5 under base, 3 of 5 under blend." in results.caution()


def test_every_arm_has_its_own_policy_and_the_shared_settings() -> None:
    made = arms(threshold=0.3, alpha=0.7, top_k=0, max_rate=0.1)
    assert tuple(made) == NAMES
    assert made["blend"] == Blend(threshold=0.3, top_k=None)
    assert made["blend-fixed"] == Blend(threshold=0.3, top_k=None, alpha=0.7)
    assert made["nudge"] == Nudge(threshold=0.3)
    assert made["cap"].max_rate == 0.1 and made["cap"].policy == made["blend"]
    for names in (("blend", "blend"), (), ("bland",)):
        with pytest.raises(ValueError, match="arm"):
            arms(names)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    arguments = []
    for role, kind in (("base", "byte-level"), ("guide", "sentencepiece")):
        folder = tmp_path_factory.mktemp(role)
        for part in model("llama", kind):
            part.save_pretrained(folder)
        arguments += [f"--{role}", str(folder)]
    yield arguments


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_the_command_goes_from_data_to_page(
    folders: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs"
    arguments = ["evaluate", "gsm8k", "xstest", *folders, "--data", str(data), "--limit", "5"]
    arguments += ["--max-new-tokens", "8", "--out", str(out)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    first = command(*arguments)
    assert first.exit_code == 0, first.output
    assert "left to other processes" in first.stderr and "intervention rate" not in first.stdout
    monkeypatch.setenv("RANK", "1")
    last = command(*arguments)
    assert last.exit_code == 0, last.output
    assert "drawn with seed 2606" in last.stderr and "balanced" in last.stdout
    told = json.loads((out / "xstest" / "results.json").read_text())
    assert [arm["arm"] for arm in told["arms"]] == list(NAMES)
    assert told["manifest"]["config"]["limit"] == 5
    scored = command("score", "xstest", str(out / "xstest" / "completions-blend.csv"))
    assert scored.exit_code == 0 and "5 completions" in scored.stdout
    made = command(
        "report", *(str(out / n) for n in ("gsm8k", "xstest")), "--data", str(data),
        "--out", str(tmp_path / "page.md"),
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    text = (tmp_path / "page.md").read_text()
    for arm in told["arms"]:
        assert f"| {arm['arm']} | {arm['figures']['balanced score']['estimate']:.3f} [" in text


def test_a_refusal_model_scores_xstest_and_is_kept_in_the_manifest(
    folders: list[str], data: Path, tmp_path: Path
) -> None:
    model = saved_classifier(tmp_path / "judge", {0: "NORMAL", 1: "REJECTION"}, always=1)
    out = tmp_path / "runs"
    arguments = [*folders, "--data", str(data), "--arm", "base", "--max-new-tokens", "2"]
    arguments += ["--out", str(out), "--refusal-model", str(model)]
    without = command("evaluate", "gsm8k", *arguments)
    assert without.exit_code != 0 and "scores xstest alone" in without.output
    assert not out.exists()
    done = command("evaluate", "xstest", *arguments)
    assert done.exit_code == 0, done.output
    told = json.loads((out / "xstest" / "results.json").read_text())
    assert told["manifest"]["config"]["refusal_model"] == str(model)
    assert told["arms"][0]["figures"]["refused, safe"]["estimate"] == 1
    assert str(model) in read_results(out / "xstest", data).task.title
    other = command("evaluate", "xstest", *arguments[:-2])
    assert other.exit_code != 0  # the folder holds another scorer's results


def test_a_primer_makes_another_run_and_says_what_its_figures_compare_with(
    folders: list[str], data: Path, tmp_path: Path
) -> None:
    arguments = [*folders, "--data", str(data), "--arm", "base", "--out"]
    stray = command("evaluate", "gsm8k", "--primer", *arguments, str(tmp_path / "stray"))
    assert stray.exit_code == 2 and "--primer is for truthfulqa" in stray.stderr
    with pytest.raises(ValueError, match="'xstest' has no primer"):
        load("xstest", data, primer=True)
    texts = []
    for name, more in (("plain", []), ("primed", ["--primer"])):
        done = command("evaluate", "truthfulqa", *more, *arguments, str(tmp_path / name))
        assert done.exit_code == 0, done.output
        texts.append(
            " ".join(of_runs([read_results(tmp_path / name / "truthfulqa", data)]).split())
        )
    assert "compare with no table or leaderboard" in texts[0] and "817" not in texts[0]
    assert (
        "six examples" in texts[1] and "Of these figures `base` compares with lm-eval" in texts[1]
    )
    again = command("evaluate", "truthfulqa", *arguments, str(tmp_path / "primed"))
    assert again.exit_code == 2 and "another run" in again.stderr
    assert "How many apples?" in load("truthfulqa", data, primer=True).items[0].prompt


@pytest.mark.slow
def test_a_page_names_every_pair_and_is_of_the_datas_edition(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("gsm8k", data)
    run = RunFolder(tmp_path / "run", benchmark.config(gen, task, **origin(task, None, 2606)))
    go(gen, task, run)
    results = read_results(tmp_path / "run", data)
    assert "# Results" in of_runs([results])
    other = json.loads((tmp_path / "run" / MANIFEST).read_text())
    other["config"]["base"] = "another"
    other["config"]["dtype"] = ["bfloat16", "bfloat16"]  # a name alone makes no other pair
    results_of_other = Results(task, run)
    results_of_other.manifest = other
    both = of_runs([results, results_of_other])
    assert "Base another" in both and both.count("<details>") == 2
    (data / "gsm8k_test.jsonl").write_text(
        (data / "gsm8k_test.jsonl").read_text().replace("apples", "pears")
    )
    with pytest.raises(ValueError, match="another edition"):
        read_results(tmp_path / "run", data)
    with pytest.raises(ValueError, match="no manifest"):
        read_results(tmp_path, data)


def test_diagnose_answers_prompts_of_ones_own_and_ranks_guides(
    folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda path, **options: loaded.append(path) or load(path, **options),
    )
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(QUESTIONS))
    arguments = ["diagnose", "--base", folders[1], "--guide", folders[3], "--guide", folders[1]]
    arguments += ["--data", str(prompts), "--max-new-tokens", "10", "--threshold", "0.8"]
    arguments += ["--out", str(tmp_path / "out")]
    first = command(*arguments)
    assert first.exit_code == 0, first.output
    assert sorted(loaded) == sorted([folders[1], folders[3]])  # the base once, for both guides
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    gen = BlendInGenerator(folders[1], folders[3], Blend(threshold=0.8))
    outs = gen.generate(QUESTIONS, max_new_tokens=10, stop="\nQuestion:")
    steps = sum(len(out.steps) for out in outs)
    (found,) = (each for each in told["diagnoses"] if each["guide"] == folders[3])
    assert found["steps"] == steps
    assert found["interventions"] == sum(out.interventions for out in outs)
    assert found["vocabulary_overlap"] is not None
    assert set(told["ranking"]["guides"]) == {folders[1], folders[3]}
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!DOCTYPE html>")
    kept = lines(next((tmp_path / "out" / "runs").iterdir()))
    assert command(*arguments).exit_code == 0
    assert lines(next((tmp_path / "out" / "runs").iterdir())) == kept


def test_prompts_of_ones_own_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "Why?"}\n{"prompt": "How?"}\n')
    assert [item.prompt for item in of_prompts(path).items] == ["Why?", "How?"]
    path.write_text('{"question": "Why?"}\n{"text": "How?"}\n')
    with pytest.raises(ValueError, match=r'own\.jsonl, row 2 has no "prompt"'):
        of_prompts(path)
    with pytest.raises(ValueError, match="neither a file nor one of the tasks gsm8k"):
        of_prompts(tmp_path / "missing.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="has no prompt"):
        of_prompts(tmp_path / "empty.txt")


def test_diagnose_goes_on_without_a_guide_that_has_no_chat_template(
    folders: list[str], tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(folders[3], plain)
    (plain / "chat_template.jinja").unlink()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(QUESTIONS))
    arguments = ["diagnose", "--base", folders[1], "--data", str(prompts)]
    arguments += ["--max-new-tokens", "6", "--dtype", "float32", "--out", str(tmp_path / "out")]
    result = command(*arguments, "--guide", str(plain), "--guide", folders[3])
    assert result.exit_code == 0, result.output
    assert f"{plain} is left out" in result.stderr
    assert f"{plain} was left out: it has no chat template" in result.stdout
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [each["guide"] for each in told["diagnoses"]] == [folders[3]]
    (left_out,) = told["left_out"]
    assert left_out["guide"] == str(plain) and "chat template" in left_out["reason"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Left out</h2>" in page and f"<li>{plain}: it has no chat template" in page
    alone = command(*arguments, "--guide", str(plain))
    assert alone.exit_code == 2 and "no guide is left to diagnose" in alone.stderr.replace(
        "\n", " "
    )


def stored(gen: BlendInGenerator, task: Task, folder: Path, texts: list[tuple[str, str]]) -> None:
    """A finished run under "base" whose answers and stop reasons are these."""
    settings = benchmark.config(gen, task, max_new_tokens=12, **origin(task, None, 2606))
    run = RunFolder(folder, settings | {"scorer": "1"})
    run.add_arm("base", {"name": "BaseOnly"})
    run.begin()
    scores = {"accuracy": 0.0, "gave a number": 1.0}
    with run.writer("base") as write:
        for item, (text, reason) in zip(task.items, texts, strict=True):
            write(Record(item.id, dict(scores), 12, 0, 1.0, 1.0, text, reason))


def test_stored_answers_are_scored_anew_and_unfinished_ones_are_counted(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task, folder = load("gsm8k", data), tmp_path / "run"
    texts = [
        ("The answer is 5 x 0 = 0", "end"),
        ("The answer is 1. To check, 5", "length"),
        ("2 and then", "length"),
        ("<think>The answer is 3", "end"),
        ("<think>5</think>4", "stop"),
    ]
    stored(gen, task, folder, texts)
    page_file = tmp_path / "page.md"
    arguments = ["report", str(folder), "--data", str(data), "--out", str(page_file)]
    first = command(*arguments)
    assert first.exit_code == 0 and "version 1 of the scorer" in first.stderr.replace("\n", " ")
    assert "| 0.000 [" in page_file.read_text() and "--rescore" in page_file.read_text()
    again = command(*arguments, "--rescore")
    assert again.exit_code == 0 and "version 1" not in again.stderr
    text = page_file.read_text()
    assert "| 0.600 [" in text and "| 3 of 5 |" in text and "3 of 5 under base" in text
    metrics = [json.loads(line)["metrics"] for line in lines(folder)]
    assert [each["accuracy"] for each in metrics] == [1, 1, 0, 0, 1]
    assert [each["gave a number"] for each in metrics] == [1, 1, 0, 0, 1]
    assert json.loads((folder / MANIFEST).read_text())["config"]["scorer"] == task.scorer
    told = json.loads((folder / "results.json").read_text())
    assert told["arms"][0]["unfinished"] == 3
    run = RunFolder(folder, json.loads((folder / MANIFEST).read_text())["config"])
    assert run.records("base")["4"].text == "<think>5</think>4"


def test_likelihoods_are_scored_anew_where_they_were_kept(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("truthfulqa", data, limit=2)
    settings = benchmark.config(gen, task, max_new_tokens=12, **origin(task, 2, 2606))
    go(gen, task, RunFolder(tmp_path / "run", settings), {"base": BaseOnly()})
    before = lines(tmp_path / "run")
    read_results(tmp_path / "run", data, rescore=True)  # they are of this very scorer
    assert lines(tmp_path / "run") == before
    manifest = json.loads((tmp_path / "run" / MANIFEST).read_text())
    manifest["config"]["scorer"] = "0"
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(manifest))
    read_results(tmp_path / "run", data, rescore=True)
    assert lines(tmp_path / "run") == before
    path = tmp_path / "run" / "base.000.jsonl"  # as earlier versions wrote it
    kept = [json.loads(line) for line in before]
    path.write_text("".join(json.dumps(each | {"log_likelihoods": []}) + "\n" for each in kept))
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="likelihoods are not kept"):
        read_results(tmp_path / "run", data, rescore=True)


def test_a_run_of_another_scorer_is_not_gone_on_with(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task = load("gsm8k", data)
    settings = benchmark.config(gen, task, max_new_tokens=12)
    run = RunFolder(tmp_path / "run", settings | {"scorer": "1"})
    run.begin()
    with pytest.raises(ValueError, match=r"config\.scorer is '1' there and '2' here"):
        RunFolder(tmp_path / "run", settings)


# -- hostile text and damaged files ----------------------------------------------------------------


class Rendered(HTMLParser):
    """Markdown as a renderer shows it."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags, self.text = set[str](), ""
        self.feed(MarkdownIt("commonmark").render(markdown))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


ATTACKS = [
    *SEQUENCES.values(),
    *MARKUP,
    SCRIPT,
    "`a` ``b``",
    "&lt;b&gt;",
    "![x](http://x)",
    "\udcff",
]


@pytest.mark.parametrize("text", ATTACKS, ids=ascii)
def test_names_and_answers_stay_text_in_markdown(text: str) -> None:
    for written, tags in ((code(text), {"p", "code"}), (one_line(text), {"p"})):
        assert not any(map(dangerous, written))
        shown = Rendered(f"- x: {written}").text.strip()
        assert Rendered(f"x: {written}").tags == tags
        if tags == {"p", "code"}:
            assert shown == f"x: {visible(text, one_line=True)}".strip()
        elif len(text.splitlines()) == 1 and len(text) < SHOWN:
            assert shown == f"x: {visible(text)}".strip()


def test_a_page_of_hostile_names_and_answers(
    gen: BlendInGenerator, data: Path, tmp_path: Path
) -> None:
    task, path = load("gsm8k", data), tmp_path / "run"
    settings = benchmark.config(gen, task, max_new_tokens=4, **origin(task, None, 2606))
    run = RunFolder(path, settings)
    go(gen, task, run)
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["config"] |= {"base": f"`{SCRIPT}`\n# x", "guide": "".join(ATTACKS[:-1])}
    (path / MANIFEST).write_text(json.dumps(manifest))
    for file in path.glob("*.jsonl"):
        kept = [json.loads(line) | {"text": SCRIPT + HOSTILE} for line in file.open()]
        file.write_text("".join(json.dumps(each) + "\n" for each in kept))
    text = of_runs([read_results(path, data)])
    assert not any(map(dangerous, text))
    text = re.sub("<summary>.*</summary>|</?details>", "", text)
    assert Rendered(text).tags <= {"h1", "h2", "p", "ul", "li", "code", "strong"}
    alone = html(Report([read_results(path, data)]))
    assert not any(map(dangerous, alone)) and "<script" not in alone


DEEP = "[" * 100_000


def shortly(value: Any) -> str:
    return ascii(value)[:20]


DAMAGE = {
    "no JSON": "{",
    "deep": DEEP,
    "a list": "[]",
    "nothing": "{}",
    "other kinds": '{"config": [], "arms": {}, "sessions": []}',
    "no config": '{"config": {}, "arms": {}, "sessions": [1]}',
    "other bytes": "\udcff",
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=[*DAMAGE])
def test_a_damaged_manifest_is_named(tmp_path: Path, data: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content, "utf-8", errors="surrogateescape")
    result = command("report", str(tmp_path), "--data", str(data), "--out", str(tmp_path / "r.md"))
    assert result.exit_code == 2 and str(tmp_path / MANIFEST) in result.stderr.replace("\n", "")
    assert not (tmp_path / "r.md").exists()


@pytest.mark.parametrize("line", ["{", "[]", "{}", "3", DEEP, "\udcff"], ids=shortly)
def test_a_damaged_record_is_named(
    gen: BlendInGenerator,
    data: Path,
    tmp_path: Path,
    line: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And its item is not done."""
    run = opened(gen, load("gsm8k", data), tmp_path)
    path = tmp_path / "base.000.jsonl"
    path.write_text(f"{line}\n", "utf-8", errors="surrogateescape")
    assert run.records("base") == {}
    assert "base.000.jsonl is damaged in line 1" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_names_the_file(
    gen: BlendInGenerator, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, whole = load("gsm8k", data), Path.open
    run = opened(gen, task, tmp_path)

    def full(self: Path, mode: str = "r", **options: Any) -> Any:
        is_full = self.name == "blend.000.jsonl" and mode == "ab"
        return whole(Path("/dev/full") if is_full else self, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"No space left on device.*: '.*blend\.000\.jsonl'"):
        go(gen, task, run)
    assert len(run.records("base")) == len(QUESTIONS)
    with pytest.raises(ConnectionError, match=r"^no server$"), run.writer("base"):
        raise ConnectionError("no server")  # of the work, and not of the file
