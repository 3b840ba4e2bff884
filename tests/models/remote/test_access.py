"""How servers are reached: addresses, keys, headers, authorities, sockets, forks, full contexts."""

from __future__ import annotations

import gc
import logging
import os
import ssl
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from email.utils import formatdate
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from children import in_child
from conftest import generator, model
from fake_server import FakeServer, Fault
from serving import until
from test_remote import BASE, GUIDE, PROMPTS, folder, pair, run_out_sooner, same
from typer.testing import CliRunner

from blendin import BaseOnly, Blend, BlendInGenerator, GuideOnly
from blendin.cli.app import app
from blendin.evaluation.tasks import registry
from blendin.evaluation.tasks.task import Item
from blendin.models.remote.address import address, is_url, page, refuse_what_should_be_a_url
from blendin.models.remote.credentials import headers_from_environment
from blendin.models.remote.errors import PassingError, ServerError, retry_after
from blendin.models.remote.replicas import Replicas

SECRET = "sk-very-secret-0123456789"
AUTHORITY = str(Path(__file__).parent / "authority.pem")


def load(url: str, own: Any = BASE, **options: Any) -> BlendInGenerator:
    return BlendInGenerator(url, model(*GUIDE), base_kwargs={"tokenizer": folder(own), **options})


# -- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://localhost:port/v1", "port is no number"),
        ("http://localhost:99999/v1", "port is no number"),
        ("http://localhost:0/v1", "port is no number"),
        ("http://localhost:-1/v1", "port is no number"),
        ("http://[::1/v1", "host is none"),
        ("http://ho st/v1", "no server's URL"),
        ("http://host/v1\n", "at=None"),
        ("http://host:8000/v1?x=1", "no server's URL"),
        ("http://", "no server's URL"),
        ("http://a/v1,,http://b/v1", "no server's URL"),
        ("http+unix://vllm.sock/v1", "not absolute"),
        ("localhost:8000/v1", "write http://localhost:8000/v1"),
        ("localhost:8000", "write http://localhost:8000"),
        ("10.0.0.5:8000/v1#base", "write http://10.0.0.5:8000/v1#base"),
        ("[::1]:8000/v1", r"write http://\[::1\]:8000/v1"),
        ("//localhost:8000/v1", "write http://localhost:8000/v1"),
        ("gpu.example.com/v1", "write http://gpu.example.com/v1"),
        ("localhost/v1", "write http://localhost/v1"),
        ("ftp://host/v1", "scheme ftp"),
        ("grpc://host:8000", "scheme grpc"),
        ("htttp://host:8000/v1", "scheme htttp"),
    ],
)
@pytest.mark.parametrize("role", ["base", "guide"])
def test_what_is_no_address_is_told_before_any_model_is_loaded(
    url: str, told: str, role: str
) -> None:
    if told == "at=None":  # trimmed, as a line that was read from a file
        assert address(url).urls == ("http://host/v1",)
        return
    sides: dict[str, Any] = {"base": "/no/such/folder", "guide": "/no/such/folder"} | {role: url}
    if role == "guide":
        sides["base"] = model(*BASE)
    with pytest.raises(ValueError, match=told):
        BlendInGenerator(**sides)


def test_a_secret_in_a_url_is_not_told() -> None:
    for url in (f"http://me:{SECRET}@host/v1", f"http://me:{SECRET}@[::1/v1"):
        with pytest.raises(ValueError) as refused:
            BlendInGenerator(url, model(*GUIDE))
        assert SECRET not in shown(refused.value)


def test_folders_and_hub_ids_are_no_addresses(tmp_path: Path) -> None:
    for name in ("org/model", "gpt2", "org/model-1.5", "C:\\models\\x", str(tmp_path), "a/b/v1.1"):
        assert not is_url(name)
        refuse_what_should_be_a_url(name, "base")


def test_schemes_are_read_in_either_case() -> None:
    assert is_url("HTTP://host:8000/v1") and is_url(" http://host/v1")
    assert address(" http://a:1/v1/ , http://b:2/v1#m ").urls == ("http://a:1/v1", "http://b:2/v1")


