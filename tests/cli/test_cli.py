"""The command line, on tiny models saved to folders."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from blendin import BlendInGenerator
from blendin.cli.app import app
from blendin.cli.options import ModelOptions
from blendin.models import default_pair


def run(*arguments: str, **settings: object) -> Result:
    return CliRunner().invoke(app, list(arguments), **settings)  # type: ignore[arg-type]


def test_json_is_what_the_generator_gives(pair_folders: list[str]) -> None:
    result = run("generate", "How many?", *pair_folders, "--max-new-tokens", "12", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    out = BlendInGenerator(pair_folders[1], pair_folders[3]).generate(
        "How many?", max_new_tokens=12, stop=["\nQuestion:"]
    )
    assert told["token_ids"] == out.token_ids
    assert told["text"] == out.text
    assert told["settings"]["policy"]["name"] == "Blend"


def test_the_text_goes_to_stdout_and_the_figures_to_stderr(pair_folders: list[str]) -> None:
    result = run("generate", "How many?", *pair_folders, "--max-new-tokens", "12")
    out = BlendInGenerator(pair_folders[1], pair_folders[3]).generate(
        "How many?", max_new_tokens=12
    )
    assert result.stdout == out.text + "\n"
    assert f"interventions {out.interventions}/12" in result.stderr
    assert "stopped by length" in result.stderr


def test_every_option_arrives(pair_folders: list[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    options = (
        "--policy cap --max-rate 0.5 --threshold 0.7 --alpha 0.25 --agreement-bonus 0.3 --top-k 0 "
        "--max-new-tokens 5 --system Sys --do-sample --temperature 0.5 --top-p 0.9 "
        "--min-p 0.01 --sampling-top-k 7 --repetition-penalty 1.5 --repetition-penalty-range 6 "
        "--no-penalize-nl --seed 4 --speculate 3 --trace-top 2 --dtype float32"
    ).split()
    options += ["--stop", "a\\nb", "--stop", "c", "--trace", str(trace), "--json"]
    result = run("generate", "Hi", *pair_folders, *options)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [*map(json.loads, trace.read_text().splitlines())] == told["steps"]
    assert told["settings"] == {
        "base": pair_folders[1],
        "guide": pair_folders[3],
        "policy": {
            "name": "InterventionCap",
            "policy": {"threshold": 0.7, "agreement_bonus": 0.3, "top_k": None, "alpha": 0.25},
            "max_rate": 0.5,
            "grace_steps": 20,
        },
        "max_new_tokens": 5,
        "stop": ["a\nb", "c"],
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "min_p": 0.01,
        "sampling_top_k": 7,
        "repetition_penalty": 1.5,
        "repetition_penalty_range": 6,
        "penalize_nl": False,
        "seed": 4,
        "speculate": 3,
        "trace_top": 2,
        "base_prompt": "Sys\nQuestion: Hi\nAnswer:",
        "guide_prompt": "<bos><start_of_turn>user\nSys\n\nHi<end_of_turn>\n<start_of_turn>model\n",
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it has an effect")
def test_compiled_layers_are_refused_where_nothing_is_captured(pair_folders: list[str]) -> None:
    result = run("generate", "Hi", *pair_folders, "--compile-layers")
    assert result.exit_code == 2
    assert "--compile-layers is for forwards that are captured" in result.stderr
    assert "with --device-map cuda" in " ".join(result.stderr.split())


@pytest.mark.parametrize("policy", ["blend", "nudge", "nudge-token", "base", "guide"])
def test_the_prompt_may_come_from_standard_input(pair_folders: list[str], policy: str) -> None:
    options = [*pair_folders, "--policy", policy, "--max-new-tokens", "4", "--json"]
    piped = run("generate", *options, input="How many?\n")
    given = run("generate", "How many?", *options)
    assert json.loads(piped.stdout)["token_ids"] == json.loads(given.stdout)["token_ids"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", " "], "prompt is empty"),
        (["generate", "x", "--policy", "best"], "policy 'best' is unknown"),
        (["generate", "x", "--threshold", "-1"], "threshold"),
        (["generate", "x", "--trace-top", "-1", "--json"], "--trace-top is -1"),
        (["generate", "x", "--trace-top", "3"], "--trace-top goes into a trace: add --trace"),
        (["generate", "x", "--trace", "/absent/t.jsonl"], "--trace /absent/t.jsonl cannot be"),
        (["generate", "x", "--base", "./absent.gguf"], "no such GGUF file"),
        (["chat", "--policy", "base", "--alpha", "1"], "'base' has no setting alpha"),
    ],
)
def test_errors_are_one_line_without_a_traceback(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output


def test_chat_remembers_the_turns(pair_folders: list[str]) -> None:
    result = run("chat", *pair_folders, "--max-new-tokens", "6", input="Hi\nAnd?\n\n")
    assert result.exit_code == 0, result.output
    gen = BlendInGenerator(pair_folders[1], pair_folders[3])
    settings = {"max_new_tokens": 6, "stop": ["\nQuestion:"]}
    turns = [{"role": "user", "content": "Hi"}]
    first = gen.generate(turns, **settings).text
    turns += [{"role": "assistant", "content": first}, {"role": "user", "content": "And?"}]
    second = gen.generate(turns, **settings).text
    assert result.stdout == f"{first}\n{second}\n"


def test_a_warning_is_shown_once_however_often_models_are_loaded(
    pair_folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        ModelOptions(base=pair_folders[1], guide=pair_folders[3]).load()
    logging.getLogger("blendin").warning("[one] %s", "reason")
    assert capsys.readouterr().err.count("[one] reason\n") == 1


def test_compare_shows_three_arms(pair_folders: list[str]) -> None:
    result = run("compare", "How many?", *pair_folders, "--max-new-tokens", "4")
    assert result.exit_code == 0, result.output
    assert all(title in result.stdout for title in ("base alone", "NUDGING", "BlendIn"))


def test_models_lists_the_embedded_pair_with_its_licences() -> None:
    result = run("models")
    assert result.exit_code == 0, result.output
    for name, embedded in default_pair.EMBEDDED.items():
        assert name in result.stdout
        assert embedded.licence in result.stdout


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(["paradox", "x.csv"], "scipy"), (["lm-eval", "run"], "lm_eval.api.model")],
)
def test_what_an_extra_brings_is_named_where_it_is_missing(
    arguments: list[str], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "blendin.lm_eval",
        "blendin.lm_eval.model",
        "blendin.evaluation.diagnosis.paradox",
        "blendin.evaluation.statistics",
    ):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    result = run(*arguments)
    assert result.exit_code == 2
    assert "pip install 'blendin[" in result.stderr and "Traceback" not in result.output
