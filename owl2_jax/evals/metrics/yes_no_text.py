"""Yes or no as a reader would take it, beside the readings that MME's and POPE's authors publish.

MME's looks for the words in the first four characters: "know" is a no there, and
"**Yes**" and "The answer is yes" are neither. POPE's says no where the first
sentence has the word "no" or "not", and yes to everything else, an empty answer
too. The published scores are computed by those, so ours are; the accuracy by the
reading here stands beside them as `accuracy_as_read`.
"""

from __future__ import annotations

import re
from typing import Final

from owl2_jax.evals.metrics.answer_text import clean, enclosed

_ANNOUNCED: Final = re.compile(r"\b(?:answer|conclusion)\b(?:\s+is|\s+would\s+be|\s*[:=])?\W*\b(yes|no)\b")
_FIRST: Final = re.compile(r"\W*(yes|yeah|yep|no|nope)\b")
_WORD: Final = re.compile(r"\b(yes|no)\b")
_DENIED: Final = re.compile(r"\b(?:not|none|cannot|never|without)\b|n['\u2019]t\b|\bthere (?:is|are) no\b")
_CANNOT: Final = (
    r"(?:\b(?:cannot|can\s+not|could\s+not|unable\s+to|not\s+able\s+to)|\b(?:can|could)n?['\u2019]t)"
)
_TELL: Final = (
    r"(?:tell|say|know|determine|judge|decide|answer|confirm|"
    r"be\s+(?:sure|certain|determined|told|known|answered|confirmed))\b"
)
_HOW: Final = r"(?:\w+ly|really|quite|so|too|100\s?%|at\s+all)"
# Words that say neither, up to the end of their clause: what one is unsure about is no answer either.
_UNSURE: Final = re.compile(
    rf"(?:(?:\bnot|n['\u2019]t|\bcannot|\bnever)\s+(?:be\s+|{_HOW}\s+)*(?:sure|certain)\b"
    rf"|(?:\bnot|n['\u2019]t)\s+(?:{_HOW}\s+)*(?:clear|known)\s+(?:if|whether|from|what|how|which|in)\b"
    rf"|(?:\bnot|n['\u2019]t|\bim)\s*(?:possible|easy)\s+to\s+{_TELL}"
    rf"|{_CANNOT}\s+(?:{_HOW}\s+)?{_TELL}"
    rf"|{_CANNOT}\s+(?:see|view|access|open|read)\s+(?:(?:the|this|that|your|any|an)\s+)?(?:image|picture|photo)s?\b"
    rf"|\b(?:i|we)\s+(?:(?:do|would)\s+not|(?:do|would)n['\u2019]t)\s+(?:{_HOW}\s+)?know\b"
    rf"|\b(?:no|not\s+enough)\s+(?:information|context|detail)s?\b"
    rf"|\bno\s+(?:idea|clue)\b|\bno\s+way\s+(?:to\s+{_TELL}|of\s+(?:telling|knowing|saying)\b))"
    r"(?:(?!\bbut\b|\s-\s)[^.,;:!?\n\u2013\u2014])*"
)
# A "no" that denies nothing.
_NO_DENIAL: Final = re.compile(
    r"\b(?:no|without(?:\s+an?y?)?)\s+doubts?\b|\bno\s+question\s+(?:that|about)\b"
    r"|^\W*no\s+(?:problem|question|worries)\b"
)
_CHINESE: Final = {
    "\u662f": "yes",
    "\u6709": "yes",
    "\u5426": "no",
    "\u4e0d\u662f": "no",
    "\u6ca1\u6709": "no",
}


def read_yes_no(prediction: str) -> str | None:
    """ "yes", "no", or None where the answer says neither.

    The last of `\\boxed{}` and `<answer>` counts first, then the last "the answer is",
    the word that opens the answer, the one of the two words that stands in it, and
    last a denial ("there is not one"). "I am not sure" and "no doubt" deny nothing.
    """
    for part in (*enclosed(prediction), prediction):
        found = _read(clean(part).lower())
        if found is not None:
            return found
    return None


def _read(text: str) -> str | None:
    text = _NO_DENIAL.sub(" ", _UNSURE.sub(" ", text))
    announced = _ANNOUNCED.findall(text)
    if announced:
        return announced[-1]
    first = _FIRST.match(text)
    if first:
        return "yes" if first.group(1).startswith("y") else "no"
    bare = re.sub(r"\W", "", text)
    if bare in _CHINESE:
        return _CHINESE[bare]
    said = set(_WORD.findall(text))
    if len(said) == 1:
        return said.pop()
    return "no" if not said and _DENIED.search(text) else None
