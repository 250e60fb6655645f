"""Reading the chosen option out of a generated answer.

An answer that names no option is None and counts as wrong. MMMU's own script
draws a random option there, which adds about 1/k of those answers to a score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

LETTERS = "ABCDEFGHIJ"
_OUTER = " \t\r\n.,!?;:'\"*()[]"


def option_lines(options: Sequence[str]) -> str:
    """The options as prompts show them: one "A. text" a line."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def parse_choice(prediction: str, options: Sequence[str]) -> int | None:
    """Index of the option that `prediction` names, or None.

    In this order: a leading letter ("B", "B. red", "(B) red", "B: red"); an
    announced one ("the answer is B"); the last bracketed or freestanding letter;
    the whole text of an option; the one option whose text occurs in the answer.
    """
    text = prediction.strip()
    for pattern in _patterns(len(options)):
        found = pattern.findall(text)
        if found:
            return LETTERS.index(found[-1].upper())
    return _match_text(text, options)


@cache
def _patterns(count: int) -> tuple[re.Pattern, ...]:
    last = LETTERS[count - 1]
    upper, either = f"A-{last}", f"A-{last}a-{last.lower()}"
    return (
        # A lone small letter is a choice; within a sentence "a" is an article.
        re.compile(rf"^\W*([{either}])\W*$"),
        re.compile(rf"^\(?([{upper}])(?:[).:,]|\n)(?:\s|$)"),
        re.compile(rf"(?i:\b(?:answer|option|choice)\b(?:\s+is)?\s*:?)\s*\(?([{upper}])\b"),
        re.compile(rf"\(([{upper}])\)"),
        # A capital A that opens a sentence is an article.
        re.compile(rf"(?<![\w'])([{upper}])(?=[).:,]?(?:\s|$))(?!\s+[a-z])"),
    )


def _match_text(text: str, options: Sequence[str]) -> int | None:
    plain = [_plain(option) for option in options]
    answer = _plain(text)
    if answer in plain:
        return plain.index(answer)
    inside = [place for place, option in enumerate(plain) if option and _occurs(option, answer)]
    return inside[0] if len(inside) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(_OUTER).split())


def _occurs(option: str, answer: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(option)}(?!\w)", answer) is not None
