"""The middleware around a stand-in for vLLM's application, whose worker runs a tiny pair."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import model
from stand_in import Request, V1Engine, params

from blendin import BlendInGenerator, Generation, Step
from blendin.models.loader import load_tokenizer
from blendin.policy import named_policy
from blendin.vllm import middleware as middleware_module
from blendin.vllm import worker as worker_module
from blendin.vllm.launch import TEMPLATE
from blendin.vllm.middleware import Middleware, Refusal
from blendin.vllm.requests import CHAT, COMPLETIONS, WITHOUT_GUIDE

LENGTH = 12
QUESTION = [{"role": "user", "content": "How many apples are there?"}]
ABSENT = object()


class Counted:
    """What would go to Prometheus."""

    def __init__(self) -> None:
        self.began_with: list[str] = []
        self.reports: list[tuple[str, Any]] = []
        self.refusals = 0

    def began(self, policy: str) -> None:
        self.began_with.append(policy)

    def refused(self) -> None:
        self.refusals += 1

    def finished(self, policy: str, report: Any) -> None:
        self.reports.append((policy, report))


class Server:
    """vLLM's application as the middleware sees it: its state, its two routes, its workers.

    Attributes:
        seen: the bodies that came through.
    """

    def __init__(self, gen: BlendInGenerator, base: str, guide: str) -> None:
        self.gen, self.counted, self.seen = gen, Counted(), list[dict[str, Any]]()
        lm = gen.base.model
        config = SimpleNamespace(
            model="base", served_model_name="base", tokenizer=base, tokenizer_mode="auto",
            tokenizer_revision=None, trust_remote_code=False, max_model_len=4096,
            dtype=torch.float64, get_vocab_size=lambda: lm.config.vocab_size,
            try_get_generation_config=lambda: {"eos_token_id": lm.generation_config.eos_token_id},
            hf_text_config=lm.config,
        )  # fmt: skip
        self.config = SimpleNamespace(
            model_config=config, additional_config={"blendin": {"guide": guide}}
        )
        self.requests = worker_module.requests_of(self.config, torch.device("cpu"))
        self.extension = worker_module.WorkerExtension()
        self.state = SimpleNamespace(vllm_config=self.config, engine_client=self)
        self.middleware = Middleware(self, self.counted)  # type: ignore[arg-type]
        self.status, self.key = 200, None

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[Any]:
        """As `EngineClient`'s; what workers say has gone through msgpack."""
        answer = getattr(self.extension, method)(*args)
        return [None, json.loads(json.dumps(answer))]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        sent = dict(scope["headers"])
        if self.key is not None and sent.get(b"authorization") != b"Bearer " + self.key:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})
            return
        data, more = b"", True
        try:
            while more:
                message = await receive()
                data, more = data + message["body"], message["more_body"]
        except KeyError:  # disconnected
            return
        except Exception as error:
            if self.key is not None:
                raise
            headers = [(b"access-control-allow-origin", b"*"), (b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            for body in (b"no", b""):
                last = {"body": body, "more_body": bool(body)}
                await send({"type": "http.response.body", **last})
            assert isinstance(error, Refusal)
            return
        assert int(sent.get(b"content-length", len(data))) == len(data)
        body = json.loads(data) if data[:2] == b'{"' else {}
        self.seen.append(body)
        chunks, kind = [b"{}"], b"application/json"
        if body and self.status == 200:
            text, finish = self._complete(scope["path"], body)
            chunks, kind = answers(text, finish, scope["path"], body.get("stream", False))
        elif self.status != 200:
            chunks = [b'{"error": {"message": "vLLM says no"}}']
        start = {"type": "http.response.start", "status": self.status}
        length = [] if len(chunks) > 1 else [(b"content-length", str(len(chunks[0])).encode())]
        await send(start | {"headers": [(b"content-type", kind), *length]})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _complete(self, path: str, body: dict[str, Any]) -> tuple[str, str | None]:
        """What vLLM does with a request: template, tokens, decoding, stop texts."""
        tokenizer = self.gen.base.tokenizer
        prompt = body.get("prompt")
        if path == CHAT:
            prompt = tokenizer.apply_chat_template(
                body["messages"], chat_template=TEMPLATE.read_text(), tokenize=False,
                add_generation_prompt=body.get("add_generation_prompt", True),
                continue_final_message=body.get("continue_final_message", False),
            )  # fmt: skip
        adds = body.get("add_special_tokens", path == COMPLETIONS)
        ids = tokenizer.encode(prompt, add_special_tokens=adds) if type(prompt) is str else prompt
        stop = body.get("stop") or []
        told = params(
            extra_args=body.get("vllm_xargs"), max_tokens=body.get("max_tokens", LENGTH), stop=stop,
            all_stop_token_ids=set(self.gen.base.end_ids),
        )  # fmt: skip
        request = Request(ids, told)
        engine = V1Engine(self.requests, self.gen.base.model, random.Random(0), trouble=0)
        engine.add(request)
        engine.run()
        ends = self.gen.base.end_ids
        data = b"".join(
            self.gen.base.vocabulary.tokens[id] or b"" for id in request.outputs if id not in ends
        )
        text = data.decode(errors="replace")
        cut = min((place for each in stop if (place := text.find(each)) >= 0), default=None)
        return text[:cut], "stop" if cut is not None else request.finished

    def ask(self, body: Any, path: str = CHAT, method: str = "POST", **scope: Any) -> Answer:
        """One request, its body in two pieces."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        middle = len(data) // 2
        pieces = [
            {"type": "http.request", "body": data[:middle], "more_body": True},
            {"type": "http.request", "body": data[middle:], "more_body": False},
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return pieces.pop(0) if pieces else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        whole = {
            "type": "http", "method": method, "path": path, "root_path": "", "app": self,
            "headers": [(b"content-length", str(len(data)).encode())],
        }  # fmt: skip
        asyncio.run(self.middleware(whole | scope, receive, send))
        return Answer(sent)


class Answer:
    """What a client got."""

    def __init__(self, sent: list[Any]) -> None:
        self.status, self.headers = sent[0]["status"], dict(sent[0]["headers"])
        self.chunks = [each["body"] for each in sent[1:]]
        self.data = b"".join(self.chunks)
        assert int(self.headers.get(b"content-length", len(self.data))) == len(self.data)

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def events(self) -> list[Any]:
        *events, rest = self.data.split(b"\n\n")
        assert rest == b"" and events[-1] == b"data: [DONE]"
        return [json.loads(each[6:]) for each in events[:-1] if not each.startswith(b":")]


def answers(text: str, finish: str | None, path: str, stream: bool) -> tuple[list[bytes], bytes]:
    """An answer as vLLM sends it; a stream is cut at places that mean nothing."""
    ended = {"index": 0, "finish_reason": finish}
    if not stream:
        said = {"message": {"content": text}} if path == CHAT else {"text": text}
        data = json.dumps({"id": "x", "choices": [ended | said], "usage": {}}).encode()
        return [data[:7], data[7:]], b"application/json"
    choices: list[Any] = []
    for char in text:
        said = {"delta": {"content": char}} if path == CHAT else {"text": char}
        choices.append({"index": 0, "finish_reason": None} | said)
    choices.append(ended | ({"delta": {}} if path == CHAT else {"text": ""}))
    events = [{"choices": [each]} for each in choices] + [{"choices": [], "usage": {}}]
    data = b": keep-alive\n\n" + b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in events)
    data += b"data: [DONE]\n\n"
    cuts = [0, *sorted(random.Random(1).sample(range(len(data)), 20)), len(data)]
    pieces = [data[one:two] for one, two in pairwise(cuts)]
    return pieces, b"text/event-stream; charset=utf-8"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two vocabularies; the base has a beginning of texts and reads Gemma's control tokens."""
    saved = []
    for role, architecture, kind in (
        ("base", "gemma3", "sentencepiece"), ("guide", "llama", "byte-level"),
    ):  # fmt: skip
        folder = tmp_path_factory.mktemp(role)
        for each in model(architecture, kind, len(saved)):
            each.save_pretrained(folder)
        saved.append(str(folder))
    return saved[0], saved[1]


@pytest.fixture(scope="module")
def gen(folders: tuple[str, str]) -> BlendInGenerator:
    lm, _ = model("gemma3", "sentencepiece", 0)
    return BlendInGenerator((lm, load_tokenizer(folders[0], {})), folders[1])


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
    assert server.counted.reports == [(report["policy"]["name"], report)]


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
    body = {"prompt": prompt, "blendin": ours, "stream": stream}
    text, report = text_of(server.ask(body, COMPLETIONS), stream)
    assert text == out.text and report["interventions"] == out.interventions
    ids = server.gen.base.encode_prompt(prompt)
    again = server.ask(body | {"prompt": ids, "echo": True}, COMPLETIONS)
    assert text_of(again, stream) == (text, report)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "Hi"}),
        (COMPLETIONS, {"prompt": ["Hi", "Ho"], "n": 3, "echo": True, "logprobs": 1}),
        (COMPLETIONS, {"prompt": "Hi", "blendin": False, "best_of": 2}),
        ("/v1/embeddings", {"input": "Hi", "blendin": {}}),
        ("/v1/chat/completions/render", {"messages": []}),
        (CHAT, b"[1]"),
        (CHAT, b"{"),
    ],
)
def test_what_does_not_ask_passes_as_it_is(server: Server, path: str, body: Any) -> None:
    server.status = 400  # whatever vLLM makes of it
    answer = server.ask(body, path)
    assert answer.json == {"error": {"message": "vLLM says no"}}
    left = body if isinstance(body, bytes) else {k: v for k, v in body.items() if v is not False}
    if path == "/v1/embeddings":
        left = body
    assert server.seen == [{} if isinstance(left, bytes) else left]
    assert not server.counted.began_with and not server.counted.refusals


