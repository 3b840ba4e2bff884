"""A server of OpenAI completions as vLLM 0.32 gives them, from a tiny model, with faults to order.

Real HTTP on a real socket, so that a client meets what it meets outside: keep-alive, chunks,
connections that are refused, dropped and cut. Answers are greedy and each request is computed
alone, so they do not hang on company.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from socketserver import TCPServer
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one completion.

    Attributes:
        kind: "status": the answer is an error of that status. "hang": the answer comes late.
            "drop": the connection is closed without an answer. "cut": it is closed within the
            answer. "garbage": within a good answer there is a piece that is no JSON.
        status: of a "status".
        retry_after: the `Retry-After` of a "status", in seconds.
        after: how many tokens a stream gives before it is cut or garbled; where it ends sooner,
            that happens just before [DONE]. An answer that is not streamed is cut half-way.
        seconds: of a "hang".
    """

    kind: Literal["status", "hang", "drop", "cut", "garbage"]
    status: int = 503
    retry_after: float | None = None
    after: int = 0
    seconds: float = 0.0


Page = Callable[[dict[str, Any], Callable[[float], None]], dict[str, Any] | Iterator[Any]]
"""Answers a body, or streams; what it is given beside is to be called before each token."""


class FakeServer:
    """Serves one model on 127.0.0.1, from `start` (or `with`) to `stop`, as often as wanted.

    Attributes:
        port: 0 until the first start, where it was not given; the same from then on, and nobody
            else's as long as this object lives, stopped or not.
        requests: the bodies of the completions asked for, in order of arrival, refused and
            faulty ones too; the n-th is the one that `faults` was asked about with n.
        headers: theirs, with names in lower case.
        generated: how many tokens were computed.
        aborted: how many requests' clients went away before the end of the answer.
        in_flight: how many requests are being answered. A request has left before the last piece
            of its answer is sent, so that a client's next one is never in flight with it.
        most_in_flight: the highest `in_flight` so far.
        pages: further ones, or instead of its own, by their paths.
    """

    def __init__(
        self,
        model: tuple[Any, Any],
        *,
        name: str = "tiny",
        root: str | None = None,
        port: int = 0,
        max_model_len: int | None = None,
        max_logprobs: int = 100,
        delay: float = 0.0,
        api_key: str | None = None,
        token_ids: bool = True,
        faults: Callable[[int], Fault | None] = lambda n: None,
        lie: Callable[[dict[str, Any]], Any] = lambda answer: answer,
        card: dict[str, Any] | None = None,
        other_cards: tuple[dict[str, Any], ...] = (),
        tells_length: bool = True,
        tokens_an_event: int = 1,
        socket_path: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Makes a server that is not yet listening.

        Args:
            model: and its tokenizer.
            name: by which requests ask for it.
            root: where it says that it has the model from; its name by default.
            port: 0 for any free one.
            max_model_len: the model's own by default.
            max_logprobs: more than these are refused.
            delay: seconds before each token.
            api_key: without which requests are refused; None lets all in.
            token_ids: False for a server that knows no `return_tokens_as_token_ids`.
            faults: gives each completion's fault, by its number from 0.
            lie: makes of an answer, or an event of a stream, what is sent instead: JSON, a text as
                it is, or bytes.
            card: entries of the model's card in /v1/models; None leaves one out.
            other_cards: of further models.
            tells_length: False for a server whose /tokenize does not tell the context's length.
            tokens_an_event: of a stream, as vLLM's --stream-interval.
            socket_path: of a Unix socket to listen on, instead of a port.
            tls: to speak TLS with.
        """
        self.model, self.tokenizer = model
        config = self.model.config.get_text_config()
        self.name, self.root, self.port = name, root or name, port
        self.max_model_len: int = max_model_len or config.max_position_embeddings
        self.max_logprobs, self.delay, self.api_key = max_logprobs, delay, api_key
        self.token_ids, self.faults = token_ids, faults
        self.lie, self.card, self.tokens_an_event = lie, card or {}, tokens_an_event
        self.socket_path, self.tls = socket_path, tls
        self.other_cards, self.tells_length = other_cards, tells_length
        self.vocab_size: int = config.vocab_size
        ends = self.model.generation_config.eos_token_id
        self.ends = frozenset([ends] if isinstance(ends, int) else ends or ())

        self.pages: dict[str, Page] = {}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.generated = self.aborted = self.in_flight = self.most_in_flight = 0
        self.counting = threading.Lock()
        self._computing = threading.Lock()
        self._listener: _Listener | None = None
        self._kept: socket.socket | None = None

    @property
    def url(self) -> str:
        if self.socket_path is not None:
            return f"unix://{self.socket_path}"
        return f"http{'s' * (self.tls is not None)}://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        if self._listener is not None:
            raise RuntimeError("already started")
        if self.socket_path is None and self._kept is None:
            self._keep_port()
        self._listener = _Listener(self)
        threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    def _keep_port(self) -> None:
        """Binds a socket that never listens, so that a stopped server's port refuses connections.

        Else another process may have it by the time that the server starts again, or a client that
        connects to it may be given it as its own port, and meets itself.
        """
        self._kept = socket.socket()
        weakref.finalize(self, self._kept.close)
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", self.port))
        self.port = self._kept.getsockname()[1]

    def stop(self) -> None:
        """Ends as a killed process does: streams break off, and connecting is refused."""
        if self._listener is not None:
            self._listener.die()
            self._listener = None

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def arrived(self, body: dict[str, Any], headers: dict[str, str]) -> int:
        """Takes a completion in, and gives its number."""
        with self.counting:
            self.requests.append(body)
            self.headers.append(headers)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            return len(self.requests) - 1

    # -- what is answered --------------------------------------------------------------------------

    def tokenize(self, body: dict[str, Any]) -> list[int]:
        """The prompt's tokens; special ones are added unless that is forbidden, as by vLLM."""
        special = body.get("add_special_tokens", True)
        return self.tokenizer.encode(body["prompt"], add_special_tokens=special)

    @torch.inference_mode()
    def _read(self, ids: list[int], cache: Any, every: bool = False) -> tuple[Tensor, Any]:
        """Log-probabilities after the last token or after every one, `[n, V]`, and the cache."""
        with self._computing:
            output = self.model(
                input_ids=torch.tensor([ids], device=self.model.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=0 if every else 1,
            )
        rows = torch.log_softmax(output.logits[0], dim=-1, dtype=torch.float32)
        return rows, output.past_key_values

    def complete(self, ask: _Ask, wait: Callable[[float], None]) -> Iterator[_Piece]:
        """The completion, a token a piece; an echoed prompt is in one with the first token.

        Args:
            ask: for what.
            wait: is called before each token with the delay; may raise.
        """
        rows, cache = self._read(ask.prompt, None, every=ask.echo)
        echo, told = [], ""
        if ask.echo:
            echo = [_Token(ask.prompt[0]), *_scored(rows[:-1], ask.prompt[1:], ask.logprobs)]
            told = self.tokenizer.decode(ask.prompt, skip_special_tokens=True)
        if ask.max_tokens == 0:
            yield _Piece(echo, told, "length")
            return
        writer = _Writer(self.tokenizer, ask.prompt)
        for left in reversed(range(ask.max_tokens)):
            wait(self.delay)
            token = int(rows[-1].argmax())  # the first of equals
            with self.counting:
                self.generated += 1
            ended = token in self.ends and not ask.ignore_eos
            finish = "stop" if ended else None if left else "length"
            text = told + writer.add(token, last=finish is not None)
            yield _Piece([*echo, *_scored(rows[-1:], [token], ask.logprobs)], text, finish)
            if finish is not None:
                return
            echo, told = [], ""
            rows, cache = self._read([token], cache)

    def choice(self, ask: _Ask, piece: _Piece, offset: int) -> dict[str, Any]:
        """One piece as a choice of an answer; `offset` characters went before it."""

        def name(id: int) -> str:
            return f"token_id:{id}" if ask.as_ids else self.tokenizer.decode([id])

        logprobs: dict[str, Any] | None = None
        if ask.logprobs is not None:
            logprobs = {"text_offset": [], "token_logprobs": [], "tokens": [], "top_logprobs": []}
            for token in piece.tokens:
                logprobs["text_offset"].append(offset)
                logprobs["token_logprobs"].append(token.logprob)
                logprobs["tokens"].append(name(token.id))
                top = token.top and {name(id): value for id, value in token.top.items()}
                logprobs["top_logprobs"].append(top)
                offset += len(logprobs["tokens"][-1])  # vLLM's: of the name, not of the text
        return {
            "index": 0,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish,
            "stop_reason": None,
        }


# -- computing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Token:
    """A token with its log-probability and the best ones' at its place, itself first.

    The first of a prompt has neither.
    """

    id: int
    logprob: float | None = None
    top: dict[int, float] | None = None


@dataclass(frozen=True)
class _Piece:
    tokens: list[_Token]
    text: str
    finish: str | None


def _scored(rows: Tensor, ids: list[int], logprobs: int | None) -> list[_Token]:
    """Tokens with `logprobs` others, from the log-probabilities `[n, V]` at their places."""
    if logprobs is None:
        return [_Token(id) for id in ids]
    rows = rows.clamp(min=-9999.0)  # JSON has no infinity
    places = torch.tensor(ids, dtype=torch.long, device=rows.device)
    own = rows.gather(1, places[:, None])[:, 0].tolist()
    top = rows.topk(min(logprobs, rows.shape[1]))
    return [
        _Token(id, value, {id: value, **dict(zip(best, values, strict=True))})
        for id, value, best, values in zip(
            ids, own, top.indices.tolist(), top.values.tolist(), strict=True
        )
    ]


class _Writer:
    """Tells what each token adds to the text; a character's first bytes wait for its last."""

    def __init__(self, tokenizer: Any, prompt: list[int]) -> None:
        self.tokenizer = tokenizer
        self.ids = prompt[-4:]  # a decoder may strip the first token's blank
        self.told = len(self._decoded())

    def _decoded(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=True)

    def add(self, token: int, last: bool) -> str:
        self.ids.append(token)
        text = self._decoded()
        if text.endswith("\ufffd") and not last:
            return ""
        added, self.told = text[self.told :], len(text)
        return added


# -- requests --------------------------------------------------------------------------------------


class _Refused(Exception):
    """An error answer in vLLM's form."""

    def __init__(
        self, message: str, param: str | None, status: int = 400, kind: str = "BadRequestError"
    ) -> None:
        self.status = status
        error = {"message": message, "type": kind, "param": param, "code": status}
        self.answer = {"error": error}


@dataclass(frozen=True)
class _Ask:
    """A completion's request, found to be in order."""

    prompt: list[int]
    max_tokens: int
    logprobs: int | None
    stream: bool
    echo: bool
    ignore_eos: bool
    as_ids: bool

    @staticmethod
    def of(body: dict[str, Any], fake: FakeServer) -> _Ask:
        _check_model(body, fake)
        if body.get("temperature") != 0:
            raise _Refused("Only temperature 0 is served here.", "temperature")
        echo = bool(body.get("echo"))
        return _Ask(
            *_prompt_and_length(body, fake, echo),
            logprobs=_logprobs(body, fake),
            stream=bool(body.get("stream")),
            echo=echo,
            ignore_eos=bool(body.get("ignore_eos")),
            as_ids=fake.token_ids and bool(body.get("return_tokens_as_token_ids")),
        )


def _check_model(body: dict[str, Any], fake: FakeServer) -> None:
    if body.get("model") not in (None, fake.name):
        message = f"The model `{body['model']}` does not exist."
        raise _Refused(message, "model", 404, "NotFoundError")


def _prompt_and_length(body: dict[str, Any], fake: FakeServer, echo: bool) -> tuple[list[int], int]:
    prompt = fake.tokenize(body) if isinstance(body.get("prompt"), str) else body.get("prompt")
    if not isinstance(prompt, list) or not all(type(id) is int for id in prompt):
        raise _Refused("The prompt must be a text or a list of token ids.", "prompt")
    if not prompt:
        raise _Refused("The decoder prompt cannot be empty", "prompt")
    if strange := [id for id in prompt if not 0 <= id < fake.vocab_size]:
        raise _Refused(f"Token id {strange[0]} is out of vocabulary", "prompt")
    length = 16 if body.get("max_tokens") is None else body["max_tokens"]
    if type(length) is not int or length < (0 if echo else 1):
        raise _Refused(f"max_tokens must be at least 1, got {length}.", "max_tokens")
    if len(prompt) + length > fake.max_model_len:
        raise _Refused(
            f"You passed {len(prompt)} input tokens and requested {length} output tokens. "
            f"However, the model's context length is only {fake.max_model_len} tokens, resulting "
            f"in a maximum input length of {fake.max_model_len - length} tokens. Please reduce "
            "the length of the input prompt.",
            "input_tokens",
        )
    return prompt, length


def _logprobs(body: dict[str, Any], fake: FakeServer) -> int | None:
    count = body.get("logprobs")
    if count is not None and type(count) is not int:
        raise _Refused("`logprobs` must be an integer.", "logprobs")
    if count is not None and count < 0:
        raise _Refused("`logprobs` must be a positive value or -1.", "logprobs")
    if count is not None and count > fake.max_logprobs:
        raise _Refused(
            f"Requested sample logprobs of {count}, which is greater than max allowed: "
            f"{fake.max_logprobs}",
            "logprobs",
        )
    return count


# -- connections -----------------------------------------------------------------------------------


class _Listener(ThreadingHTTPServer):
    """One life of a server: the listening socket, and the connections it has accepted."""

    daemon_threads = True
    request_queue_size = 2048

    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake
        self.dying = False
        self.connections: set[socket.socket] = set()
        self.change = threading.Condition()
        place: Any = ("127.0.0.1", fake.port)
        if fake.socket_path is not None:
            self.address_family, place = socket.AF_UNIX, fake.socket_path
        super().__init__(place, _Connection)
        if fake.tls is not None:
            self.socket = fake.tls.wrap_socket(self.socket, server_side=True)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks the DNS for our name
        self.server_name, self.server_port = "localhost", self.fake.port

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.change:
            self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self.change:  # within the lock: `die` must not shut a socket that is already closed
            super().shutdown_request(request)
            self.connections.discard(request)
            self.change.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def die(self) -> None:
        """Stops listening, cuts every connection and waits until none is left.

        A socket is shut rather than closed, which would leave its thread waiting for ever.
        """
        self.dying = True
        self.shutdown()
        self.server_close()
        with self.change:
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # the client was faster
                    pass
            if not self.change.wait_for(lambda: not self.connections, timeout=60):
                raise RuntimeError(f"{len(self.connections)} connections do not end")


class _Connection(BaseHTTPRequestHandler):
    """One client's connection; its requests come one after another, in a thread of their own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener
    in_flight = False

    def setup(self) -> None:
        self.disable_nagle_algorithm = self.server.address_family != socket.AF_UNIX
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        fake = self.server.fake
        card = {"id": fake.name, "object": "model", "created": int(time.time())}
        card |= {"owned_by": "vllm", "root": fake.root, "max_model_len": fake.max_model_len}
        card = {name: value for name, value in (card | fake.card).items() if value is not None}
        if not self._may_enter():
            self._answer(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            cards = [card, *fake.other_cards]
            self._answer(200, {"object": "list", "data": cards})
        else:
            self._answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise _Refused("The body must be an object.", None)
            if self.path in self.server.fake.pages:
                self._page(self.server.fake.pages[self.path], body)
            elif self.path == "/v1/completions":
                self._completion(body)
            elif not self._may_enter():
                self._answer(401, {"error": "Unauthorized"})
            elif self.path == "/tokenize":
                self._tokens(body)
            else:
                self._answer(404, {"detail": "Not Found"})
        except _Refused as refusal:
            self._answer(refusal.status, refusal.answer)
        except json.JSONDecodeError as error:
            self._answer(400, _Refused(str(error), None).answer)

    def _page(self, page: Page, body: dict[str, Any]) -> None:
        """A page of another engine: one answer, or a stream of them."""
        fake = self.server.fake
        fake.arrived(body, {name.lower(): v for name, v in self.headers.items()})
        self.in_flight = True
        try:
            answer = page(body, self._wait)
            if isinstance(answer, dict):
                self._answer(200, fake.lie(answer))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for each in answer:
                told = fake.lie(each)
                self.wfile.write(_event(told if isinstance(told, str) else json.dumps(told)))
            self._leave()
            self.wfile.write(_event("[DONE]") + b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True
            with fake.counting:
                fake.aborted += not self.server.dying
        finally:
            self._leave()

    def _may_enter(self) -> bool:
        key = self.server.fake.api_key
        return key is None or self.headers.get("Authorization") == f"Bearer {key}"

    def _tokens(self, body: dict[str, Any]) -> None:
        fake = self.server.fake
        _check_model(body, fake)
        if not isinstance(body.get("prompt"), str):
            raise _Refused("The prompt must be a text.", "prompt")
        ids = fake.tokenize(body)
        answer = {"count": len(ids), "tokens": ids}
        if fake.tells_length:
            answer["max_model_len"] = fake.max_model_len
        self._answer(200, answer | {"token_strs": None})

    def _completion(self, body: dict[str, Any]) -> None:
        fake = self.server.fake
        number = fake.arrived(body, {name.lower(): v for name, v in self.headers.items()})
        self.in_flight = True
        try:
            fault = fake.faults(number)
            if fault is not None and fault.kind == "drop":
                self.close_connection = True
            elif fault is not None and fault.kind == "status":
                error = _Refused("A fault to order", None, fault.status, "FakeError").answer
                self._answer(fault.status, error, retry_after=fault.retry_after)
            else:
                if fault is not None and fault.kind == "hang":
                    self._wait(fault.seconds)
                if not self._may_enter():
                    self._answer(401, {"error": "Unauthorized"})
                    return
                ask = _Ask.of(body, fake)
                head = {"id": f"cmpl-{number}", "object": "text_completion"}
                head |= {"created": int(time.time()), "model": fake.name}
                (self._stream if ask.stream else self._whole)(ask, head, fault)
        except _Refused as refusal:
            self._answer(refusal.status, refusal.answer)
        except ConnectionError:
            self.close_connection = True
            with fake.counting:
                fake.aborted += not self.server.dying
        finally:
            self._leave()

    def _whole(self, ask: _Ask, head: dict[str, Any], fault: Fault | None) -> None:
        pieces = list(self.server.fake.complete(ask, self._wait))
        tokens = [token for piece in pieces for token in piece.tokens]
        whole = _Piece(tokens, "".join(piece.text for piece in pieces), pieces[-1].finish)
        prompt, written = len(ask.prompt), len(tokens) - (len(ask.prompt) if ask.echo else 0)
        usage = {"prompt_tokens": prompt, "total_tokens": prompt + written}
        usage["completion_tokens"] = written
        answer = head | {"choices": [self.server.fake.choice(ask, whole, 0)], "usage": usage}
        if fault is not None and fault.kind == "garbage":
            self._answer(200, "<html>Bad Gateway</html>")
        else:
            answer = self.server.fake.lie(answer)
            self._answer(200, answer, cut=fault is not None and fault.kind == "cut")

    def _stream(self, ask: _Ask, head: dict[str, Any], fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        spoilt = fault if fault is not None and fault.kind in ("cut", "garbage") else None
        fake = self.server.fake
        pieces = islice(fake.complete(ask, self._wait), spoilt and spoilt.after)
        offset = 0
        while some := list(islice(pieces, fake.tokens_an_event)):
            tokens = [token for each in some for token in each.tokens]
            piece = _Piece(tokens, "".join(each.text for each in some), some[-1].finish)
            choice = fake.choice(ask, piece, offset)
            told = fake.lie(head | {"choices": [choice]})
            # As vLLM: characters are sent as they are, U+2028 and its like too.
            told = told if isinstance(told, str | bytes) else json.dumps(told, ensure_ascii=False)
            self.wfile.write(_event(told) if isinstance(told, str) else _chunk(told))
            offset += len(piece.text)
        if spoilt is not None and spoilt.kind == "cut":
            self.close_connection = True
            return
        if spoilt is not None:
            self.wfile.write(_event('{"choices": [{"index": 0, "te'))
        self._leave()
        self.wfile.write(_event("[DONE]") + b"0\r\n\r\n")

    def _answer(
        self, status: int, answer: Any, *, retry_after: float | None = None, cut: bool = False
    ) -> None:
        """Sends a whole answer, a text as it is and anything else as JSON."""
        if not isinstance(answer, str | bytes):
            answer = json.dumps(answer, ensure_ascii=False)
        payload = answer.encode() if isinstance(answer, str) else answer
        self._leave()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if retry_after is not None:
            self.send_header("Retry-After", f"{retry_after:g}")
        self.end_headers()
        self.wfile.write(payload[: len(payload) // 2] if cut else payload)
        self.close_connection |= cut

    def _leave(self) -> None:
        if self.in_flight:
            self.in_flight = False
            with self.server.fake.counting:
                self.server.fake.in_flight -= 1

    def _wait(self, seconds: float) -> None:
        """Waits; raises a ConnectionError as soon as the client is gone or the server stops."""
        poll = select.poll()  # `select.select` knows no descriptor above 1023
        poll.register(self.connection, select.POLLIN)
        if poll.poll(seconds * 1000):
            is_tls = isinstance(self.connection, ssl.SSLSocket)  # in which nobody can peek
            if is_tls or not self.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionAbortedError("the client is gone")
            time.sleep(seconds)  # it sent its next request ahead
        if self.server.dying:
            raise ConnectionAbortedError("the server stops")


def _event(data: str) -> bytes:
    """A server-sent event, as one chunk."""
    return _chunk(f"data: {data}\n\n".encode())


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(payload), payload)
