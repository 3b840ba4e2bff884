"""The command that starts vLLM's server, and the base's plain transcript as a chat template."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from conftest import tokenizer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from blendin.cli import serve_vllm
from blendin.cli.app import app
from blendin.models import vllm_engine
from blendin.prompts import as_messages, base_text
from blendin.vllm import launch
from blendin.vllm.launch import FIXED, TEMPLATE, ServerSettings, command

CONTENTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\t{}%#-'\"\\"))


@given(
    system=st.none() | CONTENTS,
    turns=st.lists(CONTENTS.filter(str.strip), min_size=1, max_size=5),
    answers=st.lists(CONTENTS, min_size=5, max_size=5),
    is_begun=st.booleans(),
)
def test_the_template_is_the_bases_transcript(
    system: str | None, turns: list[str], answers: list[str], is_begun: bool
) -> None:
    said = [("user", "assistant")[place % 2] for place in range(2 * len(turns) - (not is_begun))]
    contents = [text for pair in zip(turns, answers, strict=False) for text in pair]
    given: list[dict[str, Any]] = [
        {"role": role, "content": text} for role, text in zip(said, contents, strict=False)
    ]
    head = [] if system is None else [{"role": "system", "content": system}]
    messages = as_messages(head + given, None)
    text = tokenizer("byte-level").apply_chat_template(
        messages,
        chat_template=TEMPLATE.read_text("utf-8"),
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == base_text(messages)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "tool", "content": "x"}, "role tool"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "no text"),
        ({"role": "user", "content": None}, "no text"),
    ],
)
def test_the_template_drops_nothing(message: dict[str, Any], words: str) -> None:
    template = TEMPLATE.read_text("utf-8")
    with pytest.raises(Exception, match=words):
        tokenizer("byte-level").apply_chat_template(
            [message], chat_template=template, tokenize=False
        )


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if vLLM were, by the name of most builds."""
    monkeypatch.setattr(launch, "is_installed", lambda: True)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")


def settings(pair_folders: list[str], **own: Any) -> ServerSettings:
    return ServerSettings(**{"base": pair_folders[1], "guide": pair_folders[3], **own})


def options(words: list[str]) -> dict[str, str]:
    return dict(zip(words[5::2], words[6::2], strict=False))


@pytest.mark.usefixtures("installed")
def test_the_command_has_all_that_blending_needs(pair_folders: list[str]) -> None:
    policy = {"name": "nudge", "threshold": 0.4}
    words = command(
        settings(pair_folders, policy=policy, port=9000, guide_dtype="float32",
                 further=("--max-model-len", "512"))
    )  # fmt: skip
    start = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", pair_folders[1]]
    assert words[:5] == start
    told = options(words)
    assert FIXED.items() <= told.items()
    assert told["--host"] == "127.0.0.1" and told["--port"] == "9000"
    assert told["--served-model-name"] == "pair"
    assert told["--max-model-len"] == "512" and "--trust-remote-code" not in words
    assert json.loads(told["--additional-config"]) == {
        "blendin": {
            "guide": pair_folders[3], "guide_dtype": "float32", "guide_kwargs": {},
            "policy": policy, "max_cached_tokens": None, "default_max_tokens": 1024,
        }
    }  # fmt: skip


