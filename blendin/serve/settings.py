"""How a pair is served."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..policy import Blend, Policy
from ..protocol.names import DEFAULT_NAME, served_name
from ..protocol.sampling import CHAT_TOKENS
from ..values import Integer, Real, check_fields, setting, shown, told

API_KEY_VARIABLE = "BLENDIN_SERVE_API_KEY"
"""The environment variable that holds the key which clients must send, where it is set."""


def _origins(name: str, value: Any) -> tuple[str, ...]:
    for origin in value:
        if origin != "*" and not origin.startswith(("http://", "https://")):
            raise ValueError(
                f"{shown(name)} is {told(origin)}; use an origin such as http://localhost:5173, or "
                "* for all"
            )
    return tuple(origin.rstrip("/") for origin in value)


@dataclass(frozen=True)
class ServeSettings:
    """Where a server listens, and what it lets clients do.

    Attributes:
        host: whose address to listen on.
        port: on it; 0: any that is free.
        served_model_name: what clients call the pair; `NAME:POLICY` asks for a policy.
        policy: of requests that name none.
        max_batch_size: texts in flight at most.
        max_cached_tokens: tokens in each model's cache at most; None: unbounded.
        max_waiting: further texts that may wait; beyond, the answer is 429.
        default_max_tokens: of chats that name no limit.
        request_timeout: seconds after which a text is cut.
        max_body_bytes: of a request.
        stop_timeout: seconds that texts may go on once the server is told to stop.
        api_key: what clients must send as a bearer token; None: nothing.
        cors: origins whose pages may ask; none by default.

    Raises:
        ValueError: for a value out of range.
    """

    host: str = "127.0.0.1"
    port: int = setting(8000, Integer(0, 65535))
    served_model_name: str = setting(DEFAULT_NAME, served_name)
    policy: Policy = field(default_factory=Blend)
    max_batch_size: int = setting(32, Integer(1))
    max_cached_tokens: int | None = setting(None, Integer(1, none="no bound"))
    max_waiting: int = setting(128, Integer(1))
    default_max_tokens: int = setting(CHAT_TOKENS, Integer(1))
    request_timeout: float = setting(600.0, Real(0, above=True))
    max_body_bytes: int = setting(4 * 2**20, Integer(1024))
    stop_timeout: float = setting(30.0, Real(0))
    api_key: str | None = field(default=None, repr=False)
    cors: Sequence[str] = setting((), _origins)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def api_key(variable: str | None) -> str | None:
    """The key that clients must send.

    Args:
        variable: the environment variable that holds it; None: `API_KEY_VARIABLE`, if it is set.

    Raises:
        ValueError: the variable is not set, is empty, or holds what no header can carry.
    """
    found = os.environ.get(variable or API_KEY_VARIABLE)
    if found is None and variable is None:
        return None
    name = variable or API_KEY_VARIABLE
    if not (key := (found or "").strip()):
        raise ValueError(f"the environment variable {name} holds no key: set it, or leave it out")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(
            f"the key in {name} has characters that no header carries: use letters, digits and "
            "signs"
        )
    return key