@pytest.mark.parametrize("form", ["unix://{}", "http+unix://{quoted}/v1"])
def test_a_unix_socket_is_an_address(tmp_path: Path, form: str) -> None:
    path = tmp_path / "A Server.sock"
    with FakeServer(model(*BASE), socket_path=str(path)) as server:
        url = form.format(path, quoted=str(path).replace("/", "%2F").replace(" ", "%20"))
        gen = load(url)
        same(
            gen.generate(PROMPTS[0], max_new_tokens=10),
            generator(BASE, GUIDE).generate(PROMPTS[0], max_new_tokens=10),
        )
        assert server.headers[-1]["host"] == "localhost"
    with pytest.raises(ServerError, match=r"A(%20| )Server\.sock"):
        load(url)
    assert page(url, "completions").endswith("/v1/completions")
    assert page(url, "/tokenize").endswith("socket/tokenize")


# -- keys and headers ------------------------------------------------------------------------------


def shown(error: BaseException) -> str:
    """Everything that an error may print."""
    chain, each = [], error
    while each is not None:
        chain += [repr(each), str(each)]
        each = each.__cause__ if each.__suppress_context__ else each.__context__  # type: ignore
    return "\n".join([*chain, *traceback.format_exception(error)])


@pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t", "\n\n  "])
def test_a_key_is_trimmed(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLENDIN_API_KEY", f"{end}{SECRET}{end}")
    with FakeServer(model(*BASE), api_key=SECRET) as server:
        load(server.url).generate("Hi", max_new_tokens=2)
        assert server.headers[-1]["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    "key",
    [
        f"{SECRET}\nX-Other: 1", f"{SECRET}\r\n{SECRET}", f"{SECRET} x", f"Bearer {SECRET}",
        f"{SECRET}é", f"\ufeff{SECRET}", f"{SECRET}\x00".replace("\x00", "\x01"), f"{SECRET}\x7f",
        f"{SECRET}\u2028x", f"“{SECRET}”", f"{SECRET}\udc80",
    ],
)  # fmt: skip
@pytest.mark.parametrize("variable", ["BLENDIN_API_KEY", "BLENDIN_BASE_API_KEY"])
def test_a_key_that_no_header_may_hold_is_refused_untold(
    key: str, variable: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(variable, key)
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(ValueError, match=rf"\${variable} is no API key") as refused:
            load("http://127.0.0.1:9/v1")
        assert SECRET not in shown(refused.value) + caplog.text


def test_the_command_line_tells_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (f"{SECRET}\nX-Other: 1", f"{SECRET} x"):
        monkeypatch.setenv("BLENDIN_API_KEY", key)
        told = CliRunner().invoke(app, ["generate", "Hi", "--base", "http://127.0.0.1:9/v1"])
        assert told.exit_code == 2 and SECRET not in told.output + told.stderr
        assert "$BLENDIN_API_KEY is no API key" in told.output
        assert "Traceback" not in told.output


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_server_that_quotes_the_key_is_not_quoted(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BLENDIN_API_KEY", SECRET)
    mine = {"X-Team-Token": "another-secret"}
    with FakeServer(model(*BASE)) as server, caplog.at_level(logging.DEBUG):
        gen = load(server.url, headers=mine, patience=300)
        run_out_sooner(monkeypatch, 600)
        assert server.headers[-1]["x-team-token"] == "another-secret"
        said = f"no key like {SECRET} or another-secret"
        server.lie = lambda answer: {"error": {"message": said, "code": status}}
        for attempt in (
            lambda: load(server.url, headers=mine),
            lambda: gen.generate("Hi", max_new_tokens=2),
        ):
            with pytest.raises(ServerError, match="no key like") as refused:
                attempt()
            told = shown(refused.value) + caplog.text + repr(gen.base) + repr(vars(gen.base))
            assert SECRET not in told and "another-secret" not in told


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Key": f"{SECRET}\nHost: x"}, {"X-Key": f"{SECRET}é"}, {"X-Key": 5}, {"X-Key": None},
        {"X Key": SECRET}, {"": SECRET}, {5: SECRET}, {"Host": SECRET}, {"content-length": SECRET},
        [("X-Key", SECRET)], SECRET,
    ],
)  # fmt: skip
def test_headers_that_cannot_be_are_refused_untold(headers: Any) -> None:
    with pytest.raises(ValueError, match="headers of the base") as refused:
        load("http://127.0.0.1:9/v1", headers=headers)
    assert SECRET not in shown(refused.value)


def test_a_header_of_ones_own_stands_in_the_place_of_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BLENDIN_API_KEY", SECRET)
    with FakeServer(model(*BASE)) as server:
        load(server.url, headers={"authorization": "Token mine "})
        assert server.headers[-1]["authorization"] == "Token mine"


# -- authorities -----------------------------------------------------------------------------------


@pytest.fixture
def private() -> Iterator[FakeServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(AUTHORITY)
    with FakeServer(model(*BASE), tls=context) as server:
        yield server


def test_a_private_authority_is_trusted_where_it_is_named(
    private: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServerError, match=f"{private.url}.*nobody vouches.*verify=.*SSL_CERT_FILE"):
        load(private.url)
    plain = generator(BASE, GUIDE).generate(PROMPTS[0], max_new_tokens=6)
    trusting = ssl.create_default_context(cafile=AUTHORITY)
    for verify in (AUTHORITY, Path(AUTHORITY), trusting):
        same(load(private.url, verify=verify).generate(PROMPTS[0], max_new_tokens=6), plain)
    with pytest.warns(UserWarning, match="not checked"):
        load(private.url, verify=False)
    monkeypatch.setenv("SSL_CERT_FILE", AUTHORITY)
    same(load(private.url).generate(PROMPTS[0], max_new_tokens=6), plain)


def test_an_authority_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    for verify in (str(tmp_path / "none.pem"), tmp_path / "no.pem"):
        with pytest.raises(ValueError, match=r"verify of the base is .*name a PEM file"):
            load("https://127.0.0.1:9/v1", verify=verify)
    for verify in (1, None, ["x"]):
        with pytest.raises(ValueError, match="verify of the base is a"):
            load("https://127.0.0.1:9/v1", verify=verify)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ValueError, match=r"\$SSL_CERT_FILE is .*name a PEM file"):
        load("https://127.0.0.1:9/v1")


def test_a_server_without_tls_is_told_from_one_that_is_away() -> None:
    with (
        FakeServer(model(*BASE)) as server,
        pytest.raises(ServerError, match=r"does not speak TLS.*use http://"),
    ):
        load(server.url.replace("http://", "https://"))


# -- on the command line ---------------------------------------------------------------------------


TO_SERVERS = ["--base-verify", AUTHORITY, "--base-header", "X-Team-Token=TEAM_TOKEN"]


def test_the_command_line_sends_headers_and_trusts_authorities(
    private: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_TOKEN", f" {SECRET}\n")
    monkeypatch.setenv("PROXY", "Token mine")
    base = ["--base", private.url, "--base-tokenizer", folder(BASE)]
    more = ["--base-header", "authorization=PROXY", "--policy", "base", "--max-new-tokens", "2"]
    same_guide = [each.replace("--base", "--guide") for each in base + TO_SERVERS]
    told = CliRunner().invoke(app, ["generate", "Hi", *base, *TO_SERVERS, *more, *same_guide])
    assert told.exit_code == 0 and SECRET not in told.output
    assert any(sent.get("authorization") == "Token mine" for sent in private.headers)
    assert all(sent["x-team-token"] == SECRET for sent in private.headers)


@pytest.mark.parametrize("command", ["generate", "chat", "compare", "evaluate", "diagnose"])
def test_all_commands_take_headers_and_authorities(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[dict[str, Any]] = []

    def load(**options: Any) -> None:
        loaded.append(options)
        raise ValueError("enough")

    monkeypatch.setattr("blendin.generator.BlendInGenerator", load)
    task = registry.TASKS["gsm8k"].task([Item("0", "How many?", Fraction(1), ())])
    monkeypatch.setattr(registry, "load", lambda *_, **__: task)
    monkeypatch.setenv("TEAM_TOKEN", SECRET)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hi\n")
    files = {
        "diagnose": ["--data", str(prompts), "--out", str(tmp_path / "out")],
        "evaluate": ["gsm8k", "--out", str(tmp_path)],
    }
    given = [*files.get(command, []), *(["Hi"] if command in ("generate", "compare") else [])]
    servers = ["--base", "https://a/v1", *TO_SERVERS, "--guide", "https://b/v1"]
    verify = ["--guide-verify", "off"]
    told = CliRunner().invoke(app, [command, *given, *servers, *verify], input="Hi\n")
    assert "enough" in told.output and told.exit_code == 2, told.output
    (options,) = loaded
    mine = {"headers": {"X-Team-Token": SECRET}, "verify": AUTHORITY}
    assert options["base_kwargs"] == mine and options["guide_kwargs"] == {"verify": False}
    assert not [name for name in options if "header" in name or "verify" in name]
    local = ["--base", "https://a/v1", "--guide", "some-model", *verify]
    told = CliRunner().invoke(app, [command, *given, *local], input="Hi\n")
    assert "--guide-verify has no effect where the guide is no server's URL" in told.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"X-Key={SECRET}", "number 1 is no NAME=VARIABLE"),
        (f"X-Key: {SECRET}", "number 1 is no NAME=VARIABLE"),
        (f"{SECRET}=", "number 1 is no NAME=VARIABLE"),
        (SECRET, "number 1 is no NAME=VARIABLE"),
        (f"={SECRET}", "number 1 is no NAME=VARIABLE"),
        ("X-Key=EMPTY", "number 1 is no NAME=VARIABLE"),
        ("X-Key=BROKEN", "'X-Key' is not printable"),
        ("Host=TEAM_TOKEN", "the name 'Host'"),
    ],
)
@pytest.mark.parametrize("role", ["base", "guide"])
def test_headers_that_name_no_variable_are_refused_untold(
    text: str, says: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_TOKEN", SECRET)
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("BROKEN", f"{SECRET}\nX-Other: 1")
    served = [f"--{role}", "http://127.0.0.1:9/v1", f"--{role}-header", text]
    told = CliRunner().invoke(app, ["generate", "Hi", *served])
    assert told.exit_code == 2 and SECRET not in told.output and "Traceback" not in told.output
    assert says in " ".join(told.output.split())


def test_a_header_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_TOKEN", SECRET)
    twice = ["X-Key=TEAM_TOKEN", "x-key=TEAM_TOKEN"]
    with pytest.raises(ValueError, match="--base-header number 2 is a header that is given before"):
        headers_from_environment("--base-header", twice)


# -- answers of other servers ----------------------------------------------------------------------


@pytest.fixture
def asked() -> list[str]:
    """The paths that `other`'s servers were asked for."""
    return []


@pytest.fixture
def other(asked: list[str]) -> Iterator[Callable[..., str]]:
    """Starts servers that answer everything alike."""
    started = []

    def start(status: int, content: str | bytes, **headers: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked.append(self.path)
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                data = content.encode() if isinstance(content, str) else content
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        started.append(http)
        return f"http://127.0.0.1:{http.server_port}/v1"

    yield start
    for http in started:
        http.shutdown()
        http.server_close()


def test_a_redirect_names_its_target(other: Callable[..., str]) -> None:
    for status in (301, 302, 307, 308):
        url = other(status, "", Location="https://gpu.example.com/v1/models")
        with pytest.raises(
            ServerError, match=f"{url} answers {status} and points to https://gpu.example.com/v1:"
        ):
            load(url)
    url = other(307, "", Location="/api/v1/models")
    with pytest.raises(ServerError, match=url.replace("/v1", "/api/v1:")):
        load(url)


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (400, '{"error": {"message": "no such thing"}}', "400: no such thing"),
        (400, '{"error": "no such thing"}', "400: no such thing"),
        (400, '{"message": "no such thing"}', "400: no such thing"),
        (400, '[{"error": {"message": "no such thing"}}]', "400: no such thing"),
        (422, '{"detail": [{"loc": ["body"], "msg": "field required"}]}', "422: .*field required"),
        (404, '{"detail": "Not Found"}', "404: Not Found"),
        (403, "<html>\n<h1>Forbidden</h1>\n</html>", "403: <html> <h1>Forbidden.*BLENDIN_BASE"),
        (400, "", "400: nothing"),
        (400, "[" * 100_000, r"400: \[\["),
        (400, "\x1b]0;title\x07 \x1b[2J no", r"400: \\x1b\]0;title\\x07 \\x1b\[2J no"),
        (400, '{"error": {"message": "\\u001b[2J"}}', r"400: \\x1b\[2J"),
        (400, b"\xff\xfe", "400: "),
        (400, '{"error": null}', "400: "),
        (400, '{"error": {"message": null}}', "400: "),
        (204, "", "204"),
        (500, "oh", "500: oh"),
        (200, "<html>Welcome</html>", "not JSON: '<html>Welcome"),
        (200, "[" * 100_000, "too deep"),
        (200, "9" * 9000, "number too long"),
        (200, "[]", r"lists no models .* but \[\]"),
        (200, "{}", r"lists no models .* but \{\}"),
        (200, '{"data": 5}', "lists no models .*5"),
        (200, '{"data": [5, "x", {"id": 3}]}', "serves nothing"),
        (200, b"\x1f\x8b no gzip", "not JSON"),
    ],
)
def test_what_is_no_such_server_is_told_in_one_line(
    other: Callable[..., str], asked: list[str], status: int, content: str | bytes, told: str
) -> None:
    url = other(status, content)
    began = time.monotonic()
    with pytest.raises(ServerError, match=told) as refused:
        load(url)
    said = str(refused.value)
    assert url in said and said.isprintable() and len(said) < 800
    assert asked == ["/v1/models"] and time.monotonic() - began < 60


