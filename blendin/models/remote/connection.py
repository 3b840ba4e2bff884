"""How requests reach servers: one event loop for the process, and a client for each model."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  (at a fork its lock is taken after ours)
import encodings.idna  # noqa: F401  (else imported in a thread that no fork waits for)
import os
import ssl
import threading
import time
import warnings
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...forks import Lock
from .address import SOCKET_SUFFIX
from .errors import PassingError, ServerError, one_line, without_secrets

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

CONNECT_SECONDS = 10.0
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
"""OpenSSL's reasons where the other side speaks plain HTTP."""

REST_SECONDS = 5.0
"""For which a fork waits for the loop's thread to come to rest."""

_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_parents: list[asyncio.AbstractEventLoop] = []
"""In a child that was forked off, where their threads are not: ending one there would take the
parent's sockets out of the selector that both share."""
_making = Lock()
_forked: threading.Event | None = None


def run(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Starts work in the client's event loop."""
    return asyncio.run_coroutine_threadsafe(work, loop())


def loop() -> asyncio.AbstractEventLoop:
    """The event loop of all requests of this process, in a thread of its own."""
    global _loop, _thread
    if (made := _loop) is None:
        with _making:
            if (made := _loop) is None:
                made = asyncio.new_event_loop()
                _thread = threading.Thread(
                    target=made.run_forever, name="blendin-requests", daemon=True
                )
                _thread.start()
                _loop = made
    return made


def _rest(reached: threading.Event, forked: threading.Event) -> None:
    reached.set()
    forked.wait()


def _before_fork() -> None:
    """Lets the loop's thread rest between two callbacks, where it holds no lock of any library.

    httpcore tries an import at each request, for one, and a child never sees importlib's lock of
    that module released.
    """
    global _forked
    until = time.monotonic() + REST_SECONDS
    if not _making.acquire(timeout=REST_SECONDS):
        return
    if _loop is not None and threading.current_thread() is not _thread:
        reached, _forked = threading.Event(), threading.Event()
        _loop.call_soon_threadsafe(_rest, reached, _forked)
        if not reached.wait(max(0.0, until - time.monotonic())):
            warnings.warn(
                "the thread of blendin's requests is blocked, by a logging handler perhaps: a "
                "served model may hang in the process that is being forked",
                RuntimeWarning,
                stacklevel=2,
            )


def _after_fork_in_parent() -> None:
    global _forked
    if _forked is not None:
        _forked.set()
        _forked = None
    try:
        _making.release()
    except RuntimeError:
        pass  # it was not to be had


def _after_fork_in_child() -> None:
    global _loop, _thread, _forked
    if _loop is not None:
        _parents.append(_loop)
    _making.renew()
    _loop = _thread = _forked = None


if hasattr(os, "register_at_fork"):  # what is registered last is run first before a fork
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


@dataclass(frozen=True)
class Access:
    """How a model's servers are asked.

    Attributes:
        headers: of every request; secrets may be among them.
        timeout: seconds without a byte after which a request is given up.
        connections: at once.
        tls: which authorities are trusted.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout: float = 120.0
    connections: int = 1000
    tls: ssl.SSLContext = field(default_factory=lambda: tls_context(True), repr=False)

    def client(self) -> httpx.AsyncClient:
        """A client of its own, in this process."""
        import httpx

        limits = httpx.Limits(
            max_connections=self.connections,
            max_keepalive_connections=self.connections,
            keepalive_expiry=2.0,  # servers close idle connections, uvicorn's after five seconds
        )
        return httpx.AsyncClient(
            headers=dict(self.headers),
            timeout=httpx.Timeout(self.timeout, connect=CONNECT_SECONDS, pool=None),
            limits=limits,
            verify=self.tls,
            mounts={f"all://*{SOCKET_SUFFIX}": _unix_sockets(limits)},
            follow_redirects=False,  # a key goes to the server that was named, and nowhere else
            trust_env=False,
        )


def tls_context(verify: Any, what: str = "verify") -> ssl.SSLContext:
    """Whom an https:// connection trusts.

    Args:
        verify: True: `SSL_CERT_FILE` or `SSL_CERT_DIR` where they are set, else certifi's
            authorities; the path of a private authority's certificate (PEM) or of a folder of
            them; an `ssl.SSLContext`; False: anyone, with a warning.
        what: the setting's name, for messages.

    Raises:
        ValueError: there is no such file, or no certificate in it.
    """
    if isinstance(verify, ssl.SSLContext):
        return verify
    if verify is False:
        warnings.warn(
            f"{what}=False: servers' certificates are not checked, so keys and texts may go to "
            "anyone; pass the path of the authority's certificate instead",
            stacklevel=2,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    if verify is True:
        for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            if place := os.environ.get(variable):
                return _trusting(place, f"${variable}")
        import certifi

        return ssl.create_default_context(cafile=certifi.where())
    if isinstance(verify, str | os.PathLike):
        return _trusting(os.fsdecode(verify), what)
    raise ValueError(
        f"{what} is a {type(verify).__name__}; use the path of a certificate, an ssl.SSLContext, "
        "True or False"
    )


def _trusting(place: str, what: str) -> ssl.SSLContext:
    path = Path(place).expanduser()
    try:
        if path.is_dir():
            return ssl.create_default_context(capath=str(path))
        return ssl.create_default_context(cafile=str(path))
    except OSError as error:  # an ssl.SSLError is one
        raise ValueError(
            f"{what} is {place!r}, from which no certificate can be read ({one_line(error)}): "
            "name a PEM file or a folder of them"
        ) from None


def _unix_sockets(limits: httpx.Limits) -> httpx.AsyncBaseTransport:
    import httpx

    class UnixSockets(httpx.AsyncBaseTransport):
        """To a socket whose path is the host's name, in hexadecimals (`address.on_the_wire`)."""

        def __init__(self) -> None:
            self._transports: dict[str, httpx.AsyncHTTPTransport] = {}

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            path = bytes.fromhex(request.url.host.removesuffix(SOCKET_SUFFIX)).decode()
            if path not in self._transports:
                self._transports[path] = httpx.AsyncHTTPTransport(uds=path, limits=limits)
            request.headers["Host"] = "localhost"
            return await self._transports[path].handle_async_request(request)

        async def aclose(self) -> None:
            for transport in self._transports.values():
                await transport.aclose()

    return UnixSockets()


@contextmanager
def told_as_ours(url: str, headers: Mapping[str, str]) -> Iterator[None]:
    """Within it the HTTP library's errors are `ServerError`s, and none shows what a header holds.

    The library's own are left out of the traceback: some quote a header whole.
    """
    import httpx

    try:
        yield
    except ServerError as error:
        error.args = (without_secrets(str(error), headers), *error.args[1:])
        raise
    except (httpx.LocalProtocolError, httpx.InvalidURL) as error:
        told = type(error).__name__
        raise ServerError(f"{url} cannot be asked: the request is no HTTP ({told})") from None
    except httpx.DecodingError:
        raise PassingError(f"{url} sends an answer that cannot be unpacked", tries=3) from None
    except (httpx.RequestError, httpx.StreamError) as error:
        raise _of_transport(url, error, headers) from None


def _of_transport(url: str, error: Exception, headers: Mapping[str, str]) -> ServerError:
    said = without_secrets(one_line(error), headers)
    message = f"{url} does not answer ({type(error).__name__}: {said})"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ServerError(
                f"{url} has a certificate that nobody vouches for ({one_line(cause)}): name its "
                "authority's in verify= or SSL_CERT_FILE"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
            return ServerError(f"{url} does not speak TLS ({one_line(cause)}): use http://")
        cause = cause.__cause__ or cause.__context__
    return PassingError(message)
