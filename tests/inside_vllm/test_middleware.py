"""The middleware around a stand-in for vLLM's application, whose worker runs a tiny pair."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from api_server import LENGTH, Answer, Server, load_pair, save_pair

from blendin import BlendInGenerator, Generation, Step
from blendin.policy import named_policy
from blendin.protocol.fields import CHAT, COMPLETIONS
from blendin.vllm import engine as engine_module
from blendin.vllm import exchange as exchange_module
from blendin.vllm import worker as worker_module
from blendin.vllm.launch import TEMPLATE
from blendin.vllm.middleware import Middleware
from blendin.vllm.requests import WITHOUT_GUIDE

QUESTION = [{"role": "user", "content": "How many apples are there?"}]
ABSENT = object()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return save_pair(tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def gen(folders: tuple[str, str]) -> BlendInGenerator:
    return load_pair(*folders)


@pytest.fixture(scope="module")
def shared(gen: BlendInGenerator, folders: tuple[str, str]) -> Server:
    return Server(gen, *folders)


@pytest.fixture
def server(shared: Server) -> Server:
    shared.seen.clear()
    shared.counted.__init__()  # type: ignore[misc]
    shared.status, shared.key = 200, None
    return shared


def text_of(answer: Answer, stream: bool) -> tuple[str, Any]:
    """An answer's text and report."""
    assert answer.status == 200, answer.data
    parts = answer.events if stream else [answer.json]
    choices = [each["choices"][0] for each in parts if each["choices"]]
    said = [c.get("delta") or c.get("message") or {"content": c.get("text", "")} for c in choices]
    reported = [each for each in parts if "blendin" in each]
    assert not stream or [each["choices"][0]["finish_reason"] for each in reported] != [None]
    assert len(reported) <= 1
    text = "".join(each.get("content", "") for each in said)
    return text, reported[0]["blendin"] if reported else ABSENT


def in_tokens(gen: BlendInGenerator, out: Generation) -> tuple[str, list[Step]]:
    """A text, and its steps, after as many tokens as vLLM is allowed; here, steps are."""
    ids, steps = list[int](), list[Step]()
    for step in out.steps:
        if len(ids) < LENGTH:
            steps.append(step)
            ids += step.token_ids
    tokens = [gen.base.vocabulary.tokens[id] or b"" for id in ids[:LENGTH]]
    return b"".join(tokens).decode(errors="replace"), steps


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "nudge": {"policy": "nudge", "threshold": 0.6},
    "alpha": {"alpha": 0.5, "threshold": 0.9, "trace": True},
    "base": {"policy": "base", "trace": True},
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "question": QUESTION,
    "turns": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("Hi", "!")]},
        {"role": "assistant", "content": " Hello. \n"},
        {"role": "user", "content": "Why {{ 1 }}?"},
    ],
    "begun": [*QUESTION, {"role": "assistant", "content": "There are"}],
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_chat_is_answered_as_by_the_local_engine(
    server: Server, name: str, conversation: str, stream: bool
) -> None:
    settings, messages = SETTINGS[name], CONVERSATIONS[conversation]
    body = {"messages": messages, "stream": stream, "max_tokens": LENGTH}
    answer = server.ask(body | ({"blendin": settings} if settings else {}))
    given = {name: value for name, value in settings.items() if name != "trace"}
    out = server.gen.generate(
        messages, policy=named_policy(given.pop("policy", "blend"), **given),
        max_new_tokens=LENGTH,
    )  # fmt: skip
    text, report = text_of(answer, stream)
    expected, steps = in_tokens(server.gen, out)
    interventions = sum(each.intervened for each in steps)
    assert text == expected
    assert report["steps"] == len(steps) and report["interventions"] == interventions
    assert report["intervention_rate"] == interventions / len(steps)
    assert report["policy"] == out.settings["policy"]
    if "trace" in settings:
        told = [(each["token_ids"], each["intervened"]) for each in report["trace"]]
        assert told == [(list(each.token_ids), each.intervened) for each in steps]
    assert server.counted.began_with == [report["policy"]["name"]]
    reason = "stop" if out.stop_reason == "end" and out.steps == steps else "length"
    assert server.counted.reports == [(report["policy"]["name"], reason, report)]


