"""How requests reach servers: one event loop for the process, and a client for each model."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import warnings
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .address import SOCKET_SUFFIX
from .errors import PassingError, ServerError, one_line, without_secrets

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

CONNECT_SECONDS = 10.0
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
"""OpenSSL's reasons where the other side speaks plain HTTP."""

_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""By process. A parent's is kept in a child that was forked off, where its thread is not: ending it
there would take the parent's sockets out of the selector that both share."""
_making = threading.Lock()


def run(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Starts work in the client's event loop."""
    return asyncio.run_coroutine_threadsafe(work, loop())


def loop() -> asyncio.AbstractEventLoop:
    """The event loop of all requests of this process, in a thread of its own."""
    pid = os.getpid()
    if (made := _loops.get(pid)) is None:
        with _making:
            if (made := _loops.get(pid)) is None:
                made = asyncio.new_event_loop()
                threading.Thread(
                    target=made.run_forever, name="blendin-requests", daemon=True
                ).start()
                _loops[pid] = made
    return made


def _after_fork() -> None:
    global _making
    _making = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
