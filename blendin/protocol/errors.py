"""Errors in the form in which OpenAI's clients read them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ..values import spelled

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}

SPELLINGS = {
    "max_new_tokens": "max_tokens",
    "sampling_top_k": "top_k",
    "trace_top": "top_logprobs",
    "base_prompt": "prompt",
}
"""Fields that are called otherwise than the settings that they set."""


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        param: the field of the request that it is about.
        code: a word for programs.
        headers: further ones of the answer.
        further: beside the error in the body, such as what a text has so far.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        further: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers, self.further = dict(headers or {}), dict(further or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, str(self)), self.__dict__

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = KINDS.get(self.status, "server_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error, **self.further}


def refused(message: str, param: str | None = None) -> ApiError:
    """A request that cannot be answered as it is."""
    return ApiError(400, message, param=param)


@contextlib.contextmanager
def refusing(**spellings: str) -> Iterator[None]:
    """Refusals of values become answers, in which fields have their names."""

    def spelling(name: str, value: Any) -> str:
        name = (SPELLINGS | spellings).get(name, name)
        return name if value is None else f"{name}: {value}"

    try:
        with spelled(spelling):
            yield
    except (ValueError, TypeError) as error:
        raise refused(str(error)) from error
