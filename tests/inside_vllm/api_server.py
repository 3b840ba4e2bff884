"""A stand-in for vLLM's API server, the middleware around it: its worker runs a tiny pair."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from conftest import model
from stand_in import Request, V1Engine, params

from blendin import BlendInGenerator
from blendin.models.loader import load_tokenizer
from blendin.protocol.fields import CHAT, COMPLETIONS
from blendin.vllm import worker as worker_module
from blendin.vllm.exchange import Refusal
from blendin.vllm.launch import TEMPLATE
from blendin.vllm.middleware import Middleware

LENGTH = 12
"""Tokens that it makes where a request sets no limit."""


def save_pair(place: Callable[[str], Path]) -> tuple[str, str]:
    """The folders of two models; the base has a beginning of texts and reads control tokens.

    Args:
        place: makes a folder of a name.
    """
    saved = []
    for role, architecture, kind in (
        ("base", "gemma3", "sentencepiece"), ("guide", "llama", "byte-level"),
    ):  # fmt: skip
        folder = place(role)
        for each in model(architecture, kind, len(saved)):
            each.save_pretrained(folder)
        saved.append(str(folder))
    return saved[0], saved[1]


def load_pair(base: str, guide: str) -> BlendInGenerator:
    """The pair in the folders, as the local engine runs it."""
    lm, _ = model("gemma3", "sentencepiece", 0)
    return BlendInGenerator((lm, load_tokenizer(base, {})), guide)


class Counted:
    """What would go to Prometheus."""

    def __init__(self) -> None:
        self.began_with: list[str] = []
        self.reports: list[tuple[str, str, Any]] = []
        self.refusals = 0

    def began(self, policy: str) -> None:
        self.began_with.append(policy)

    def refused(self) -> None:
        self.refusals += 1

    def finished(self, policy: str, reason: str, report: Any) -> None:
        self.reports.append((policy, reason, report))


class Server:
    """vLLM's application as the middleware sees it: its state, its two routes, its workers.

    Attributes:
        seen: the bodies that came through.
    """

    def __init__(self, gen: BlendInGenerator, base: str, guide: str, **own: Any) -> None:
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
            model_config=config,
            additional_config={"blendin": {"guide": guide, "default_max_tokens": LENGTH} | own},
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
        if scope["method"] == "GET":
            chunks = [data[:7], data[7:]]  # as an answer that was asked for
        elif body and self.status == 200:
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
        if type(prompt) is list and type(prompt[0]) is not int:
            (prompt,) = prompt
        adds = body.get("add_special_tokens", path == COMPLETIONS)
        ids = tokenizer.encode(prompt, add_special_tokens=adds) if type(prompt) is str else prompt
        stop = body.get("stop") or []
        told = params(
            extra_args=body.get("vllm_xargs"), max_tokens=body.get("max_tokens", 16), stop=stop,
            all_stop_token_ids=set(self.gen.base.end_ids), top_p=body.get("top_p", 1.0),
            temperature=body.get("temperature", 1.0), seed=body.get("seed"),
            min_p=body.get("min_p") or 0.0,
            repetition_penalty=body.get("repetition_penalty") or 1.0,
            top_k=body.get("top_k", 0),
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
