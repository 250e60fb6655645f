"""Texts of options inside an answer that names no letter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from owl2_jax.evals.metrics.answer_text import plain

_ANNOUNCED: Final = re.compile(r"\banswer\b(?:\s+is\b|\s*:)\s*(.+)", re.IGNORECASE)
_SENTENCE_END: Final = re.compile(r"[.!?;]\s|\n|,?\s+(?:because|since)\b")
_NOT: Final = re.compile(
    r"\b(?:not?|non|neither|nor|never|without|rather than|instead of)(?:\s+(?:an?|the|be))*\s+$"
    r"|n['\u2019]t\s+$"
)

# What makes another number of one beside it: digits, a sign, a fraction, a time, a power, a word.
_SCALE: Final = r"(?:hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?\b"
_TENS: Final = r"(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)"
_SLASH: Final = "/\u2044\u2215"
_MORE_BEFORE_NUMBER: Final = re.compile(
    rf"(?:\d[.,:]|(?<![\w.])\.|[-+\u00b1\u2010-\u2013^\u221a{_SLASH}]|\d\s[{_SLASH}]\s"
    r"|\d\s?[x\u00d7]\s?|\b(?:minus|negative)\s)$"
)
_MORE_AFTER_NUMBER: Final = re.compile(
    rf"[.,:]\d|[+\u00b1^{_SLASH}]|[-\u2010-\u2013]\d|\s[{_SLASH}]\s\d|[\s-]{_SCALE}|\s?[x\u00d7]\s?\d"
)
# A number in words, and what makes another one of it ("two hundred", "twenty five").
_NUMBER_WORD: Final = re.compile(
    rf"(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|{_TENS}|{_SCALE})$"
)
_MORE_BEFORE_NUMBER_WORD: Final = re.compile(rf"\b(?:{_TENS}[\s-]|{_SCALE}\s(?:and\s)?|\d[\s-])$")
_MORE_AFTER_NUMBER_WORD: Final = re.compile(rf"[\s-]{_SCALE}|[-\u2010\u2011]\w")
# What makes another word of one beside it ("non-renewable"), and another unit ("m/s" of "m").
_MORE_BEFORE_WORD: Final = re.compile(r"\w[-\u2010\u2011]$")
_MORE_AFTER_WORD: Final = re.compile(r"[-\u2010\u2011]\w")
_MORE_AFTER_UNIT: Final = re.compile(rf"[-\u2010\u2011]\w|[\^{_SLASH}]")

_NEAR: Final = 40  # characters before a text that may hold its "not"


def announced_text(answer: str, texts: Sequence[str], letters: str) -> int | None:
    """The one option whose text stands in the last sentence that says "the answer is"."""
    found = _ANNOUNCED.findall(answer)
    return _only(_SENTENCE_END.split(found[-1])[0], texts, letters) if found else None


def text_inside(answer: str, texts: Sequence[str], letters: str) -> int | None:
    """The one option whose text occurs in the answer, "not blue" aside."""
    return _only(answer, texts, letters)


def _only(answer: str, texts: Sequence[str], letters: str) -> int | None:
    answer = plain(answer)
    if answer in texts:
        return texts.index(answer)
    inside = [
        place
        for place, (text, letter) in enumerate(zip(texts, letters, strict=True))
        if text and _occurs(text, answer, letter.lower())
    ]
    return inside[0] if len(inside) == 1 else None


def _occurs(text: str, answer: str, letter: str) -> bool:
    places = re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", answer)
    return any(_is_whole(text, answer, place.start(), letter) for place in places)


def _is_whole(text: str, answer: str, start: int, letter: str) -> bool:
    """Whether a text that stands at `start` is no part of another number or word, and not denied."""
    before, after = answer[max(0, start - _NEAR) : start], answer[start + len(text) :][:_NEAR]
    if _NOT.search(before):
        return False
    if text[0].isdigit():
        more_before = _MORE_BEFORE_NUMBER.search(before)
    else:
        more_before = _MORE_BEFORE_WORD.search(before) and not re.search(rf"\b{letter}-$", before)  # "B-blue"
    more_after = _MORE_AFTER_NUMBER
    if not text[-1].isdigit():
        more_after = _MORE_AFTER_UNIT if text[0].isdigit() else _MORE_AFTER_WORD
    if _NUMBER_WORD.fullmatch(text):
        more_before = more_before or _MORE_BEFORE_NUMBER_WORD.search(before)
        more_after = _MORE_AFTER_NUMBER_WORD
    return not more_before and more_after.match(after) is None