@pytest.mark.usefixtures("installed")
def test_builds_of_another_name_and_foreign_code(
    pair_folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    words = command(settings(pair_folders, trust_remote_code=True, served_model_name="x"))
    assert words[2:5] == ["vllm.entrypoints.openai.api_server", "--model", pair_folders[1]]
    assert words[-1] == "--trust-remote-code" and options(words)["--served-model-name"] == "x"
    kwargs = json.loads(options(words)["--additional-config"])["blendin"]["guide_kwargs"]
    assert kwargs == {"trust_remote_code": True}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"base": "http://127.0.0.1/v1"}, "name a hub id or a folder"),
    ({"base": "vllm:base"}, "name a hub id or a folder"),
    ({"guide": "./absent.gguf"}, "no such GGUF file"),
    ({"base": "./absent"}, "base='./absent': its tokenizer cannot be read"),
    ({"guide": "bare"}, "no chat template"),
    ({"policy": "guide"}, "serve the guide by itself"),
    ({"policy": {"name": "nudge", "threshold": 9}}, "threshold"),
    ({"max_cached_tokens": 0}, "max_cached_tokens"),
    *(({"further": (word,)}, f"blendin sets {name} itself") for word, name in {
        "--logits-processors": "--logits-processors", "--logits_proc=x": "--logits-processors",
        "--additional-config.a": "--additional-config", "--chat-template": "--chat-template",
        "--generation-config=auto": "--generation-config", "--model": "--model",
        "--worker-extension-cls": "--worker-extension-cls",
    }.items()),
    ({"further": ("--api-key", "x", "--port=1")}, "give --port before --"),
]  # fmt: skip


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("own", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_be_served_is_refused(
    pair_folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    own: dict[str, Any], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no waiting for the hub
    if own.get("guide") == "bare":
        for file in Path(pair_folders[3]).iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
        own = {"guide": str(tmp_path)}
        place = tmp_path / "tokenizer_config.json"
        config = json.loads(place.read_text())
        config.pop("chat_template", None)
        place.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        command(settings(pair_folders, **own))


@pytest.mark.usefixtures("installed")
def test_further_middleware_is_welcome(pair_folders: list[str]) -> None:
    further = ("--middleware", "mine.Own", "--tokenizer", "elsewhere")
    assert tuple(command(settings(pair_folders, further=further))[-4:]) == further


def test_without_vllm_it_says_what_to_install(
    pair_folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "find_spec", lambda name: ModuleSpec(name, None))  # a folder
    result = CliRunner().invoke(app, ["serve", "--engine", "vllm", *pair_folders])
    assert result.exit_code == 2 and "vLLM is not installed" in result.stderr


@pytest.mark.usefixtures("installed")
def test_the_command_line_starts_what_it_prints(
    pair_folders: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(serve_vllm.os, "execv", lambda path, words: started.append(words))
    arguments = [
        "serve",
        "--engine",
        "vllm",
        *pair_folders,
        "--policy",
        "nudge",
        "--threshold",
        "0.4",
        "--port",
        "9",
    ]
    further = ["--", "--max-model-len", "512"]
    result = CliRunner().invoke(app, [*arguments, *further])
    assert result.exit_code == 0, result.output
    assert "http://127.0.0.1:9/v1" in result.stderr
    (words,) = started
    ours = json.loads(options(words)["--additional-config"])["blendin"]
    assert ours["policy"] == {"name": "nudge", "threshold": 0.4}
    assert words[-2:] == further[1:]
    printed = CliRunner().invoke(app, [*arguments, "--print-command", *further])
    assert len(started) == 1 and printed.stdout.startswith(sys.executable)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "best"], "policy 'best' is unknown"),
        (["--policy", "nudge", "--alpha", "1"], "has no setting alpha"),
        (["--port", "70000"], "--port is 70000"),
    ],
)
def test_options_are_checked(pair_folders: list[str], arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--engine", "vllm", *pair_folders, *arguments])
    assert result.exit_code == 2 and message in result.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--engine", "tgi"], "use local, vllm"),
        (["--engine", "vllm", "--batch-size", "4"], "--batch-size has no part"),
        (["--engine", "vllm", "--cors", "*"], "--cors has no part"),
        (["--engine", "vllm", "--device-map", "cpu"], "--device-map has no part"),
        (["--engine", "local", "--print-command"], "--print-command has no part"),
        (["--guide-dtype", "float32"], "--guide-dtype has no part"),
        (["--", "--max-model-len", "9"], "add --engine vllm"),
    ],
)
def test_options_of_the_other_engine_are_refused(
    arguments: list[str], told: str, pair_folders: list[str]
) -> None:
    result = CliRunner().invoke(app, ["serve", *pair_folders, *arguments])
    assert result.exit_code == 2 and told in result.output
