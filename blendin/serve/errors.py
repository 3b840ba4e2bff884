"""Errors in the form in which OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