def test_a_chat_without_us_is_the_bases_own(server: Server) -> None:
    text, report = text_of(server.ask({"messages": QUESTION, "blendin": False, "n": 1}), False)
    assert report is ABSENT and "vllm_xargs" not in server.seen[0]
    assert text == server.gen.generate(QUESTION, policy="base", max_new_tokens=LENGTH).text


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
    (CHAT, {"blendin": {"id": "x"}}, "blendin has id"),
    (CHAT, {"blendin": {"key": "x"}}, "blendin has key"),
    (CHAT, {"blendin": {"policy": "base"}, "model": "m:nudge"}, "name one"),
    (CHAT, {"blendin": {"guide_prompt": "a", "messages": QUESTION}}, "give one of them"),
    (CHAT, {"blendin": {"guide_prompt": "a"}, "chat_template_kwargs": {"a": 1}}, "give one"),
    (CHAT, {"blendin": {"chat_template_kwargs": {"messages": 1}}}, "sets itself"),
    (CHAT, {"blendin": False, "chat_template_kwargs": {"a": 1}}, "no guide is asked"),
    (CHAT, {"blendin": {"guide_prompt_ids": [10**6]}}, "does not know"),
    (CHAT, {"blendin": {"guide_prompt": "x " * 9000}}, "shorten the prompt"),
    (CHAT, {"blendin": {"messages": 5}}, "messages is 5"),
    (CHAT, {"blendin": {"messages": [{"role": "user", "content": 5}]}}, "the content 5"),
    (CHAT, {"blendin": {"trace": "no"}}, "trace"),
    (CHAT, {"vllm_xargs": {"blendin": "{}"}}, "vllm_xargs has blendin"),
    (CHAT, {"vllm_xargs": [1]}, "vllm_xargs is [1]"),
    *((CHAT, {name: value}, name) for name, value in {
        "n": 2, "presence_penalty": 0.5, "frequency_penalty": -1, "min_p": 0.1,
        "use_beam_search": True, "logit_bias": {"5": 1}, "thinking_token_budget": 5,
        "truncate_prompt_tokens": 5, "prompt_logprobs": 0, "kv_transfer_params": {"a": 1},
        "watermarking": True, "best_of": 3,
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
    (COMPLETIONS, {"prompt": "Hi", "blendin": {}}, "nothing to read"),
    (COMPLETIONS, {"prompt": "Hi", "blendin": {"policy": "nudge"}}, "nothing to read"),
    (COMPLETIONS, {"prompt": "Hi", "model": "m:blend"}, "nothing to read"),
    (COMPLETIONS, {"prompt": "Hi", "echo": True, "max_tokens": 0,
                   "blendin": {"guide_prompt": "a"}}, "echo"),
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
    assert message in error["message"] and error["type"] == "BadRequestError"
    assert error["code"] == 400 and not server.seen
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
            await asyncio.sleep(5)
        raise RuntimeError("the engine is dead")

    monkeypatch.setattr(server, "collective_rpc", rpc)
    monkeypatch.setattr(middleware_module, "PATIENCE", 0.05)
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
    assert server.ask({"messages": QUESTION, "n": 2}, headers=headers).json["error"]["code"] == 400


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


def test_prometheus_counts_by_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    prometheus = pytest.importorskip("prometheus_client", reason="blendin[vllm] is not installed")
    from blendin.vllm.metrics import Metrics

    registry = prometheus.CollectorRegistry()
    for name in ("Counter", "Histogram"):
        made: Callable[..., Any] = getattr(prometheus, name)
        monkeypatch.setattr(
            prometheus, name, lambda *a, made=made, **k: made(*a, registry=registry, **k)
        )
    series = Metrics()
    series.began("Blend")
    series.refused()
    series.finished(
        "Blend", {"steps": 8, "interventions": 2, "guide_forwards": 3, "intervention_rate": 0.25}
    )
    series.finished("Blend", {"error": "gone"})
    values = {
        f"{each.name}{each.labels.get('le', '')}": each.value
        for family in registry.collect()
        for each in family.samples
        if each.labels.get("policy", "Blend") == "Blend"
    }
    assert {
        "blendin_requests_total": 1, "blendin_refused_requests_total": 1,
        "blendin_unreported_requests_total": 1, "blendin_steps_total": 8,
        "blendin_interventions_total": 2, "blendin_guide_forwards_total": 3,
        "blendin_intervention_rate_bucket0.2": 0, "blendin_intervention_rate_bucket0.3": 1,
        "blendin_intervention_rate_count": 1, "blendin_intervention_rate_sum": 0.25,
    }.items() <= values.items()  # fmt: skip


def test_the_template_lies_where_the_command_says() -> None:
    assert Path(TEMPLATE).is_file()
