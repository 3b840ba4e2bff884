"""One request, two engines: the same policy, prompts, text and report, or the same refusal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from api_server import LENGTH, Server, load_pair, save_pair
from serving import Served, events, served

from blendin import BlendInGenerator, Nudge
from blendin.protocol.fields import CHAT, COMPLETIONS
from blendin.serve.requests import read_chat, read_completion

QUESTION = [{"role": "user", "content": "How many apples are there?"}]
BEGUN = [*QUESTION, {"role": "assistant", "content": "There are"}]
OTHER = [{"role": "system", "content": "Be brief."}, *QUESTION]
SERVERS_POLICY = {"name": "nudge", "threshold": 0.7}


class Pair(NamedTuple):
    """The same models behind both."""

    gen: BlendInGenerator
    local: Served
    vllm: Server


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folders = save_pair(tmp_path_factory.mktemp)
    gen = load_pair(*folders)
    settings = {"policy": Nudge(0.7), "served_model_name": "base", "default_max_tokens": LENGTH}
    with served(gen, **settings) as local:
        yield Pair(gen, local, Server(gen, *folders, policy=SERVERS_POLICY))


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {}),
    "chat, null": (CHAT, {"blendin": None}),
    "chat, true": (CHAT, {"blendin": True}),
    "chat, nothing changed": (CHAT, {"blendin": {}}),
    "chat, settings alone": (CHAT, {"blendin": {"threshold": 0.95}}),
    "chat, named": (CHAT, {"blendin": {"policy": "blend", "top_k": 0, "threshold": 0.9}}),
    "chat, null settings": (CHAT, {"blendin": {"policy": "blend", "top_k": None, "alpha": None}}),
    "chat, by name": (CHAT, {"model": "base:blend"}),
    "chat, by name with settings": (CHAT, {"model": "base:defer", "blendin": {"rule": "bet"}}),
    "chat, cap": (CHAT, {"model": "base:cap", "blendin": {"grace_steps": 2, "threshold": 1.0}}),
    "chat, both names": (CHAT, {"model": "base:blend", "blendin": {"policy": "blend"}}),
    "chat, base by name": (CHAT, {"model": "base:base"}),
    "chat, base": (CHAT, {"blendin": {"policy": "base"}}),
    "chat, false": (CHAT, {"blendin": False}),
    "chat, false twice": (CHAT, {"blendin": False, "model": "base:base"}),
    "chat, the model's name": (CHAT, {"model": "base"}),
    "chat, begun": (CHAT, {"messages": BEGUN}),
    "chat, begun and said": (CHAT, {"messages": BEGUN, "continue_final_message": True,
                                    "add_generation_prompt": False}),
    "chat, opened": (CHAT, {"add_generation_prompt": True, "continue_final_message": False}),
    "chat, guide's messages": (CHAT, {"blendin": {"messages": OTHER}}),
    "chat, guide's prompt": (CHAT, {"blendin": {"guide_prompt": "Apples? "}}),
    "chat, guide's tokens": (CHAT, {"blendin": {"guide_prompt_ids": [5, 6, 7]}}),
    "chat, template": (CHAT, {"chat_template_kwargs": {"mood": "!"}}),
    "chat, template within": (CHAT, {"blendin": {"chat_template_kwargs": {"mood": "!"}}}),
    "chat, template and base": (CHAT, {"model": "base:base", "chat_template_kwargs": {"a": 1}}),
    "chat, stop": (CHAT, {"stop": "e"}),
    "chat, no stop": (CHAT, {"stop": []}),
    "chat, limit": (CHAT, {"max_tokens": 3}),
    "chat, new limit": (CHAT, {"max_tokens": 3, "max_completion_tokens": 3}),
    "chat, drawn": (CHAT, {"temperature": 1.3, "seed": 7}),
    "chat, drawn by its seed": (CHAT, {"seed": 7}),
    "chat, drawn by top_p": (CHAT, {"top_p": 0.9, "seed": 3}),
    "chat, drawn by min_p": (CHAT, {"min_p": 0.2, "seed": 3}),
    "chat, penalty off, its range": (CHAT, {"repetition_penalty_range": 256, "penalize_nl": False}),
    "chat, penalty of nothing": (CHAT, {"repetition_penalty": 3, "repeat_last_n": 0}),
    "chat, penalty of all": (CHAT, {"repetition_penalty": 3, "repetition_penalty_range": 0}),
    "chat, not drawn": (CHAT, {"do_sample": False, "seed": 3}),
    "chat, cold": (CHAT, {"temperature": 0, "seed": 3}),
    "chat, trace": (CHAT, {"blendin": {"trace": True}}),
    "chat, candidates": (CHAT, {"blendin": {"trace": 3, "policy": "blend"}}),
    "chat, no candidates": (CHAT, {"blendin": {"trace": 0}}),
    "chat, no trace": (CHAT, {"blendin": {"trace": False}}),
    "chat, base traced": (CHAT, {"blendin": {"policy": "base", "trace": True}}),
    "chat, what changes nothing": (CHAT, {"n": 1, "tools": [], "tool_choice": "auto", "min_p": 0,
                                          "logit_bias": {}, "presence_penalty": 0.0,
                                          "reasoning_effort": "none", "best_of": 1,
                                          "prompt_logprobs": False, "add_special_tokens": True}),
    "text": (COMPLETIONS, {}),
    "text, true": (COMPLETIONS, {"blendin": True}),
    "text, settings alone": (COMPLETIONS, {"blendin": {"threshold": 0.95}}),
    "text, named": (COMPLETIONS, {"blendin": {"policy": "blend"}}),
    "text, by name": (COMPLETIONS, {"model": "base:blend"}),
    "text, tokens": (COMPLETIONS, {"prompt": [2, 300, 20, 31]}),
    "text, a list of one": (COMPLETIONS, {"prompt": ["How many?"]}),
    "text, a list of tokens": (COMPLETIONS, {"prompt": [[2, 300, 20, 31]]}),
    "text, guide's messages": (COMPLETIONS, {"blendin": {"messages": OTHER}}),
    "text, guide's prompt": (COMPLETIONS, {"blendin": {"guide_prompt": "Apples? "}}),
    "text, guide's tokens": (COMPLETIONS, {"blendin": {"guide_prompt_ids": [5, 6, 7]}}),
    "text, template": (COMPLETIONS, {"chat_template_kwargs": {"mood": "!"}}),
    "text, false": (COMPLETIONS, {"blendin": False}),
    "text, base": (COMPLETIONS, {"model": "base:base"}),
    "text, drawn": (COMPLETIONS, {"temperature": 1.3, "seed": 7}),
}  # fmt: skip


def whole(path: str, body: dict[str, Any]) -> dict[str, Any]:
    given = {"messages": QUESTION} if path == CHAT else {"prompt": "How many?"}
    return given | body


STREAMED = ("chat", "chat, false", "chat, trace", "chat, drawn", "text", "text, false")


@pytest.mark.parametrize(
    ("name", "stream"), [*((name, False) for name in ASKED), *((name, True) for name in STREAMED)]
)
def test_one_request_asks_the_same_and_is_answered_alike(
    both: Pair, name: str, stream: bool
) -> None:
    path, body = ASKED[name]
    body = whole(path, body) | {"stream": stream}
    response = both.local.client.post(path, json=body)
    answer = both.vllm.ask(body, path)
    assert response.status_code == answer.status == 200, (response.text, answer.data)
    if body.get("blendin") is not False:  # then vLLM decides, of which the worker knows nothing
        same_sequence(both, path, body)
    if stream:
        told = [
            [each for each in parts if each["choices"]]
            for parts in (events(response.text), answer.events)
        ]
    else:
        told = [[response.json()], [answer.json]]
    texts = ["".join(text_of(each["choices"][0]) for each in parts) for parts in told]
    # vLLM counts tokens of the base where the local engine counts steps, which may have several.
    shared = min(map(len, texts))
    assert texts[0][:shared] == texts[1][:shared] and (shared or not any(texts))
    for parts in told:
        reasons = [each["choices"][0]["finish_reason"] for each in parts]
        assert [reason is not None for reason in reasons] == [each is parts[-1] for each in parts]
        assert not any("policy" in each.get("blendin", {}) for each in parts[:-1])
    local, vllm = (parts[-1]["blendin"] for parts in told)
    assert local["policy"] == vllm["policy"] and local.get("seed") == vllm.get("seed")
    unknown = {"base_forwards", "new_steps"} | (
        {"steps"} if body.get("blendin") is False else set()
    )
    assert local.keys() - unknown == vllm.keys() - unknown


def same_sequence(both: Pair, path: str, body: dict[str, Any]) -> None:
    """Compares what the local engine makes of a body with what the worker has last begun."""
    service = both.local.service
    asked = (read_chat if path == CHAT else read_completion)(body, service.settings, both.gen.pair)
    sequence = asked.requests[0].read(both.gen.pair)
    begun = next(reversed(both.vllm.requests._begun.values()))  # type: ignore[attr-defined]
    hosted = begun.hosted.sequence
    assert hosted.policy == sequence.policy and hosted.limits == sequence.limits
    for one, other in ((hosted.base, sequence.base), (hosted.guide, sequence.guide)):
        assert (one is None) == (other is None)
        assert one is None or one.ids[: len(other.ids)] == other.ids  # the answer follows
    assert hosted.trace_top == sequence.trace_top
    assert begun.arguments.ours.tells_steps == asked.tells_steps
    names = ["do_sample", "repetition_penalty"]
    if sequence.sampling.do_sample:
        names += ["temperature", "top_p", "min_p", "sampling_top_k", "seed"]
    for name in names:
        assert getattr(hosted.sampling, name) == getattr(sequence.sampling, name), name


def text_of(choice: dict[str, Any]) -> str:
    return choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get(
        "content", ""
    )


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "a number": (CHAT, {"blendin": 3}),
    "a name": (CHAT, {"blendin": "nudge"}),
    "a misspelt field": (CHAT, {"blendin": {"treshold": 1}}),
    "ours alone": (CHAT, {"blendin": {"id": "x"}}),
    "the key": (CHAT, {"blendin": {"key": "x"}}),
    "a misspelt policy": (CHAT, {"blendin": {"policy": "nugde"}}),
    "no text": (CHAT, {"blendin": {"policy": 5}}),
    "out of range": (CHAT, {"blendin": {"threshold": 40}}),
    "of the wrong type": (CHAT, {"blendin": {"threshold": "high"}}),
    "not the policy's": (CHAT, {"blendin": {"policy": "nudge", "alpha": 1}}),
    "not the server's policy's": (CHAT, {"blendin": {"alpha": 1}}),
    "not the name's": (CHAT, {"model": "base:base", "blendin": {"threshold": 0.3}}),
    "two policies": (CHAT, {"model": "base:base", "blendin": {"policy": "nudge"}}),
    "false and a policy": (CHAT, {"model": "base:nudge", "blendin": False}),
    "two prompts": (CHAT, {"blendin": {"guide_prompt": "a", "guide_prompt_ids": [1]}}),
    "two conversations": (CHAT, {"blendin": {"guide_prompt": "a", "messages": QUESTION}}),
    "an empty prompt": (CHAT, {"blendin": {"guide_prompt": " "}}),
    "a prompt of numbers": (CHAT, {"blendin": {"guide_prompt": 5}}),
    "no tokens": (CHAT, {"blendin": {"guide_prompt_ids": []}}),
    "unknown tokens": (CHAT, {"blendin": {"guide_prompt_ids": [10**6]}}),
    "negative tokens": (CHAT, {"blendin": {"guide_prompt_ids": [-1]}}),
    "no messages": (CHAT, {"blendin": {"messages": []}}),
    "messages of text": (CHAT, {"blendin": {"messages": "Hi"}}),
    "templates twice": (CHAT, {"blendin": {"chat_template_kwargs": {"a": 1}},
                               "chat_template_kwargs": {"a": 1}}),
    "a template for a prompt": (CHAT, {"blendin": {"guide_prompt": "a"},
                                       "chat_template_kwargs": {"a": 1}}),
    "a template's own": (CHAT, {"chat_template_kwargs": {"messages": 1}}),
    "a negative trace": (CHAT, {"blendin": {"trace": -1}}),
    "a long trace": (CHAT, {"blendin": {"trace": 1000}}),
    "a trace of text": (CHAT, {"blendin": {"trace": "yes"}}),
    "a model of numbers": (CHAT, {"model": 5}),
    "two limits": (CHAT, {"max_tokens": 5, "max_completion_tokens": 6}),
    "two wishes": (CHAT, {"do_sample": False, "temperature": 1}),
    "a temperature of text": (CHAT, {"temperature": "hot"}),
    "a temperature below 0": (CHAT, {"temperature": -1}),
    "no conversation": (CHAT, {"messages": "Hi"}),
    "an empty conversation": (CHAT, {"messages": []}),
    "a tool": (CHAT, {"messages": [{"role": "tool", "content": "x"}]}),
    "out of turn": (CHAT, {"messages": [*QUESTION, *QUESTION]}),
    "an image": (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    "half a character": (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}),
    "not opened": (CHAT, {"add_generation_prompt": False}),
    "not begun": (CHAT, {"continue_final_message": True}),
    "begun and opened": (CHAT, {"messages": BEGUN, "add_generation_prompt": True}),
    "begun and not continued": (CHAT, {"messages": BEGUN, "continue_final_message": False}),
    "too long for the guide": (CHAT, {"blendin": {"guide_prompt": "x " * 9000}}),
    "nothing to go on with": (COMPLETIONS, {"prompt": []}),
    "a blank": (COMPLETIONS, {"prompt": " "}),
    "a blank of the base": (COMPLETIONS, {"prompt": " ", "model": "base:base"}),
    "unknown tokens of the base": (COMPLETIONS, {"prompt": [10**6]}),
    "tokens of text": (COMPLETIONS, {"prompt": [1, "a"]}),
    "a mapping": (COMPLETIONS, {"prompt": {"a": 1}}),
    "echoed and scored": (COMPLETIONS, {"echo": True, "logprobs": 1}),
    "echoed and scored only": (COMPLETIONS, {"echo": True, "logprobs": 1, "max_tokens": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_one_request_is_refused_alike(both: Pair, name: str) -> None:
    path, body = REFUSED[name]
    content = json.dumps(whole(path, body))
    headers = {"Content-Type": "application/json"}
    response = both.local.client.post(path, content=content, headers=headers)
    answer = both.vllm.ask(content.encode(), path)
    # The same guide lies in a folder for each server.
    here, there = (
        re.sub(r"/guide\d+ ", "/guide ", each) for each in (response.text, answer.data.decode())
    )
    assert (response.status_code, json.loads(here)) == (answer.status, json.loads(there))
    assert answer.status == 400 and answer.json["error"]["message"]


NOT_IN_VLLM: dict[str, tuple[str, dict[str, Any]]] = {
    "several texts": (CHAT, {"n": 2}),
    "several prompts": (COMPLETIONS, {"prompt": ["a", "b"]}),
    "the guide alone": (CHAT, {"model": "base:guide"}),
}
NOT_HERE: dict[str, tuple[str, dict[str, Any]]] = {
    "a grammar": (CHAT, {"response_format": {"type": "json_object"}}),
    "no end": (CHAT, {"ignore_eos": True}),
}


@pytest.mark.parametrize("name", [*NOT_IN_VLLM, *NOT_HERE])
def test_what_one_engine_alone_can_is_a_400_of_the_other(both: Pair, name: str) -> None:
    path, body = (NOT_IN_VLLM | NOT_HERE)[name]
    statuses = (
        both.local.client.post(path, json=whole(path, body)).status_code,
        both.vllm.ask(whole(path, body), path).status,
    )
    assert statuses == ((200, 400) if name in NOT_IN_VLLM else (400, 200))


def test_both_list_the_same_models_but_the_guide_alone(both: Pair) -> None:
    local = [each["id"] for each in both.local.client.get("/v1/models").json()["data"]]
    told = both.vllm.ask({"data": [{"id": "base"}]}, "/v1/models", method="GET").json["data"]
    assert [each["id"] for each in told] == [each for each in local if each != "base:guide"]


def test_both_count_in_the_same_series(both: Pair) -> None:
    prometheus = pytest.importorskip("prometheus_client", reason="blendin[vllm] is not installed")
    from blendin.serve.metrics import Metrics as LocalMetrics
    from blendin.vllm.metrics import Metrics

    def series(registry: Any) -> dict[str, tuple[str, str]]:
        return {each.name: (each.type, each.documentation) for each in registry.collect()}

    local, vllm = LocalMetrics(), Metrics(prometheus.CollectorRegistry())
    shared = series(local.registry).items() & series(vllm.registry).items()
    assert len(shared) == 8
    assert series(vllm.registry).keys() - {name for name, _ in shared} == {
        "blendin_unreported_requests"
    }


def test_reading_a_request_takes_no_torch() -> None:
    names = "errors fields metrics names ours prompts report sampling"
    code = "import sys; from blendin.protocol import " + names.replace(" ", ", ")
    code += "; import blendin.vllm.arguments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
