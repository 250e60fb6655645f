"""MMMU's open questions (Yue et al. 2023): a short answer found inside free text.

The key part of each sentence is what follows a phrase such as "the answer is";
it and the numbers in it are compared with the accepted answers. Numbers are
compared after rounding to 2 decimals, other answers by occurring in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_CUES = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"-?\b\d{1,3}(?:,\d{3})+\b",
        r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
        r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
    )
)


def open_answer_matches(prediction: str, answers: str | Sequence[str]) -> bool:
    """Whether the free text `prediction` gives one of `answers`."""
    answers = [answers] if isinstance(answers, str) else answers
    accepted = [form for answer in answers for form in _forms(answer)]
    return any(_same(form, accepted) for form in candidates(prediction))


def candidates(prediction: str) -> set[str | float]:
    """The normalised strings and numbers that a free answer offers."""
    keys = _key_parts(prediction)
    numbers = [number for key in keys for pattern in _NUMBERS for number in pattern.findall(key)]
    return {form for text in keys + numbers for form in _forms(text)}


def _key_parts(prediction: str) -> list[str]:
    text = prediction.strip().strip(".").lower()
    sentences = _SENTENCE_END.split(text)
    parts = []
    for index, sentence in enumerate(sentences):
        # An equation is taken at its right side, but only in the last sentence.
        cues = (*_CUES, "=") if index == len(sentences) - 1 else _CUES
        tails = [sentence.split(cue)[-1].strip() for cue in cues if cue in sentence]
        shortest = min((tail for tail in tails if tail), key=len, default="")
        if shortest and shortest not in ":,.!?;'":
            parts.append(shortest)
    return parts or [text]


def _forms(text: str) -> list[str | float]:
    """A number rounded to 2 decimals, or the lower-case text.

    A single letter gets a space on either side, so that it does not match inside words.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [" " + text, text + " "] if len(text) == 1 else [text]


def _same(form: str | float, accepted: Sequence[str | float]) -> bool:
    if isinstance(form, float):
        return form in accepted
    return any(isinstance(answer, str) and answer in form for answer in accepted)
