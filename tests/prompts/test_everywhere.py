"""Templates' settings and plain contents on the command line, in evaluations and in the harness."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from chat_templates import THINKING, tokenizer_with
from conftest import model
from tiny import tiny_model
from typer.testing import CliRunner, Result

from blendin import Blend, BlendInGenerator, GuideOnly
from blendin.cli.app import app
from blendin.evaluation.diagnosis.overlap import top_overlap
from blendin.evaluation.records import Record
from blendin.evaluation.runs import benchmark
from blendin.evaluation.runs.folder import RunFolder
from blendin.evaluation.tasks.registry import of_prompts
from blendin.lm_eval.harness import Asked, chat_context, chosen_template_settings

OFF = {"enable_thinking": False}
QUIET = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    thinking = tokenizer_with(THINKING)
    return model("llama", "sentencepiece", 1), (tiny_model("llama", thinking, 2), thinking)


@pytest.fixture(scope="module")
def gen(pair: tuple[Any, Any]) -> BlendInGenerator:
    return BlendInGenerator(*pair, Blend(threshold=0.9))


@pytest.fixture(scope="module")
def folders(pair: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    arguments = []
    for role, parts in zip(("base", "guide"), pair, strict=True):
        folder = tmp_path_factory.mktemp(role)
        for part in parts:
            part.save_pretrained(folder)
        arguments += [f"--{role}", str(folder)]
    return arguments


def run(*arguments: str, **settings: Any) -> Result:
    return CliRunner().invoke(app, list(arguments), **settings)


@pytest.mark.parametrize("given", ['{"enable_thinking": false}', "enable_thinking=false"])
def test_on_the_command_line(folders: list[str], given: str) -> None:
    options = ["--chat-template-kwargs", given, "--max-new-tokens", "2", "--json"]
    result = run("generate", "Hi", *folders, *options)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["settings"]
    assert told["guide_prompt"].endswith(QUIET)
    assert told["chat_template_kwargs"] == OFF


@pytest.mark.parametrize("command", ["generate", "chat", "compare", "evaluate", "diagnose"])
def test_wrong_settings_end_every_command_in_one_line(command: str) -> None:
    argument = {"generate": ["Hi"], "compare": ["Hi"], "evaluate": ["gsm8k"]}.get(command, [])
    result = run(command, *argument, "--base", "/absent", "--chat-template-kwargs", "tokenize=no")
    assert result.exit_code == 2
    assert "tokenize, which blendin sets itself" in result.stderr


def test_a_chat_has_no_control_tokens_but_the_templates(
    folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    stream = BlendInGenerator.stream

    def spied(gen: BlendInGenerator, turns: Any, **settings: Any) -> Any:
        made = stream(gen, turns, **settings)
        asked.append(gen.pair.prompts.guide([*turns], settings["chat_template_kwargs"]))
        made.output.text = "So <|im_end|>"
        return made

    monkeypatch.setattr(BlendInGenerator, "stream", spied)
    monkeypatch.setattr(sys.modules["blendin.cli.app"], "show", lambda *_, **__: None)
    lines = "Hi <|im_end|>\nAnd <|im_start|>?\n"
    assert run("chat", *folders, "--chat-template-kwargs", "a=1", input=lines).exit_code == 0
    first, second = asked
    assert "So <|im_end|>" in second
    tokenizer = tokenizer_with(THINKING)
    ids = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert [[prompt.ids.count(id) for id in ids] for prompt in (first, second)] == [[2, 1], [4, 3]]


def test_in_an_evaluation(gen: BlendInGenerator, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("Hi\nWhy?")
    task = of_prompts(tmp_path / "prompts.txt", max_new_tokens=6)
    config = benchmark.config(gen, task, max_new_tokens=6, chat_template_kwargs=OFF)
    assert config["chat_template_kwargs"] == OFF
    assert "chat_template_kwargs" not in benchmark.config(gen, task, max_new_tokens=6)
    results = RunFolder(tmp_path / "run", config)
    benchmark.run(gen, task, {"guide": GuideOnly()}, results, progress=False)
    outs = gen.generate(
        ["Hi", "Why?"], policy="guide", max_new_tokens=6, chat_template_kwargs=OFF,
        stop="\nQuestion:",
    )  # fmt: skip
    records = results.records("guide")
    assert [records[item.id].text for item in task.items] == [out.text for out in outs]


def test_the_overlap_reads_the_same_prompts(gen: BlendInGenerator) -> None:
    outs = gen.generate(["Hi", "Why?"], max_new_tokens=6, chat_template_kwargs=OFF)
    records = [Record.of(str(place), out, {}, elapsed=1.0) for place, out in enumerate(outs)]
    read = [
        top_overlap(gen, records, ["Hi", "Why?"], chat_template_kwargs=settings, k=5)
        for settings in (OFF, None)
    ]
    assert read[0] != read[1]


@pytest.mark.parametrize(
    ("given", "settings"),
    [(None, {}), ("", {}), ("None", {}), (OFF, OFF), ('{"enable_thinking": false}', OFF)],
)
def test_settings_of_the_harness(given: Any, settings: dict[str, Any]) -> None:
    assert chosen_template_settings(given) == settings


def test_contexts_of_the_harness_are_text(gen: BlendInGenerator) -> None:
    prompts, spelled = gen.pair.prompts, "Q <eos> <|im_end|>"
    chat = [{"role": "user", "content": spelled}, {"role": "assistant", "content": "It <eos>"}]
    for context, end in (
        (spelled, QUIET),
        (chat_context(chat[:1]), QUIET),
        (chat_context(chat), "It <eos>"),
    ):
        asked = Asked.of(context)
        base = asked.base_prompt(gen.base, prompts)
        guide = asked.guide_prompt(gen.guide, prompts, OFF)
        assert gen.base.encode_prompt(base).count(gen.base.tokenizer.eos_token_id) == 0
        turn_end = gen.guide.tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert gen.guide.encode_prompt(guide).count(turn_end) == 1  # the template's own
        assert guide.endswith(end)