def test_gated_tokenizers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from blendin.models.remote import loading

    def refuse(*_: object, **__: object) -> None:
        try:
            raise RuntimeError("Cannot access gated repo for url https://hub/x")
        except RuntimeError as error:
            raise OSError("You are trying to access a gated repo.") from error

    with FakeServer(model(*BASE), root="meta/secret-8B") as server:
        monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", refuse)
        with pytest.raises(ValueError, match=r"'meta/secret-8B' is gated.*hf auth login.*base_kw"):
            BlendInGenerator(server.url, model(*GUIDE))


# -- patience --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("30", 30, 30),
        ("0", 0, 0),
        ("1.5", 1.5, 1.5),
        ("86400", 86400, 86400),
        pytest.param(3600.0, 2700, 3600, id="in an hour"),
        pytest.param(-60.0, 0, 0, id="a minute ago"),
        ("-1", None, None),
        ("inf", None, None),
        ("nan", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_retry_after_is_read_as_it_is_sent(
    value: str | float, low: float | None, high: float | None
) -> None:
    if isinstance(value, float):  # from now, as a date
        value = formatdate(time.time() + value, usegmt=True)
    found = retry_after({"retry-after": value})
    if low is None or high is None:
        assert found is None
        return
    assert found is not None and low <= found <= high
    replicas, began = Replicas(["http://one/v1"]), time.monotonic()
    replicas.all[0].failed(PassingError("busy", found))
    rest, took = replicas.asked_rest, time.monotonic() - began
    assert max(0.1, found) - took - 1e-6 < rest <= max(0.1, found) + 1e-6
    assert Replicas(["http://one/v1", "http://two/v1"]).asked_rest == 0


def test_a_rest_that_is_longer_than_patience_is_told_at_once() -> None:
    busy = Fault("status", status=429, retry_after=300)
    with FakeServer(model(*BASE), faults=lambda n: busy if n > 1 else None) as server:
        gen = load(server.url, patience=250)
        began = time.monotonic()
        with pytest.raises(ServerError, match=rf"{server.url}.*Retry-After.*patience"):
            gen.generate(PROMPTS[0], max_new_tokens=200, policy=Blend(threshold=0.9))
        outs = gen.generate(list(PROMPTS), max_new_tokens=4, progress=False)
        assert all("Retry-After" in (out.error or "") for out in outs)
        assert time.monotonic() - began < 60


def test_bytes_without_an_end_do_not_outlast_patience() -> None:
    """Comments for ever: no time-out of the connection ends them."""
    with FakeServer(model(*BASE)) as server:
        gen = load(server.url, patience=1.2)
        gen.base._acceptance.held = 1e6  # type: ignore[attr-defined]  # so 128 tokens are asked for
        server.ends, server.delay = frozenset(), 1.0
        server.lie = lambda answer: b": still here\n\n"
        began = time.monotonic()
        with pytest.raises(ServerError, match=f"{server.url}.*patience"):
            gen.generate(PROMPTS[0], max_new_tokens=400, policy=BaseOnly())
        assert time.monotonic() - began < 60 and server.requests[-1]["max_tokens"] == 128


# -- full contexts ---------------------------------------------------------------------------------


WORDS = (
    "This model's maximum context length is {} tokens. However, you requested 61 tokens.",
    "The input (61 tokens) is longer than the model's context length ({} tokens).",
    "the request exceeds the available context size. try increasing it",
    '{{"error": {{"code": "context_length_exceeded", "message": "too long"}}}}',
)


def ends_where_it_is_full(server: FakeServer, gen: BlendInGenerator, room: int) -> None:
    plain = generator(BASE, GUIDE)
    outs = [
        gen.generate(PROMPTS[0], max_new_tokens=200),
        *gen.generate([PROMPTS[0], PROMPTS[1]], max_new_tokens=200, progress=False),
    ]
    for out in outs:
        assert out.error is None
        prompt = plain.base.encode_prompt(out.settings["base_prompt"])
        assert out.stop_reason in ("length", "end")
        assert len(prompt) + len(out.token_ids) <= room + 1
        assert (
            out.token_ids
            == plain.generate(
                base_prompt=out.settings["base_prompt"],
                guide_prompt=out.settings["guide_prompt"],
                max_new_tokens=len(out.steps),
            ).token_ids
        )
    assert outs[0].stop_reason == "length" and len(outs[0].steps) > 3


@pytest.mark.parametrize("words", [None, *WORDS])
def test_a_server_that_does_not_say_how_much_it_holds_ends_a_text_by_length(
    words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fake_server

    if words is not None:
        known = fake_server._Refused.__init__

        def worded(self: Any, message: str, *rest: Any) -> None:
            if "context length" in message:
                message = words.format(60)
            known(self, message, *rest)

        monkeypatch.setattr(fake_server._Refused, "__init__", worded)
    card = {"max_model_len": 60}
    with FakeServer(model(*BASE), **card, tells_length=False) as server:
        server.card = {"max_model_len": None}
        monkeypatch.setattr("blendin.models.remote.loading.PROBE", "Hi")
        gen = load(server.url)
        assert gen.base.max_length is None
        ends_where_it_is_full(server, gen, 60)
        with pytest.raises(ServerError, match=server.url):
            load(server.url).generate(PROMPTS[0] * 40, max_new_tokens=4)


def test_an_adapters_context_is_its_models() -> None:
    parent = {"id": "whole", "max_model_len": 60, "root": "x"}
    with FakeServer(
        model(*BASE),
        max_model_len=60,
        card={"max_model_len": None, "parent": "whole"},
        other_cards=(parent,),
        tells_length=False,
    ) as server:
        gen = load(f"{server.url}#tiny")
        assert gen.base.max_length == 59
        ends_where_it_is_full(server, gen, 60)
        assert all("context length" not in str(body) for body in server.requests)


def test_tokenize_tells_the_context_too() -> None:
    with FakeServer(model(*BASE), max_model_len=60, card={"max_model_len": None}) as server:
        assert load(server.url).base.max_length == 59


@pytest.mark.parametrize("ending", ["full", "refused"])
def test_a_text_that_a_server_ends_leaves_nothing_behind(ending: str) -> None:
    card = {"max_model_len": None}
    with FakeServer(model(*BASE), max_model_len=60, card=card, tells_length=False) as server:
        gen = load(server.url)
        gen.base.max_length = None
        stream = gen.stream(PROMPTS[0], max_new_tokens=200)
        next(stream)
        if ending == "refused":
            server.faults = lambda _: Fault("status", status=400)
        try:
            for _ in stream:
                pass
        except ServerError:
            pass
        assert stream.output.stop_reason == ("length" if ending == "full" else None)
        contexts = [weakref.ref(stream._sequence.base), weakref.ref(stream._sequence.guide)]
        assert not gen.base._live.sessions  # type: ignore[attr-defined]
        del stream
        until(lambda: gc.collect() >= 0 and not any(context() for context in contexts))


@pytest.mark.parametrize("order", [(60, 300), (300, 60)])
def test_the_shortest_context_of_the_replicas_counts(order: tuple[int, int]) -> None:
    first, second = (
        FakeServer(model(*BASE), max_model_len=length, tells_length=False) for length in order
    )
    with first, second:
        gen = load(f"{first.url},{second.url}")
        assert gen.base.max_length == 59
        ends_where_it_is_full(first, gen, 60)


def test_replicas_of_different_models_are_refused() -> None:
    with FakeServer(model(*BASE)) as one, FakeServer(model(*BASE), name="other") as two:
        with pytest.raises(ServerError, match=f"{two.url} serves other, not tiny"):
            load(f"{one.url},{two.url}")


# -- forks -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_served_model_goes_on_after_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(model(*BASE)) as base, FakeServer(model(*GUIDE)) as guide:
        gen = pair(base.url, guide.url, patience=60.0)
        expected = [
            gen.generate(prompt, max_new_tokens=12, policy=policy).token_ids
            for prompt in PROMPTS[:2]
            for policy in (Blend(threshold=0.9), GuideOnly())
        ]

        def work() -> list[list[int]]:
            return [
                gen.generate(prompt, max_new_tokens=12, policy=policy).token_ids
                for prompt in PROMPTS[:2]
                for policy in (Blend(threshold=0.9), GuideOnly())
            ]

        assert in_child(work, 120) == expected  # the loop has a thread in the parent alone
        assert work() == expected  # which the child took nothing from
        settings: dict[str, Any] = {"max_new_tokens": [2, 10, 10, 10], "progress": False}
        lists = gen.generate(list(PROMPTS), **settings)

        def a_list() -> list[list[int]]:
            outs = gen.generate(list(PROMPTS), **settings)
            return [out.token_ids for out in outs]

        assert in_child(a_list, 120) == [out.token_ids for out in lists]
        assert in_child(lambda: in_child(work, 120), 240) == expected  # and a child's child

        # Forked in the midst of a stream and of a list, with requests under way.
        stream = gen.stream(PROMPTS[0], max_new_tokens=12, policy=Blend(threshold=0.9))
        next(stream)
        assert in_child(lambda: [*stream] and stream.output.token_ids, 120) == expected[0]
        assert [*stream] and stream.output.token_ids == expected[0]
        batch = gen.stream_batch(list(PROMPTS), **settings)
        ended, _ = next(batch)
        rest = in_child(lambda: sorted((place, out.token_ids) for place, out in batch), 120)
        here = sorted((place, out.token_ids) for place, out in batch)
        assert rest == [list(each) for each in here]
        assert here == [(place, out.token_ids) for place, out in enumerate(lists) if place != ended]
