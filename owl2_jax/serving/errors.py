"""Errors as the OpenAI API words them: a status and `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from owl2_jax.core.errors import Owl2Error


class ApiError(Owl2Error):
    """A request that gets an error for an answer.

    Attributes:
      status: of the HTTP response.
      code: a short name that programs can compare, or None.
      param: the field at fault, or None.
      headers: to send with it.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(_writable(message))
        self.status = status
        self.code = code
        self.param = param and _writable(param)
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What stands in the response, or in an event of a stream that has begun."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            kind = "rate_limit_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def event(self) -> bytes:
        """The body as a server-sent event."""
        return b"data: " + json.dumps(self.body()).encode() + b"\n\n"


def _writable(text: str) -> str:
    """A text that may quote what a client sent; half of a surrogate pair would have no UTF-8 form."""
    return text.encode(errors="backslashreplace").decode()


def unavailable(message: str, seconds: int) -> ApiError:
    """503: not now, but in some seconds, or elsewhere."""
    return ApiError(message, 503, "unavailable", headers={"Retry-After": str(seconds)})


def overloaded(message: str, seconds: int) -> ApiError:
    """429: too much is asked at the same time."""
    return ApiError(message, 429, "overloaded", headers={"Retry-After": str(seconds)})


def install_handlers(app: FastAPI) -> None:
    """Makes every error of `app` an OpenAI-style one; unforeseen ones are told as no more than that."""

    @app.exception_handler(Owl2Error)
    async def bad_request(_: Request, error: Owl2Error) -> JSONResponse:
        return respond(error if isinstance(error, ApiError) else ApiError(str(error)))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path[:100]
        if error.status_code == HTTPStatus.NOT_FOUND:
            message = f"there is nothing at {path}"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            message = f"{path} does not take {request.method}"
        else:
            message = str(error.detail)
        return respond(ApiError(message, error.status_code, headers=error.headers))

    @app.exception_handler(Exception)
    async def fault(_request: Request, _error: Exception) -> JSONResponse:
        return respond(ApiError("something went wrong here; the log of the server tells more", 500))


def respond(error: ApiError) -> JSONResponse:
    """The HTTP response of an error."""
    return JSONResponse(error.body(), error.status, headers=error.headers)
