"""The server's routes, and what stands before them."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from ..page import page
from ..policy import GuideOnly
from ..prompts.encoding import prompt_ids
from ..protocol.errors import ApiError, refused, refusing
from ..protocol.fields import CHAT, CHAT_FIELDS, COMPLETION_FIELDS, COMPLETIONS, schema
from ..protocol.names import names_of
from ..protocol.prompts import read_messages
from ..values import Flag, encodable, told
from .answers import Answer
from .requests import read_chat, read_completion, read_model_and_ours
from .service import Reader, Service

T = TypeVar("T")

TOKENIZE = ("model", "prompt", "messages", "add_special_tokens", "return_token_strs", "blendin")
"""The fields of /tokenize."""

OPEN = ("/", "/health")
"""What anybody may ask: they tell nothing of texts."""

BODY_PATIENCE = 30.0
"""Seconds that a client may take to send a request."""

SEND_PATIENCE = 60.0
"""Seconds beyond a text's own that a client may take to read it."""

ABOUT = """OpenAI's API of a base model and a guide, blended token by token.

* The model `NAME` is decided by the server's policy, `NAME:POLICY` by another: `:base` and `:guide`
  are the models alone.
* **Greedy unless asked otherwise**: without `temperature`, `top_p`, `top_k`, `seed` and `n` above 1
  the likeliest token is taken. OpenAI's default is a draw at temperature 1.
* `blendin` in a request names a policy and its settings; `blendin` in an answer has its
  intervention rate and, with `trace`, every step.
* What would change the answer and is not supported is refused by its name.
"""