def test_texts_stop_where_the_local_engine_stops(server: Server) -> None:
    whole = server.gen.generate(QUESTION, max_new_tokens=LENGTH, stop=[]).text
    stop = whole[4:6]
    server.ask({"messages": QUESTION})
    assert server.seen[0]["stop"] == ["\nQuestion:"]
    out = server.gen.generate(QUESTION, max_new_tokens=LENGTH, stop=[stop])
    text, report = text_of(server.ask({"messages": QUESTION, "stop": [stop]}), stream=False)
    assert text == out.text and report["steps"] == len(out.steps) < LENGTH
    server.ask({"messages": QUESTION, "stop": []})
    assert server.seen[2]["stop"] == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "ours",
    [{"messages": QUESTION}, {"guide_prompt": "Apples? "}, {"guide_prompt_ids": [5, 6, 7]}],
    ids=["messages", "text", "ids"],
)
def test_a_completion_is_blended_with_the_prompt_that_the_guide_is_given(
    server: Server, ours: dict[str, Any], stream: bool
) -> None:
    prompt = "Question: How many apples are there?\nAnswer:"
    guide = server.gen.guide.vocabulary
    told: dict[str, Any] = {"guide_prompt": ours.get("guide_prompt")}
    if "guide_prompt_ids" in ours:
        told["guide_prompt"] = b"".join(guide.tokens[id] or b"" for id in (5, 6, 7)).decode()
        ours = {"guide_prompt_ids": server.gen.guide.encode_prompt(told["guide_prompt"])}
    asked = QUESTION if "messages" in ours else None
    out = server.gen.generate(asked, base_prompt=prompt, max_new_tokens=LENGTH, **told)
    body = {"prompt": prompt, "blendin": ours, "stream": stream, "max_tokens": LENGTH}
    text, report = text_of(server.ask(body, COMPLETIONS), stream)
    assert text == out.text and report["interventions"] == out.interventions
    ids = server.gen.base.encode_prompt(prompt)
    again = server.ask(body | {"prompt": ids, "echo": True}, COMPLETIONS)
    assert text_of(again, stream) == (text, report)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "Hi", "blendin": {}}),
        ("/v1/chat/completions/render", {"messages": []}),
        (CHAT, b"[1]"),
        (CHAT, b"{"),
    ],
)
def test_what_is_not_ours_passes_as_it_is(server: Server, path: str, body: Any) -> None:
    server.status = 400  # whatever vLLM makes of it
    answer = server.ask(body, path)
    assert answer.json == {"error": {"message": "vLLM says no"}}
    assert server.seen == [{} if isinstance(body, bytes) else body]
    assert not server.counted.began_with and not server.counted.refusals


SCORED = {"echo": True, "logprobs": 1, "max_tokens": 1}


@pytest.mark.parametrize("base", [{"blendin": False}, {"model": "base:base"},
                                  {"blendin": {"policy": "base"}}])  # fmt: skip
@pytest.mark.parametrize(
    "asked",
    [{"n": 3}, {"prompt": ["Hi", "Ho"]}, {"prompt": [[5, 6]], **SCORED}, {"best_of": 2},
     {"presence_penalty": 0.5}, {"logit_bias": {"5": 1}}],
    ids=str,
)  # fmt: skip
def test_the_base_alone_is_asked_whatever_vllm_can(
    server: Server, monkeypatch: pytest.MonkeyPatch, base: dict[str, Any], asked: dict[str, Any]
) -> None:
    monkeypatch.setattr(server, "_complete", lambda path, body: ("said", "stop"))
    for stream in (False, True):
        body = {"model": "base", "prompt": "Hi", "stream": stream, **asked}
        _, report = text_of(server.ask(body | base, COMPLETIONS), stream)
        assert report["policy"] == {"name": "BaseOnly"} and report["intervention_rate"] == 0
    drawn = float("n" in asked)
    for seen in server.seen:
        stream = seen.pop("stream")
        assert seen == {"model": "base", "prompt": "Hi", "temperature": drawn, **asked}
    assert not server.counted.began_with  # vLLM's own series count it


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_without_us_is_the_bases_own(server: Server, stream: bool) -> None:
    answer = server.ask({"messages": QUESTION, "blendin": False, "stream": stream})
    text, report = text_of(answer, stream)
    assert report["policy"] == {"name": "BaseOnly"} and "vllm_xargs" not in server.seen[0]
    assert text == server.gen.generate(QUESTION, policy="base", max_new_tokens=LENGTH).text


