from __future__ import annotations

import pytest

from owl2_jax.core import fields
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.texts import AnyText, FilePath, Name, Regex


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Name, "a"),
        (Name, "\u732b \u00e9\u00a0x"),
        (FilePath, "../a b/\u00fc.json"),
        (Regex, r"vision/.*|(a|b)\d+"),
        (AnyText, ""),
        (AnyText, "two\nlines\tand a tab"),
        (str, " "),
    ],
)
def test_texts_of_their_kind(kind, text):
    fields.check_value(kind, text, "here")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Name, "", "here: expected text that is not empty, found ''"),
        (Name, " \n", r"here: expected text that is not empty, found ' \n'"),
        (Name, "a\n", r"here: expected text on one line, without control characters, found 'a\n'"),
        (Name, "a\u2028b", r"here: expected text on one line, without control characters, found 'a\u2028b'"),
        (
            FilePath,
            "\x1b[1m",
            r"here: expected text on one line, without control characters, found '\x1b[1m'",
        ),
        (FilePath, "a" * 5000, f"here: expected text of at most 4096 characters, found '{'a' * 56}..."),
        (
            Regex,
            "(",
            "here: expected a regular expression (missing ), unterminated subpattern at position 0), fo",
        ),
        (
            Regex,
            "a{99999999999}",
            "here: expected a regular expression (the repetition number is too large), fou",
        ),
        (
            AnyText,
            "a\0",
            r"here: expected text that can be written as UTF-8, without null characters, found 'a\x00",
        ),
        (
            str,
            "\ud800",
            r"here: expected text that can be written as UTF-8, without null characters, found '\ud8",
        ),
        (Name, 5, "here: expected text, found 5 (int)"),
        (Name, None, "here: expected text, found None (NoneType)"),
        (AnyText, b"a", "here: expected text, found b'a' (bytes)"),
    ],
)
def test_texts_of_another_kind_are_refused_with_what_is_expected(kind, text, message):
    with pytest.raises(Owl2Error) as caught:
        fields.check_value(kind, text, "here")
    assert str(caught.value).startswith(message)
