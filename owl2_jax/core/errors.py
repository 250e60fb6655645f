"""Errors that a user can act on, and the helpers that word them.

Every error a user can cause is an `Owl2Error`: one line that says what was
found, what was expected and what to change. The command line prints it and
exits with a code other than 0; library callers catch it by type.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
Result = TypeVar("Result")

_COMPARED: Final = 1000  # names that a misspelt one is compared with, letter by letter


class Owl2Error(Exception):
    """Something the user can fix: a wrong name, file, shape or setting."""


class UnknownNameError(Owl2Error, KeyError):
    """A name that is not in a fixed set of names."""

    # KeyError would print the repr of the message; users should see the text.
    __str__ = Exception.__str__


def nearest(name: str, options: Iterable[str], count: int = 3) -> list[str]:
    """Returns up to `count` of `options` that look like `name`, best first.

    At once, also for the names in a folder of a million files.
    """
    options = _alike(name, list(options))
    return difflib.get_close_matches(name, options, n=count, cutoff=0.5)


def _alike(name: str, options: list[str]) -> list[str]:
    """At most `_COMPARED` of the options; where there are more, those that share the most with `name`.

    A slip in one place leaves the first half of a name as it was, or the last one.
    """
    kept = len(name) // 2
    while len(options) > _COMPARED and kept < len(name):
        start, end = name[:kept], name[len(name) - kept :]
        fewer = [option for option in options if option.startswith(start) or option.endswith(end)]
        if kept > len(name) // 2 and not fewer:
            break
        options, kept = fewer, kept + (len(name) - kept + 1) // 2
    return options[:_COMPARED]


def shortened(text: str, most: int = 60) -> str:
    """A text of at most `most` characters, for messages."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def counted(number: int, name: str) -> str:
    """ "1 record", "1,450 records"."""
    return f"{number:,} {name}" if number == 1 else f"{number:,} {name}s"


def unknown_name(kind: str, name: str, options: Iterable[str]) -> UnknownNameError:
    """Builds the error for a `name` that is none of `options`.

    The message leads with near names, and lists the whole set when it is short.
    """
    options, name = sorted(options), shortened(str(name))
    close = nearest(name, options)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
    known = f" Known: {', '.join(options)}." if len(options) <= 24 else f" There are {len(options)}."
    return UnknownNameError(f"unknown {kind} {name!r}{hint}{known}")


def errors_in_place(
    items: Iterable[Item],
    make: Callable[[Item], Made],
    work: Callable[[Iterator[Made]], Iterator[Result]],
) -> Iterator[Result | Owl2Error]:
    """Results of `work` over what `make` makes of each item, in order.

    Where `make` raises `Owl2Error`, the error stands in the place of the result;
    `work` never meets that item. It may draw ahead, and keeps the order.
    """
    order: deque[Owl2Error | None] = deque()

    def made() -> Iterator[Made]:
        for item in items:
            try:
                one = make(item)
            except Owl2Error as error:
                order.append(error)
            else:
                order.append(None)
                yield one

    for result in work(made()):
        while order[0] is not None:
            yield order.popleft()
        order.popleft()
        yield result
    yield from (error for error in order if error is not None)