def test_a_prompt_that_is_only_echoed_is_vllms(server: Server) -> None:
    server.ask({"prompt": "Hi", "echo": True, "max_tokens": 0}, COMPLETIONS)
    assert "vllm_xargs" not in server.seen[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("as_ids", [False, True])
def test_a_completion_is_blended_and_the_guide_reads_its_prompt_as_a_users_turn(
    server: Server, as_ids: bool, stream: bool
) -> None:
    prompt = "How many apples are there?"
    out = server.gen.generate(prompt, base_prompt=prompt, max_new_tokens=LENGTH)
    given = server.gen.base.encode_prompt(prompt) if as_ids else prompt
    for body in ({}, {"blendin": True}, {"blendin": None}, {"blendin": {}}, {"model": "base"}):
        asked = {"prompt": given, "stream": stream, "max_tokens": LENGTH, **body}
        text, report = text_of(server.ask(asked, COMPLETIONS), stream)
        assert text == in_tokens(server.gen, out)[0] and report["policy"]["name"] == "Blend"


def test_a_draw_has_a_seed_that_repeats_it(server: Server) -> None:
    body: dict[str, Any] = {"messages": QUESTION, "temperature": 1.5}
    text, report = text_of(server.ask(body), False)
    again = server.ask(body | {"seed": report["seed"]})
    assert text_of(again, False)[0] == text
    out = server.gen.generate(
        QUESTION, max_new_tokens=LENGTH, do_sample=True, temperature=1.5, seed=report["seed"]
    )
    assert text == in_tokens(server.gen, out)[0]
    assert "seed" not in text_of(server.ask({"messages": QUESTION}), False)[1]


def test_chats_have_the_servers_limit_as_far_as_there_is_room(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, sent in (({}, LENGTH), ({"max_tokens": 5}, 5), ({"max_completion_tokens": 4}, None)):
        server.ask({"messages": QUESTION, **given})
        assert server.seen[-1].get("max_tokens") == sent
    length = len(server.gen.base.encode_prompt("Question: How many apples are there?\nAnswer:"))
    for most, sent in ((length + 4, 5), (length - 1, None)):  # vLLM says what is too long
        monkeypatch.setattr(server.middleware._engine.base, "max_length", most)
        server.status = 400
        server.ask({"messages": QUESTION})
        assert server.seen[-1].get("max_tokens") == sent


def test_the_models_are_listed_under_each_policy(server: Server) -> None:
    def listed(path: str) -> list[dict[str, str]]:
        return server.ask({"data": [{"id": "pair", "root": "r"}]}, path, method="GET").json["data"]

    models = listed("/v1/models")
    names = [each["id"] for each in models]
    assert names[0] == "pair" and {"pair:nudge", "pair:base"} < set(names)
    assert "pair:guide" not in names and {each["root"] for each in models} == {"r"}
    assert len(listed("/v1/other")) == 1
    server.status = 401
    assert len(listed("/v1/models")) == 1


def test_the_models_name_may_name_the_policy(server: Server) -> None:
    named = server.ask({"messages": QUESTION, "model": "base:nudge", "blendin": {"threshold": 0.6}})
    given = server.ask({"messages": QUESTION, "model": "b:c", "blendin": SETTINGS["nudge"]})
    assert text_of(named, False) == text_of(given, False)
    assert [each["model"] for each in server.seen] == ["base", "b:c"]


def test_other_arguments_of_extensions_stay(server: Server) -> None:
    server.ask({"messages": QUESTION, "vllm_xargs": {"other": 1}})
    assert server.seen[0]["vllm_xargs"]["other"] == 1


def test_settings_of_the_guides_template_reach_it(server: Server) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ mood }}"
    settings = {"chat_template": template, "mood": "!"}
    expected = server.gen.generate(
        QUESTION, chat_template_kwargs=settings, max_new_tokens=LENGTH, policy="nudge"
    ).text
    for body in (
        {"chat_template_kwargs": settings, "blendin": {"policy": "nudge"}},
        {"blendin": {"policy": "nudge", "chat_template_kwargs": settings}},
    ):
        assert text_of(server.ask({"messages": QUESTION, **body}), False)[0] == expected


