"""Rows of published files: each becomes a question, or is broken and says why.

A broken row never ends a benchmark. It stands in the place of its question with
its file and row, is not asked and counts in no score; `runner.py` tells how many
there are and stops only where too many are.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.base import Question
from owl2_jax.evals.broken import At, Broken, Row

Parsed = TypeVar("Parsed")

_FAULTS = (TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError, Owl2Error)


def parse_rows(
    path: Path,
    rows: Iterable[Row | At[Row] | Broken],
    parse: Callable[[Any], Parsed | None],
    *,
    numbered: bool = False,
) -> Iterator[Parsed | Broken]:
    """Applies `parse` to every row and leaves out None.

    A row that lacks a key or holds a value of another kind becomes a `Broken`;
    rows without a place of their own are counted from 0. Questions learn theirs.

    Args:
      numbered: `parse` takes (number from 0, row); broken rows count too.
    """
    for index, row in enumerate(rows):
        if isinstance(row, Broken):
            yield row
            continue
        place, value = (row.place, row.value) if isinstance(row, At) else (f"row {index}", row)
        try:
            parsed = parse((index, value) if numbered else value)
            if isinstance(parsed, Question):
                _check_writable(parsed)
                parsed = replace(parsed, file=str(path), row=place)
        except KeyError as error:
            parsed = Broken(str(path), place, f"has no {error.args[0]!r}")
        except _FAULTS as error:
            parsed = Broken(str(path), place, f"is malformed: {error}")
        if parsed is not None:
            yield parsed


def whole(rows: Iterable[Parsed | Broken]) -> list[Parsed]:
    """The rows that are not broken."""
    return [row for row in rows if not isinstance(row, Broken)]


def usable(path: Path, rows: list[Parsed | Broken]) -> tuple[list[Parsed | None], list[Broken]]:
    """(the rows with None for broken ones, the broken ones). Raises `Owl2Error` when all are broken."""
    broken = [row for row in rows if isinstance(row, Broken)]
    if broken and len(broken) == len(rows):
        raise Owl2Error(f"none of the {len(rows)} rows of {path} can be used; the first: {broken[0]}")
    return [None if isinstance(row, Broken) else row for row in rows], broken


def left_out(question: Question, why: str) -> Broken:
    """A question that is not asked; `why` goes on from its file and row."""
    return Broken(question.file, question.row, why)


def text(value: object, name: str) -> str:
    """A value that must be text. Raises `ValueError`."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {reprlib.repr(value)}; expected text")
    return value


def texts(value: object, name: str, least: int = 1) -> list[str]:
    """A value that must be a list of at least so many texts. Raises `ValueError`."""
    if not isinstance(value, list) or len(value) < least:
        raise ValueError(f"{name} is {reprlib.repr(value)}; expected a list of at least {least} texts")
    return [text(item, f"one of {name}") for item in value]


def identifier(value: object, name: str) -> str:
    """A value that must be a whole number or a text that is not empty, as text. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise ValueError(f"{name} is {reprlib.repr(value)}; expected a number or a name")
    return str(value)


def whole_number(value: object, name: str) -> int:
    """A value that must be a whole number. Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is {reprlib.repr(value)}; expected a whole number")
    return value


def _check_writable(question: Question) -> None:
    """Raises `ValueError` for what no file of results can hold: half a character, NaN, no JSON."""
    if not isinstance(question.id, str) or not question.id.strip():
        raise ValueError(f"its id is {reprlib.repr(question.id)}; expected a name")
    values = [question.id, question.prompt, question.answer, dict(question.info)]
    try:
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("it holds half of a surrogate pair, which is no character") from error
