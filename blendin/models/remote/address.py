"""Where a model is served: URLs as users write them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

SCHEMES = ("http://", "https://", "http+unix://", "unix://")
SOCKET_SUFFIX = ".unix-socket"
"""Ends the host of a URL that stands for a Unix socket; before it, the path in hexadecimals."""

HOST_AND_PORT = re.compile(r"(//)?([\w-]+(\.[\w-]+)*|\[[0-9a-fA-F:.]+\]):\d+([/#,].*)?")
HOST_AND_V1 = re.compile(r"(//)?(localhost|[\w-]+(\.[\w-]+)+)(/[\w./-]*)?/v1/?(#.*)?")
OTHER_SCHEME = re.compile(r"([a-zA-Z][\w+.-]*)://")


@dataclass(frozen=True)
class Address:
    """Where a model is served.

    Attributes:
        urls: one for each replica, up to and including /v1.
        model: what the servers call it; None: the only one they have.
    """

    urls: tuple[str, ...]
    model: str | None


def is_url(source: Any) -> bool:
    """Whether a model's source is the URL of a server."""
    return isinstance(source, str) and source.strip().lower().startswith(SCHEMES)


def refuse_what_should_be_a_url(source: str, role: str) -> None:
    """Refuses a server's address without a scheme, or with another than a server's.

    Raises:
        ValueError: naming the role and what to write.
    """
    if is_url(source) or os.path.exists(os.path.expanduser(source)):
        return
    if other := OTHER_SCHEME.match(source):
        raise ValueError(
            f"{role} has the scheme {other[1]}://: a server's URL begins with http://, https:// "
            "or unix://, and a model on a disk or on the hub has none"
        )
    if (HOST_AND_PORT.fullmatch(source) or HOST_AND_V1.fullmatch(source)) and "@" not in source:
        told = source.removeprefix("//")
        raise ValueError(f"{role}={source!r} looks like a server: write http://{told}")


def address(source: str) -> Address:
    """Reads `http://host:8000/v1#model`; several replicas stand before the #, with commas between.

    A server on a Unix socket is `unix:///run/vllm.sock`, or `http+unix://%2Frun%2Fvllm.sock/v1`.

    Raises:
        ValueError: it is not of that form, or has a password in it.
    """
    places, _, model = source.strip().partition("#")
    urls = tuple(url.strip().rstrip("/") for url in places.split(","))
    for url in urls:
        _check(url)
    return Address(urls, model.strip() or None)


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:  # half an IPv6 address
        raise _no_url(url, "its host is none") from None
    if "@" in parts.netloc:
        raise ValueError(
            f"the URL of {parts.hostname} has a user or a password in it, which would stand in "
            "results and logs: put a key into BLENDIN_API_KEY"
        )
    if not is_url(url) or parts.query:
        raise _no_url(url)
    if "unix" in parts.scheme:
        if not Path(_socket(parts)).is_absolute():
            raise _no_url(url, "the socket's path is not absolute")
        return
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise _no_url(url, "its port is no number from 1 to 65535")
    host = parts.hostname or ""
    if not host or re.search(r"[\s\\\"'<>^`{|}\x00-\x20\x7f]", url):
        raise _no_url(url)


def _no_url(url: str, why: str = "") -> ValueError:
    shown = url if "@" not in url else "what is given"
    return ValueError(
        f"{shown!r} is no server's URL{f' ({why})' if why else ''}: use http://host:8000/v1#model, "
        "and for replicas http://one:8000/v1,http://two:8000/v1#model"
    )


def on_the_wire(url: str) -> str:
    """A URL as an HTTP client takes it; the path of a Unix socket goes into its host."""
    parts = urlsplit(url)
    if "unix" not in parts.scheme:
        return url
    rest = parts.path if parts.scheme == "http+unix" else "/v1"
    return f"http://{_socket(parts).encode().hex()}{SOCKET_SUFFIX}{rest}"


def page(url: str, name: str) -> str:
    """The client's URL of a page of a server: `completions`, or `/tokenize` beside /v1."""
    wire = on_the_wire(url)
    return wire.removesuffix("/v1") + name if name.startswith("/") else f"{wire}/{name}"


def _socket(parts: SplitResult) -> str:
    """A Unix socket's path."""
    return unquote(parts.netloc) if parts.scheme == "http+unix" else unquote(parts.path)
