"""The text of an answer without what stands around it: markup, wide forms, a repeated list of options."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

_THOUGHT: Final = re.compile(r"<think>.*?</think>", re.IGNORECASE | re.DOTALL)
_ANSWER_TAG: Final = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
# Tags of more than one letter, or a small one; "<B>" may be an answer in brackets.
_TAG: Final = re.compile(r"</?(?:[a-z]|[A-Za-z][\w-]+)(?:\s[^<>]*)?/?>|<\|[^<>|]*\|>")
_LATEX_FONT: Final = re.compile(
    r"\\(?:text|math)(?:bf|it|rm|sf|tt|up|normal)?\s*\{([^{}]*)\}|\\(?:mbox|operatorname)\s*\{([^{}]*)\}"
)
_BOXED: Final = re.compile(r"\\(?:f?boxed|fbox)\s*(?:\{([^{}]*)\}|([A-Za-z])\b)")
# Dollars around a formula or a letter; "$6" and "$7" are sums of money.
_DOLLARS: Final = re.compile(r"\${1,2}(\s*\(?[A-Za-z]\)?\s*|[^$\n]*[\\^_{}][^$\n]*)\${1,2}")
_LATEX_SIGN: Final = re.compile(r"\\[()\[\]]|\\(?:text|math)?(?:bf|it|rm|sf)(?![A-Za-z])|\\[,;!: ]")
_MARKDOWN: Final = re.compile(r"[*`~]+|^[#>]+(?=\s)|(?<![^\W_])_+|_+(?![^\W_])", re.MULTILINE)
_INVISIBLE: Final = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_WORD: Final = re.compile(r"[^\W_]+")
_OUTER: Final = (
    " \t\r\n.,!?;:'\"*()[]{}<>\u2018\u2019\u201c\u201d\u3001\u3002\u300c\u300d\u300e\u300f\u3010\u3011"
)
_FRACTION: Final = re.compile(rf"^[{re.escape(_OUTER)}]*(?<!\.)(\.\d)")
_DEPTH: Final = 4  # LaTeX fonts inside each other


def clean(text: str) -> str:
    """The text in ordinary characters, without tags, Markdown, LaTeX and what a model thought aloud."""
    text = _unwrapped(_INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).replace("\u2212", "-"))
    text = _DOLLARS.sub(r" \1 ", text)
    text = _BOXED.sub(lambda found: found.group(1) or found.group(2) or "", text)
    text = _TAG.sub(" ", _LATEX_SIGN.sub(" ", text))
    return _MARKDOWN.sub("", text).strip()


def plain(text: str) -> str:
    """A text as two are compared: clean, lower case, without outer punctuation; never of marks alone."""
    words = " ".join(clean(text).lower().split())
    fraction = _FRACTION.search(words)  # ".5" is not 5
    if fraction:
        return words[fraction.start(1) :].rstrip(_OUTER)
    return words.strip(_OUTER) or " ".join(text.split())


def enclosed(text: str) -> Iterator[str]:
    """What a model marked as its answer: the last `\\boxed{}`, then the last `<answer>`."""
    text = _unwrapped(unicodedata.normalize("NFKC", text))
    for pattern in (_BOXED, _ANSWER_TAG):
        found = pattern.findall(text)
        if found:
            yield "".join(found[-1])


def without_listing(answer: str, texts: Sequence[str], letters: str) -> str:
    """The answer without a list of all options, letters and texts in order, as the question showed it."""
    listing: list[str] = []
    for letter, text in zip(letters, texts, strict=True):
        listing += [letter, *(word.lower() for word in _WORD.findall(text))]
    words = list(_WORD.finditer(answer))
    for start in range(len(words)):
        end = _listed(words, start, listing, letters)
        if end is not None:
            before, after = answer[: words[start].start()], answer[words[end - 1].end() :]
            return f"{before.rstrip(' (')} {after.lstrip(' )].;,')}".strip()
    return answer


def _listed(words: Sequence[re.Match], start: int, listing: Sequence[str], letters: str) -> int | None:
    """After which word a listing that begins at `start` ends; None where there is none."""
    place = start
    for wanted in listing:
        if (
            wanted in letters
            and place > start
            and place < len(words)
            and words[place].group() in ("and", "or")
        ):
            place += 1
        if place == len(words):
            return None
        word = words[place].group()
        if wanted != (word if wanted.isupper() else word.lower()):
            return None
        place += 1
    return place


def _unwrapped(text: str) -> str:
    text = _THOUGHT.sub(" ", text)
    for _ in range(_DEPTH):
        text = _LATEX_FONT.sub(lambda found: found.group(1) or found.group(2) or "", text)
    return text
