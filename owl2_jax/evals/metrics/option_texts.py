"""Texts of options inside an answer that names no letter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from owl2_jax.evals.metrics.answer_text import plain

_ANNOUNCED: Final = re.compile(r"\banswer\b(?:\s+is\b|\s*:)\s*(.+)", re.IGNORECASE)
_SENTENCE_END: Final = re.compile(r"[.!?;]\s|\n|,?\s+(?:because|since)\b")
_NOT: Final = re.compile(
    r"\b(?:not|neither|nor|never|rather than|instead of)(?:\s+(?:an?|the|be))*\s+$|n['\u2019]t\s+$"
)

_NEAR: Final = 40  # characters before a text that may hold its "not"


def announced_text(answer: str, texts: Sequence[str], letters: str) -> int | None:
    """The one option whose text stands in the last sentence that says "the answer is"."""
    found = _ANNOUNCED.findall(answer)
    return _only(_SENTENCE_END.split(found[-1])[0], texts) if found else None


def text_inside(answer: str, texts: Sequence[str], letters: str) -> int | None:
    """The one option whose text occurs in the answer, "not blue" aside."""
    return _only(answer, texts)


def _only(answer: str, texts: Sequence[str]) -> int | None:
    answer = plain(answer)
    if answer in texts:
        return texts.index(answer)
    inside = [place for place, text in enumerate(texts) if text and _occurs(text, answer)]
    return inside[0] if len(inside) == 1 else None


def _occurs(text: str, answer: str) -> bool:
    places = re.finditer(rf"(?<!\w){re.escape(text)}(?!\w)", answer)
    return any(not _NOT.search(answer[max(0, place.start() - _NEAR) : place.start()]) for place in places)
