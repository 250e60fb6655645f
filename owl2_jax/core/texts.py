"""Which texts a setting may have, said where the field is declared.

    name: Name
    pattern: Regex = ".*"

`core.fields` checks them as it checks the ranges of numbers. No text of a
setting holds a null character or half of a surrogate pair: neither a file's
name nor a file of UTF-8 can.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from owl2_jax.core.paths import expected_path

_LONGEST: Final = 4096  # of a path on Linux


@dataclass(frozen=True)
class Text:
    """Texts of a kind.

    Attributes:
      free: it may be empty, and of several lines.
      regex: it is a regular expression.
      path: it names a file or folder, of this machine or in a bucket as well.
    """

    free: bool = False
    regex: bool = False
    path: Literal["local", "bucket"] | None = None

    def expected(self, value: str) -> str | None:
        """What should have stood in place of `value`; None where it is of the kind."""
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            return "text that can be written as UTF-8, without null characters"
        if self.free:
            return None
        if not value.strip():
            return "text that is not empty"
        if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
            return "text on one line, without control characters"
        if len(value) > _LONGEST:
            return f"text of at most {_LONGEST} characters"
        if self.path is not None:
            return expected_path(value, buckets=self.path == "bucket")
        return _regex_fault(value) if self.regex else None


def _regex_fault(value: str) -> str | None:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        return f"a regular expression ({' '.join(str(error).split())})"
    return None


ANY_TEXT: Final = Text(free=True)

AnyText = Annotated[str, ANY_TEXT]
Name = Annotated[str, Text()]
FilePath = Annotated[str, Text(path="local")]
BucketPath = Annotated[str, Text(path="bucket")]
Regex = Annotated[str, Text(regex=True)]


def text_of(metadata: tuple[object, ...]) -> Text | None:
    """The kind of text among the extras of an `Annotated` type."""
    return next((extra for extra in metadata if isinstance(extra, Text)), None)
