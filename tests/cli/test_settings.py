"""The command line checks its values as Python does, spelled as options, before models load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from blendin import BlendInGenerator
from blendin.cli import options
from blendin.cli.app import app
from blendin.cli.options import DecodingOptions, as_option
from blendin.settings import DEFAULTS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was loaded before the values were checked")

    monkeypatch.setattr(options.ModelOptions, "load", forbidden)


BAD = [
    ("--max-new-tokens 0", "--max-new-tokens is 0; use an integer from 1 up"),
    ("--temperature -1 --do-sample", "--temperature is -1.0; use a number above 0"),
    ("--temperature 0.5", "--temperature act on sampling only: add --do-sample"),
    ("--top-p 2 --do-sample", "--top-p is 2.0; use a number above 0 to 1"),
    ("--top-p nan --do-sample", "--top-p is nan"),
    ("--sampling-top-k 0 --do-sample", "--sampling-top-k is 0"),
    ("--repetition-penalty 0", "--repetition-penalty is 0.0"),
    ("--seed 99999999999999999999", "--seed is 99999999999999999999"),
    ("--speculate sometimes", "--speculate is 'sometimes'; use one of auto"),
    ("--speculate -1", "--speculate is -1"),
]


@pytest.mark.parametrize("command", ["generate", "chat", "compare"])
@pytest.mark.parametrize(("given", "message"), BAD)
def test_decoding_options(nothing_loads: None, command: str, given: str, message: str) -> None:
    prompt = [] if command == "chat" else ["x"]
    result = run(command, *prompt, *given.split())
    assert result.exit_code == 2, result.output
    assert message in result.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--threshold", "40"], "--threshold (τ) is 40.0; did you mean 0.4?"),
        (["generate", "x", "--alpha", "2"], "--alpha (α) is 2.0; use a number from 0 to 1"),
        (["generate", "x", "--policy", "defer", "--rule", "x"], "--rule is 'x'; use one of"),
        (["chat", "--policy", "cap", "--max-rate", "20"], "--max-rate is 20.0; did you mean 0.2?"),
        (["compare", "x", "--threshold", "40"], "--threshold (τ) is 40.0; did you mean 0.4?"),
        (["compare", " "], "the prompt is empty"),
        (["generate", "a\udc80"], "PROMPT has a lone surrogate"),
        (["evaluate", "gsm8k", "--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["evaluate", "gsm8k", "--batch-size", "0"], "--batch-size is 0"),
        (["evaluate", "gsm8k", "--threshold", "40"], "--threshold (τ) is 40.0; did you mean 0.4?"),
        (["diagnose", "--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["diagnose", "--batch-size", "0"], "--batch-size is 0"),
        (["diagnose", "--top-k", "-1"], "--top-k is -1"),
    ],
)
def test_other_options(nothing_loads: None, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr.replace("\n", " ")
    assert "Traceback" not in result.output


def test_the_options_defaults_are_pythons() -> None:
    settings = DecodingOptions().settings()
    assert settings == {name: DEFAULTS[name] for name in settings}
    assert as_option("do_sample", True) == "--do-sample"
    assert as_option("temperature", 0) == "--temperature 0"


@pytest.mark.parametrize(
    ("given", "stop"),
    [
        ([], None),
        (["--stop", ""], ()),
        (["--stop", "a\\nb"], "a\nb"),
        (["--policy", "guide"], None),
    ],
)
def test_both_faces_write_one_text(pair_folders: list[str], given: list[str], stop: object) -> None:
    result = run("generate", "How many?", *pair_folders, *given, "--max-new-tokens", "8", "--json")
    assert result.exit_code == 0, result.output
    policy = "guide" if "guide" in given else "blend"
    gen = BlendInGenerator(pair_folders[1], pair_folders[3])
    out = gen.generate("How many?", max_new_tokens=8, stop=stop, policy=policy)  # type: ignore[arg-type]
    told = json.loads(result.stdout)
    assert (told["text"], told["token_ids"]) == (out.text, out.token_ids)
    assert told["settings"] == json.loads(json.dumps(out.settings))


def test_cold_sampling_is_greedy_and_says_what_it_leaves(
    pair_folders: list[str], tmp_path: Path
) -> None:
    options = [*pair_folders, "--max-new-tokens", "6", "--json"]
    greedy = run("generate", "x", *options)
    cold = run("generate", "x", *options, "--temperature", "0", "--top-p", "0.5", "--do-sample")
    assert json.loads(cold.stdout)["token_ids"] == json.loads(greedy.stdout)["token_ids"]
    assert "--temperature 0 is greedy: --top-p cannot change" in cold.stderr.replace("\n", " ")
