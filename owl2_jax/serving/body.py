"""Reads the JSON of a request: never more than is allowed, and never for longer."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from fastapi import Request
from starlette.requests import ClientDisconnect

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import without_doubles
from owl2_jax.core.text_files import decode
from owl2_jax.serving.errors import ApiError, overloaded
from owl2_jax.serving.settings import MIB, Limits


class BodyReader:
    """Reads bodies and counts what all of them hold together.

    Attributes:
      held: bytes of the bodies that are being read.
    """

    def __init__(self, limits: Limits, most_values: int):
        """`most_values`: of a body, counted as commas and opening brackets wherever they stand."""
        self._limits = limits
        self._most_values = most_values
        self.held = 0

    async def read_json(self, request: Request) -> dict[str, Any]:
        """The object that a request brings.

        Raises:
          ApiError: 400 no JSON object, 408 too slow, 413 too large or of too many values, 415 of
            another type, 429 too many large bodies at the same time.
          ClientDisconnect: the client went away.
        """
        _check_type(request)
        self._check_length(request)
        taken = 0
        chunks = []
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for chunk in request.stream():
                    taken += len(chunk)
                    self.held += len(chunk)
                    self._check_sizes(taken)
                    chunks.append(chunk)
            data = b"".join(chunks)
            self._check_values(data)
            return parse_object(data)
        except TimeoutError:
            message = f"the body did not arrive within {self._limits.body_seconds:g} s"
            raise ApiError(message, 408, headers={"Connection": "close"}) from None
        finally:
            self.held -= taken

    def _check_length(self, request: Request) -> None:
        """Refuses a large body by what its head says, before any of it is read."""
        length = request.headers.get("content-length", "")
        if length.isdecimal():
            self._check_sizes(int(length[:18]))

    def _check_sizes(self, size: int) -> None:
        if size > self._limits.body_bytes:
            most = f"{self._limits.body_bytes / MIB:g} MiB"
            message = f"the body is larger than {most}; send fewer or smaller images"
            # The connection stays open, and what still comes is thrown away: a client
            # that is cut off while it sends would not read why.
            raise ApiError(message, 413, "too_large")
        if self.held > self._limits.held_bytes:
            raise overloaded("too many large requests at the same time; try again soon", 2)

    def _check_values(self, data: bytes) -> None:
        # Reading millions of numbers or brackets takes seconds, in which no other client gets a token.
        found = sum(data.count(sign) for sign in (b",", b"[", b"{"))
        if found > self._most_values:
            message = (
                f"the body has {found} commas and opening brackets; expected at most {self._most_values}, "
                "which is more than all prompts of a request can need; send fewer or shorter ones"
            )
            raise ApiError(message, 413, "too_large")


def _check_type(request: Request) -> None:
    # A form of some other web page can be sent here by a browser, JSON cannot.
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if found != "application/json":
        raise ApiError(f"the content type is {found[:60]!r}; expected 'application/json'", 415)


_KINDS = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object from UTF-8; a byte-order mark is skipped. Raises `ApiError`."""
    try:
        value = json.loads(
            decode(data, "the body"), parse_constant=_refuse_constant, object_pairs_hook=without_doubles
        )
    except Owl2Error as error:
        raise ApiError(str(error), code="invalid_json") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(f"the body is not valid JSON: {reason[:200]}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(f"the body is {_KINDS[type(value)]}; expected an object of JSON", code="invalid_json")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


__all__ = ["BodyReader", "ClientDisconnect", "parse_object"]