USER = QUESTION[0]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"blendin": {"polcy": "nudge"}}, "did you mean"),
    (CHAT, {"blendin": {"policy": "nugde"}}, "policy 'nugde' is unknown"),
    (CHAT, {"blendin": {"policy": "guide"}}, "serve the guide by itself"),
    (CHAT, {"blendin": {"threshold": "high"}}, "threshold"),
    (CHAT, {"blendin": {"policy": "nudge", "alpha": 0.5}}, "has no setting alpha"),
    (CHAT, {"blendin": "nudge"}, "give a mapping"),
    (CHAT, {"blendin": {"id": "x"}}, "blendin has no 'id'"),
    (CHAT, {"blendin": {"key": "x"}}, "blendin has no 'key'"),
    (CHAT, {"blendin": {"policy": "base"}, "model": "m:nudge"}, "name one"),
    (CHAT, {"blendin": {"guide_prompt": "a", "messages": QUESTION}}, "give one of them"),
    (CHAT, {"blendin": {"guide_prompt": "a"}, "chat_template_kwargs": {"a": 1}}, "give one"),
    (CHAT, {"blendin": {"chat_template_kwargs": {"messages": 1}}}, "sets itself"),
    (CHAT, {"blendin": False, "model": "m:nudge"}, "name one"),
    (CHAT, {"blendin": {"rule": "bet"}}, "name a policy beside it"),
    (CHAT, {"blendin": {"policy": "base", "trace": 3}, "n": 2}, "n is 2"),
    (CHAT, {"do_sample": False, "temperature": 1}, "do_sample"),
    (CHAT, {"max_tokens": 5, "max_completion_tokens": 6}, "differ"),
    (CHAT, {"temperature": "hot"}, "temperature"),
    (CHAT, {"blendin": {"guide_prompt_ids": [10**6]}}, "guide_prompt_ids is 1000000"),
    (CHAT, {"blendin": {"guide_prompt": "x " * 9000}}, "shorten the prompt"),
    (CHAT, {"blendin": {"messages": 5}}, "messages is 5"),
    (CHAT, {"blendin": {"messages": [{"role": "user", "content": 5}]}}, "the content 5"),
    (CHAT, {"blendin": {"trace": "no"}}, "trace"),
    (CHAT, {"vllm_xargs": {"blendin": "{}"}}, "vllm_xargs has blendin"),
    (CHAT, {"vllm_xargs": [1]}, "vllm_xargs is [1]"),
    *((CHAT, {name: value}, name) for name, value in {
        "n": 2, "presence_penalty": 0.5, "frequency_penalty": -1,
        "use_beam_search": True, "logit_bias": {"5": 1}, "thinking_token_budget": 5,
        "truncate_prompt_tokens": 5, "prompt_logprobs": 0, "kv_transfer_params": {"a": 1},
        "watermarking": True, "best_of": 3,
    }.items()),
    *((CHAT, {"repetition_penalty": 1.1, name: value}, name) for name, value in {
        "repetition_penalty_range": 256, "repeat_last_n": 64, "penalize_nl": False,
    }.items()),
    *((CHAT, {name: value, "blendin": False}, name) for name, value in {
        "tools": [{"type": "function"}], "documents": [{"text": "x"}], "chat_template": "{{ 1 }}",
        "reasoning_effort": "high", "add_special_tokens": False, "add_generation_prompt": False,
        "continue_final_message": True, "messages": "Hi",
    }.items()),
    (CHAT, {"messages": [USER, {"role": "assistant", "content": "So"}],
            "add_generation_prompt": True}, "add_generation_prompt"),
    (CHAT, {"messages": [USER, USER]}, "take turns"),
    (CHAT, {"messages": []}, "must end with"),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "runs no tools"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text alone"),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "lone surrogate"),
    (CHAT, {"messages": [{"role": "user", "content": "a <eos> b"}]}, "spell '<eos>'"),
    (CHAT, {"messages": [{"role": "user", "content": "<bos>"}], "blendin": False}, "'<bos>'"),
    (CHAT, {"echo": True, "logprobs": True, "top_logprobs": 2}, "echo"),
    (COMPLETIONS, {"prompt": " "}, "empty"),
    (COMPLETIONS, {"prompt": []}, "prompt is []"),
    (COMPLETIONS, {"prompt": [10**6]}, "prompt is 1000000"),
    (COMPLETIONS, {"prompt": "Hi", "n": 2}, "n is 2"),
    (COMPLETIONS, {"prompt": "Hi", "echo": True, "max_tokens": 0, "logprobs": 1}, "base:base"),
    (COMPLETIONS, {"prompt": "Hi", "blendin": {"guide_prompt": " "}}, "guide_prompt is empty"),
    (COMPLETIONS, {"prompt": ["a", "b"]}, "request for each"),
    (COMPLETIONS, {"prompt": ["a", "b"], "blendin": {"guide_prompt": "a"}}, "request for each"),
    (COMPLETIONS, {"prompt": [[1], [2]], "blendin": {"guide_prompt": "a"}}, "request for each"),
    (COMPLETIONS, {"prompt_embeds": "AAAA", "blendin": {"guide_prompt": "a"}}, "prompt_embeds"),
    *((path, {}, f"ask {CHAT}") for path in WITHOUT_GUIDE),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "changed", "message"),
    REFUSED,
    ids=[f"{place}-{message}" for place, (*_, message) in enumerate(REFUSED)],
)
def test_what_cannot_be_is_refused_before_it_runs(
    server: Server, path: str, changed: dict[str, Any], message: str
) -> None:
    body = {"messages": QUESTION} if path == CHAT else {}
    answer = server.ask(body | changed, path)
    assert answer.status == 400
    error = answer.json["error"]
    assert message in error["message"] and error["type"] == "invalid_request_error"
    assert error["code"] is None and not server.seen
    assert answer.headers[b"access-control-allow-origin"] == b"*"  # what vLLM has added stays
    assert server.counted.refusals == 1 and not server.counted.began_with