def application(service: Service) -> FastAPI:
    """The server's ASGI application."""
    app = FastAPI(title="blendin", version=__version__, description=ABOUT, redoc_url=None)
    app.state.service = service
    app.add_middleware(Guard, key=service.settings.api_key)
    if service.settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    app.add_exception_handler(ApiError, _as_answer)
    app.add_exception_handler(HTTPException, _as_answer)
    app.add_exception_handler(Exception, _as_answer)
    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post(CHAT, openapi_extra=schema(CHAT_FIELDS, "messages"))
    async def chat_completions(request: Request) -> Response:
        """Goes on with a conversation."""
        return await _answered(request, service, read_chat)

    @app.post(COMPLETIONS, openapi_extra=schema(COMPLETION_FIELDS, "prompt"))
    async def completions(request: Request) -> Response:
        """Goes on with prompts."""
        return await _answered(request, service, read_completion)

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        """The tokens of a `prompt`, or of `messages`, for the base; of `NAME:guide` the guide's."""
        body = await _body(request, service)
        return JSONResponse(await asyncio.to_thread(_tokens, body, service))

    @app.get("/v1/models")
    async def models() -> Response:
        """The pair under each policy."""
        return JSONResponse({"object": "list", "data": _models(service)})

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        """One of them."""
        found = next((each for each in _models(service) if each["id"] == name), None)
        if found is None:
            message = f"the model {told(name)} does not exist here"
            raise ApiError(404, message, param="model", code="model_not_found")
        return JSONResponse(found)

    @app.get("/health")
    async def health() -> Response:
        """200 as soon as requests are taken; 503 while the models are loaded."""
        return JSONResponse({"status": service.state()})

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.shown(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def window() -> Response:
        """The page, which asks this server."""
        headers = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        return HTMLResponse(page(), headers=headers)


class Guard:
    """Lets in who sends the key, where there is one."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 401."""
        if scope["type"] != "http" or self._key is None or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        is_right = hmac.compare_digest(key.strip(), self._key)
        if is_right and scheme.lower() == b"bearer":
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401, "the server's key is missing or wrong: send it as Authorization: Bearer KEY",
            code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
        await JSONResponse(error.body, 401, error.headers)(scope, receive, send)


class EventStream(Response):
    """Events as they come, until the client has all or hangs up."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes], answer: Answer, receive: Receive, patience: float
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._answer = events, answer
        self._receive, self._patience = receive, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends them."""
        try:
            async with asyncio.timeout(self._patience):
                await _unless_gone(self._receive, self._send_all(send))
        except (ClientGone, TimeoutError, OSError):
            pass  # nobody reads
        finally:
            self._answer.leave()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ClientGone(Exception):
    """The client has hung up."""


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives.

    Raises:
        ClientGone: the client hung up before; the work is cancelled.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _answered(request: Request, service: Service, read: Reader) -> Response:
    answer = await service.begin(await _body(request, service), read)
    try:
        if answer.asked.stream:
            patience = service.settings.request_timeout + SEND_PATIENCE
            return EventStream(service.events(answer), answer, request.receive, patience)
        return JSONResponse(await _unless_gone(request.receive, service.whole(answer)))
    except ClientGone:
        return Response(status_code=499)
    except BaseException:
        answer.leave()
        raise


async def _body(request: Request, service: Service) -> Mapping[str, Any]:
    """A request's JSON.

    Raises:
        ApiError: it is too large, too slow, or none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which pages of other origins cannot send unasked
        raise ApiError(415, "the request's Content-Type is not application/json: send JSON")
    most, data = service.settings.max_body_bytes, bytearray()
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            async for piece in request.stream():
                data += piece
                if len(data) > most:
                    raise ApiError(413, f"the request has more than {most} bytes: shorten it")
    except TimeoutError:
        raise ApiError(408, f"the request was not sent within {BODY_PATIENCE:g} s") from None
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise refused(f"the request is no JSON: {error}") from error
    if not isinstance(body, Mapping):
        raise refused(f"the request is {told(body)}: send a JSON object")
    return body


def _models(service: Service) -> list[dict[str, Any]]:
    pair, name = service.pair, service.settings.served_model_name
    lengths = [m.max_length for m in (pair.base, pair.guide) if m.max_length is not None]
    return [
        {
            "id": id, "object": "model", "created": service.started, "owned_by": "blendin",
            "root": f"{pair.base.name} + {pair.guide.name}",
            "max_model_len": min(lengths, default=None),
        }
        for id in names_of(name)
    ]  # fmt: skip


def _tokens(body: Mapping[str, Any], service: Service) -> dict[str, Any]:
    """What /tokenize answers."""
    pair = service.pair
    with refusing():
        given = {name: value for name, value in body.items() if value is not None}
        if unknown := sorted(given.keys() - set(TOKENIZE)):
            raise refused(f"{unknown[0]} is no field of /tokenize: leave it out", unknown[0])
        _, ours = read_model_and_ours(given, service.settings)
        role = "guide" if isinstance(ours.policy, GuideOnly) else "base"
        model = pair.model(role)
        if ("prompt" in given) == ("messages" in given):
            raise refused("/tokenize takes prompt or messages: give one of them", "prompt")
        if "messages" in given:
            messages = read_messages(given)
            render = pair.prompts.guide if role == "guide" else pair.prompts.base
            ids = list(render(messages).ids)
        elif not isinstance(given["prompt"], str):
            raise refused(f"prompt is {told(given['prompt'])}: give a text", "prompt")
        elif Flag()("add_special_tokens", given.get("add_special_tokens", True)):
            ids = prompt_ids(encodable("prompt", given["prompt"]), model.tokenizer)
        else:
            text = encodable("prompt", given["prompt"])
            ids = model.tokenizer.encode(text, add_special_tokens=False)
        strings = {}
        if Flag()("return_token_strs", given.get("return_token_strs", False)):
            strings = {"token_strs": model.tokenizer.convert_ids_to_tokens(ids)}
    return {"count": len(ids), "max_model_len": model.max_length, "tokens": ids, **strings}


async def _as_answer(request: Request, error: Exception) -> Response:
    """An error in OpenAI's form."""
    if isinstance(error, HTTPException):
        error = ApiError(
            error.status_code, f"{request.method} {request.url.path}: {error.detail}",
            headers=error.headers,
        )  # fmt: skip
    elif not isinstance(error, ApiError):
        error = ApiError(500, f"{type(error).__name__}: {error}")
    return JSONResponse(error.body, error.status, error.headers)
