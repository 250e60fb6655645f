"""JSON and JSON Lines, read and written in one way everywhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import write_text
from owl2_jax.core.text_files import decode, is_web_page, lines, read_bytes, read_text

Json = Any  # what a JSON text can hold: objects, lists, texts, numbers, true, false, null
JsonObject = dict[str, Json]


class _DoubledKeyError(Owl2Error):
    """An object of JSON has a key twice."""


def parse_json(text: str | bytes, name: str, one_of_each_key: bool = False) -> Json:
    """The value of a JSON text.

    Args:
      one_of_each_key: refuse an object with a key twice; the last one wins otherwise.

    Raises:
      Owl2Error: no JSON, with what it is instead where that can be told.
    """
    if isinstance(text, bytes):
        text = decode(text, name)
    try:
        return json.loads(text, object_pairs_hook=without_doubles if one_of_each_key else None)
    except _DoubledKeyError as error:
        raise Owl2Error(f"{name} is not to be read: {error}") from error
    except RecursionError as error:
        raise Owl2Error(f"{name} is nested too deep to be read") from error
    except ValueError as error:
        raise Owl2Error(f"{name} is not valid JSON: {_why_not_json(text, error)}") from error


def read_json(path: str | os.PathLike, one_of_each_key: bool = False) -> Json:
    """The value of a JSON file; `one_of_each_key` is as for `parse_json`.

    Raises:
      Owl2Error: not readable, or no JSON.
    """
    return parse_json(read_bytes(path), str(path), one_of_each_key)


def read_json_object(path: str | os.PathLike) -> JsonObject:
    """As `read_json`, where the value must be an object, and no key may stand twice: these are settings."""
    value = read_json(path, one_of_each_key=True)
    if not isinstance(value, dict):
        raise Owl2Error(f"{path} should hold a JSON object, found {json_kind(value)}")
    return value


def json_lines(path: str | os.PathLike, one_of_each_key: bool = False) -> Iterator[tuple[int, Json]]:
    """(line number from 1, value) of a file with one JSON value a line; blank lines are none.

    `one_of_each_key` is as for `parse_json`.

    Raises:
      Owl2Error: the file is not readable, or a line is no JSON, with its number.
    """
    for number, line in enumerate(lines(read_text(path)), 1):
        if line.strip():
            yield number, parse_json(line, f"{path}, line {number},", one_of_each_key)


def write_json(path: str | os.PathLike, value: Json) -> None:
    """As `write_text`, for the JSON of a value, indented, with a line feed at its end."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def without_doubles(pairs: list[tuple[str, Json]]) -> JsonObject:
    """An object of JSON, as `object_pairs_hook`. Raises `Owl2Error` for a key that stands twice."""
    value: JsonObject = {}
    for name, inner in pairs:
        if name in value:
            raise _DoubledKeyError(f"the key {name!r:.60} stands twice in an object; keep one")
        value[name] = inner
    return value


def json_kind(value: object) -> str:
    """What a value is called in JSON: "an object", "a list", "a text", "a number", or its own word."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {str: "a text", dict: "an object", list: "a list", int: "a number", float: "a number"}
    return next((word for kind, word in kinds.items() if isinstance(value, kind)), type(value).__name__)


def _why_not_json(text: str, error: ValueError) -> str:
    if is_web_page(text[:256].encode()):
        return "it is a web page; the download was refused, fetch the file again"
    if not text.strip():
        return "it is empty"
    return f"{error}; it may be cut off"
