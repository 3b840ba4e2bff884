"""The server as a process: it listens at once, loads meanwhile, and is stopped by a signal."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from ..generator import BlendInGenerator
from .app import application
from .service import Service
from .settings import ServeSettings

AFTERWARDS = 5
"""Seconds that answers may take to be sent once their texts are ended."""


class Server(uvicorn.Server):
    """uvicorn's, which lets texts go on for a while before it closes."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        super().__init__(
            uvicorn.Config(
                application(service),
                host=settings.host,
                port=settings.port,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(settings.stop_timeout) + AFTERWARDS,
            )
        )
        self._service = service

    def give_up(self) -> None:
        """Ends, for there is nothing to be served."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends what runs, then the connections."""
        patience = 0.0 if self.force_exit else self._service.settings.stop_timeout
        ending = asyncio.create_task(asyncio.to_thread(self._service.stop, patience))
        await super().shutdown(sockets)
        await ending


def run(
    settings: ServeSettings,
    load: Callable[[], BlendInGenerator],
    on_listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serves a pair until it is told to stop (SIGINT, SIGTERM).

    Args:
        settings: where, and what clients may do.
        load: makes the generator; until it has, answers are 503.
        on_listening: told the server's address.

    Raises:
        ValueError: the address cannot be listened on.
        Exception: as `load`.
    """
    with listen(settings) as listening:
        host, port = listening.getsockname()[:2]
        on_listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        service = Service(settings, load)
        server = Server(service)
        service.start(on_failure=server.give_up)
        with suppress(KeyboardInterrupt):  # raised again, once everything has ended
            server.run(sockets=[listening])
    if service.failure is not None:
        raise service.failure


def listen(settings: ServeSettings) -> socket.socket:
    """The socket, before anything is loaded.

    Raises:
        ValueError: it cannot be had.
    """
    kind = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(kind, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen()
    except OSError as error:
        listening.close()
        address = f"{settings.host}:{settings.port}"
        raise ValueError(
            f"{address} cannot be listened on ({error.strerror or error}): name another --host or "
            "--port"
        ) from error
    return listening