@pytest.mark.parametrize("name", ["n", "presence_penalty", "frequency_penalty", "min_p", "tools"])
@pytest.mark.parametrize("value", [None, "neutral"])
def test_values_that_change_nothing_are_no_fault(server: Server, name: str, value: Any) -> None:
    neutral = {"n": 1, "tools": []}.get(name, 0.0) if value else None
    assert server.ask({"messages": QUESTION, name: neutral}).status == 200


def test_an_answer_of_vllms_that_is_an_error_passes(server: Server) -> None:
    server.status = 404
    answer = server.ask({"messages": QUESTION})
    assert answer.status == 404 and answer.json == {"error": {"message": "vLLM says no"}}
    assert not server.counted.began_with and not server.counted.reports


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("trouble", "message"),
    [("unknown", "know nothing"), ("dead", "engine is dead"), ("slow", "TimeoutError")],
)
def test_a_report_that_cannot_be_had_says_so(
    server: Server, monkeypatch: pytest.MonkeyPatch, trouble: str, message: str, stream: bool
) -> None:
    async def rpc(method: str, args: tuple[Any, ...]) -> list[Any]:
        if method == "blendin_guide_ids" or trouble == "unknown":
            return [None if method == "blendin_report" else {"ids": [5]}]
        if trouble == "slow":
            await asyncio.sleep(3600)
        raise RuntimeError("the engine is dead")

    monkeypatch.setattr(server, "collective_rpc", rpc)
    monkeypatch.setattr(engine_module, "PATIENCE", 0.05 if trouble == "slow" else 120.0)
    _, report = text_of(server.ask({"messages": QUESTION, "stream": stream}), stream)
    assert list(report) == ["error"] and message in report["error"]


def test_a_server_without_the_processor_says_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_workers", {})
    answer = server.ask({"messages": QUESTION})
    assert answer.status == 500 and "--logits-processors" in answer.json["error"]["message"]
    assert not server.seen


