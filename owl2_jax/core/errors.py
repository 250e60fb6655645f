"""Errors that a user can act on, and the helpers that word them.

Every error a user can cause is an `Owl2Error`: one line that says what was
found, what was expected and what to change. The command line prints it and
exits with a code other than 0; library callers catch it by type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Owl2Error(Exception):
    """Something the user can mend: a wrong name, file, shape or setting."""


class UnknownNameError(Owl2Error, KeyError):
    """A name that is not in a fixed set of names."""

    # KeyError would print the repr of the message; users should see the text.
    __str__ = Exception.__str__


def nearest(name: str, options: Iterable[str], count: int = 3) -> list[str]:
    """Returns up to `count` of `options` that look like `name`, best first."""
    return difflib.get_close_matches(name, list(options), n=count, cutoff=0.5)


def unknown_name(kind: str, name: str, options: Iterable[str]) -> UnknownNameError:
    """Builds the error for a `name` that is none of `options`.

    The message leads with near names, and lists the whole set when it is short.
    """
    options = sorted(options)
    close = nearest(name, options)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
    known = f" Known: {', '.join(options)}." if len(options) <= 24 else f" There are {len(options)}."
    return UnknownNameError(f"unknown {kind} {name!r}{hint}{known}")