def test_no_work_is_done_for_who_has_no_key(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = b"secret"
    monkeypatch.setattr(server, "collective_rpc", None)
    for body in ({"messages": QUESTION}, {"messages": QUESTION, "n": 2}):
        assert server.ask(body).status == 401
    assert not server.seen and not server.counted.refusals
    monkeypatch.undo()
    headers = [(b"authorization", b"Bearer secret")]
    assert server.ask({"messages": QUESTION}, headers=headers).status == 200
    assert server.ask({"messages": QUESTION, "n": 2}, headers=headers).status == 400


def test_a_client_that_has_gone_is_forgotten(server: Server) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "app": server}
    asyncio.run(server.middleware(scope, receive, send))
    assert not sent and not server.seen


@pytest.mark.parametrize(
    ("additional", "sent"),
    [
        (None, "lifespan.startup.complete"),
        ({}, "lifespan.startup.failed"),
        ({"blendin": {"gude": "x"}}, "lifespan.startup.failed"),
    ],
)
def test_a_server_that_cannot_blend_does_not_start(
    server: Server, monkeypatch: pytest.MonkeyPatch, additional: Any, sent: str
) -> None:
    if additional is not None:
        monkeypatch.setattr(server.config, "additional_config", additional)
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        messages.append(message)

    fresh = Middleware(server, server.counted)  # type: ignore[arg-type]
    asyncio.run(fresh({"type": "lifespan", "app": server}, receive, send))
    assert [each["type"] for each in messages] == [sent]
    if additional is not None:
        assert "--additional-config" in messages[0]["message"]


@pytest.mark.parametrize(
    "scope", [{"method": "GET"}, {"path": "/api" + CHAT, "root_path": "/api"}], ids=["get", "root"]
)
def test_paths_are_those_below_the_root_and_methods_count(
    server: Server, scope: dict[str, str]
) -> None:
    server.status = 405 if "method" in scope else 404
    server.ask({"messages": QUESTION}, **scope)
    assert ("vllm_xargs" in server.seen[0]) == ("root_path" in scope)


def test_a_text_that_its_client_has_left_is_counted_as_gone(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: Any, message: Any) -> Any:
        raise ConnectionError

    server.ask({"messages": QUESTION, "stream": True})
    assert [reason for _, reason, _ in server.counted.reports] == ["length"]
    monkeypatch.setattr(exchange_module.Exchange, "_pass", gone)
    with pytest.raises(ConnectionError):
        server.ask({"messages": QUESTION, "stream": True})
    assert server.counted.reports[1:] == [("Blend", "gone", {})]


def test_prometheus_counts_by_policy() -> None:
    prometheus = pytest.importorskip("prometheus_client", reason="blendin[vllm] is not installed")
    from blendin.vllm.metrics import Metrics

    series = Metrics(prometheus.CollectorRegistry())
    series.began("Blend")
    series.refused()
    report = {"steps": 8, "interventions": 2, "guide_forwards": 3}
    series.finished("Blend", "stop", report | {"intervention_rate": 0.25})
    series.finished("Blend", "stop", {"error": "unknown"})
    series.finished("Blend", "gone", {})
    values = {
        f"{each.name}{each.labels.get('le', '')}{each.labels.get('reason', '')}": each.value
        for family in series.registry.collect()
        for each in family.samples
        if each.labels.get("policy", "Blend") == "Blend"
    }
    assert {
        "blendin_requests_total": 1, "blendin_refused_requests_total": 1,
        "blendin_finished_requests_totalstop": 2, "blendin_finished_requests_totalgone": 1,
        "blendin_unreported_requests_total": 1, "blendin_steps_total": 8,
        "blendin_interventions_total": 2, "blendin_guide_forwards_total": 3,
        "blendin_intervention_rate_bucket0.2": 0, "blendin_intervention_rate_bucket0.3": 1,
        "blendin_intervention_rate_count": 1, "blendin_intervention_rate_sum": 0.25,
    }.items() <= values.items()  # fmt: skip


def test_the_template_lies_where_the_command_says() -> None:
    assert Path(TEMPLATE).is_file()
