"""Letters of options inside an answer: where they stand, which are ruled out, which are chosen.

Each tier takes (clean answer, plain texts of the options, their letters) and
gives the index of an option, `NAMES_NO_OPTION` where the answer says that it is
none of them or several, or None where the tier has nothing to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

NAMES_NO_OPTION: Final = -1

# Scripts that write words with spaces; beside others (Chinese, Japanese) a letter stands free.
_WORD: Final = r"0-9A-Za-z_\u00aa-\u02af\u0370-\u10ff\u1e00-\u1fff"
_OPEN: Final = "([{<\u3010\u300c\u300e\"'\u2018\u201c"
_CLOSE: Final = ")]}>\u3011\u300d\u300f\"'\u2019\u201d"
# A letter that is no part of a word, an abbreviation ("A.M.", "D.C.") or a compound ("X-ray", "C's").
_LETTER: Final = re.compile(
    rf"(?<![{_WORD}])(?<![{_WORD}][.'\u2019-])[A-Za-z](?![{_WORD}]|[.'\u2019-][{_WORD}])"
)
_JOINT: Final = re.compile(
    r"\s*(?:[,;/&+]|\bnor\b|,?\s*\b(?:and|or)\b|\u548c|\u6216|\u3001|\u4e0e)\s*"
    r"(?:also\s+|both\s+|option\s+|choice\s+)?",
    re.IGNORECASE,
)
_RULED_OUT_BEFORE: Final = re.compile(
    r"(?:\b(?:not|neither|never|cannot\s+be|instead\s+of|rather\s+than|except|excludes?|unlike|eliminates?|"
    r"rules?\s+out|better\s+than|over)|n['\u2019]t(?:\s+be)?|\u4e0d\u662f|\u4e0d\u9009)"
    r"(?:\s+(?:be|the|an?|just|only|either|answer|option|choice|letter|is|it))*[\s:]*$",
    re.IGNORECASE,
)
_WRONG: Final = (
    r"(?:incorrect|wrong|false|not|never|ruled|out|eliminated|impossible|excluded|implausible|unlikely|invalid|"
    r"inaccurate)\b"
)
_RULED_OUT_AFTER: Final = re.compile(
    rf"(?:[ \t]+\w\w+)?\s*(?:\b(?:is|are|was|were|seems?|looks?|(?:can|could|should|must)\s+be)\s+"
    rf"(?:\w+ly\s+|both\s+|all\s+|also\s+|just\s+)?{_WRONG}"
    rf"|\b(?:isn|aren|wasn|doesn|don|can|couldn|won)['\u2019]t\b|\bcannot\b|\b(?:does|do|did|can|could|would)\s+not\b"
    rf"|\u662f?\u9519|\u4e0d\u6b63\u786e|\u4e0d\u5bf9)",
    re.IGNORECASE,
)
# Not a comment on the letter but on what is compared with it.
_ARTICLE_FOLLOWS: Final = re.compile(
    rf"\s+(?!(?:is|was|because|since|and|or|but|for|seems?|must)\b)[{_WORD}]"
)
_OPTION: Final = re.compile(r"\b(?:option|choice|letter)\W*$", re.IGNORECASE)
_NEXT_LISTED: Final = re.compile(r"[ \t,.;]*\n?[ \t]*(?:(?:and|or)\s+)?[(\[]?")
_SET_OFF: Final = re.compile(r"\s*(?:\n|[-\u2013\u2014(=]|\b(?:because|since)\b)")
_LOW: Final = re.compile(r"\s+[a-z]")

_BETWEEN: Final = rf"[\s{re.escape(_CLOSE + _OPEN)}.:;,=\-\u2013\u2014]*"

_FILLER: Final = (
    r"(?:\s*\b(?:definitely|clearly|probably|most\s+likely|likely|simply|just|therefore|thus|actually|indeed|now|"
    r"letter|option|choice|answer|the|be|as\s+follows|given\s+by|either|both)\b)*"
)
_SEPARATOR: Final = rf"[\s:=>\-\u2013\u2014\u2192.{re.escape(_OPEN)}]*"
_TO_BE: Final = r"(?:\s*\b(?:is|are|was|(?:would|should|must|could|will|has\s+to|to)\s+be|becomes?)\b)?"
_ABOUT: Final = r"(?:\s+(?:to|for|of)\s+[^.\n:]{1,80}?(?=\s+is\b|:))?"
_ANSWER_CUE: Final = re.compile(
    rf"(?:\b(?:answers?|ans|response|solution|conclusion)\b{_ABOUT}[\"'\u201d]?{_TO_BE}"
    rf"|\b(?:correct|right|best|final|true)\s*(?:option|choice|one|letter)?\b{_ABOUT}(?:\s*:|{_TO_BE[:-1]})"
    rf"|\b(?:option|choice)\s*(?::|\bis\b|\bwould\s+be\b|\bmust\s+be\b|\bshould\s+be\b)"
    rf"|(?:\u7b54\u6848|\u6b63\u89e3|\u7b54\u3048|\u9009\u9879?|\u9078\u9805?|\u9009\u62e9|\u5e94\u9009|\u6545\u9009)"
    rf"(?:\u662f|\u4e3a|\u70ba|\u306f|\u3092|\u5e94\u8be5\u662f)?)"
    rf"{_SEPARATOR}{_FILLER}{_SEPARATOR}$",
    re.IGNORECASE,
)
_WEAK_CUE: Final = re.compile(
    rf"(?:\b(?:it|this|that)(?:\s+is|['\u2019]s|\s+(?:must|should|would|could|has\s+to)\s+be)"
    rf"|\b(?:must|should|would|has\s+to)\s+be"
    rf"|\b(?:choose|chose|pick|picked|select|selected|say|guess|vote\s+for|go(?:ing)?\s+(?:with|for)|opt\s+for|"
    rf"think|believe|conclude)"
    rf"|\b(?:so|thus|therefore|hence|but|rather|actually|finally)\b,?"
    rf"|=>|\u2192"
    rf"|\b(?:option|choice|letter)\b){_SEPARATOR}{_FILLER}{_SEPARATOR}$",
    re.IGNORECASE,
)
_PRAISED: Final = re.compile(
    rf"[{re.escape(_CLOSE)}.:]?\s*(?:\b(?:is|was|seems|looks|(?:would|should|must|has\s+to)\s+be)\b"
    rf"(?:\s+(?:the|my|most|clearly|definitely|indeed|probably|likely|also|only|one|that\s+is|most\s+likely))*"
    rf"\s+(?:correct|right|best|true|accurate|answer|choice)\b|\u662f?(?:\u6b63\u786e|\u5bf9\u7684))",
    re.IGNORECASE,
)
# "A is not correct, B is."
_ELLIPSIS: Final = re.compile(
    r"[)\]]?\s+(?:is|was|does|would\s+be)\s*(?:[.!;,]|$)", re.IGNORECASE | re.MULTILINE
)
_LINE_START: Final = re.compile(r"(?:^|\n)[ \t]*[(\[]?$")
_LINE_END: Final = re.compile(r"[)\]]?[.:,]?[ \t]*(?:\n|$)")
_NEAR: Final = 160  # characters of the answer that a cue is looked for in


@dataclass(frozen=True)
class Mention:
    """Letters named together ("B", "A and B").

    Attributes:
      letters: as they are written.
      start, end: where they stand in the answer.
      out: whether the answer rules them out.
    """

    letters: str
    start: int
    end: int
    out: bool

    @property
    def single(self) -> bool:
        """Whether all of its letters are one."""
        return len(set(self.letters.upper())) == 1


def lone(answer: str) -> str | None:
    """The letter, in upper case, that is the whole answer but for marks; None otherwise."""
    found = re.fullmatch(r"[\W_]*([A-Za-z])[\W_]*", answer)
    return found and found.group(1).upper()


def announced(answer: str, texts: Sequence[str], letters: str) -> int | None:
    """The last letter after "the answer is" or before "is correct"; else after "it is", "option" ..."""
    mentions = [mention for mention in _mentions(answer) if not mention.out]
    for cue in (_is_answer, _is_named):
        said = [mention for mention in mentions if cue(answer, mention, texts, letters)]
        if said:
            if cue is _is_named and _differ_as_options(answer, said):
                return NAMES_NO_OPTION
            return _index(said[-1], letters)
    return None


def leading(answer: str, texts: Sequence[str], letters: str) -> int | None:
    """A letter that opens the answer, set off from what follows, or followed by its own text."""
    mention = next(iter(_mentions(answer)), None)
    if mention is None or mention.out or answer[: mention.start].strip(_OPEN + " \n"):
        return None
    if not mention.single:
        return NAMES_NO_OPTION
    own_text = _own_text_follows(answer, mention, texts, letters)
    if own_text:
        several = _another_follows(answer, own_text, texts, letters)
        return NAMES_NO_OPTION if several else _index(mention, letters)
    after = answer[mention.end :]
    marks = ").]:" if mention.letters.islower() else f"{_CLOSE}.:;!?\u3002"
    if mention.letters.isupper() and mention.letters != "I":
        marks += ","  # "I, like many" begins with a pronoun
    return _index(mention, letters) if after[:1] in marks or _SET_OFF.match(after) else None


def bracketed(answer: str, texts: Sequence[str], letters: str) -> int | None:
    """The last letter in brackets."""
    said = [mention for mention in _mentions(answer) if not mention.out and _in_brackets(answer, mention)]
    valid = [mention for mention in said if mention.letters[0].upper() in letters]
    return _index(valid[-1], letters) if valid else None


def freestanding(answer: str, texts: Sequence[str], letters: str) -> int | None:
    """The one capital that stands free, in no phrase such as "A dog" or "B the"."""
    said = [
        mention
        for mention in _mentions(answer)
        if not mention.out and mention.letters.isupper() and not _LOW.match(answer, mention.end)
        and not (mention.letters in "AI" and _ARTICLE_FOLLOWS.match(answer, mention.end))
    ]  # fmt: skip
    if len({mention.letters for mention in said}) != 1:
        return None
    return _index(said[0], letters)


def _index(mention: Mention, letters: str) -> int:
    name = mention.letters[0].upper()
    return letters.index(name) if mention.single and name in letters else NAMES_NO_OPTION


@lru_cache(maxsize=4)  # of an answer, for one tier after the other
def _mentions(answer: str) -> tuple[Mention, ...]:
    """All letters of an answer, those joined by "and", "or" or commas together."""
    found = list(_LETTER.finditer(answer))
    mentions: list[Mention] = []
    place = 0
    while place < len(found):
        last = place
        while last + 1 < len(found) and _joined(answer, found[last], found[last + 1]):
            between = answer[found[last].end() : found[last + 1].start()]
            if ";" in between and _ruled_out(answer, found[place].start(), found[last].end()):
                break  # "neither A nor B; C"
            last += 1
        start, end = found[place].start(), found[last].end()
        names = "".join(one.group() for one in found[place : last + 1])
        mentions.append(Mention(names, start, end, _ruled_out(answer, start, end)))
        place = last + 1
    return tuple(mentions)


def _joined(answer: str, first: re.Match, second: re.Match) -> bool:
    if second.group().islower() and not first.group().islower():
        return False  # "B, a blue one"
    if second.group() == "A" and _ARTICLE_FOLLOWS.match(answer, second.end()):
        return False
    between = answer[first.end() : second.start()].strip(_OPEN + _CLOSE + ".")
    return _JOINT.fullmatch(between) is not None or (
        not between.strip(" \n") and _fills_line(answer, first) and _fills_line(answer, second)
    )


def _fills_line(answer: str, letter: re.Match) -> bool:
    """Whether a letter stands alone on its line."""
    before = answer[max(0, letter.start() - _NEAR) : letter.start()]
    return bool(_LINE_START.search(before) and _LINE_END.match(answer, letter.end()))


def _ruled_out(answer: str, start: int, end: int) -> bool:
    before = answer[max(0, start - _NEAR) : start].rstrip(_OPEN + " ")
    after = answer[end : end + _NEAR].lstrip(_CLOSE)
    if _RULED_OUT_BEFORE.search(before):
        return True
    wrong = _RULED_OUT_AFTER.match(after)
    return wrong is not None and not re.match(r"\s+(?:but|not|and|or|because|since|as)\b", after)


def _is_answer(answer: str, mention: Mention, texts: Sequence[str], letters: str) -> bool:
    if _PRAISED.match(answer, mention.end):
        return mention.letters.isupper()
    others_out = any(one.out and one.end <= mention.start for one in _mentions(answer))
    if others_out and mention.letters.isupper() and _ELLIPSIS.match(answer, mention.end):
        return True
    return _is_letter(answer, mention, texts, letters) and _follows(answer, mention, _ANSWER_CUE)


def _is_named(answer: str, mention: Mention, texts: Sequence[str], letters: str) -> bool:
    return _is_letter(answer, mention, texts, letters) and _follows(answer, mention, _WEAK_CUE)


def _follows(answer: str, mention: Mention, cue: re.Pattern) -> bool:
    return cue.search(answer[max(0, mention.start - _NEAR) : mention.start]) is not None


def _differ_as_options(answer: str, said: Sequence[Mention]) -> bool:
    """Whether "option A ... option B ..." only goes through the options."""
    named = [one for one in said if _OPTION.search(answer[max(0, one.start - _NEAR) : one.start])]
    return len(named) == len(said) and len({one.letters.upper() for one in said}) > 1


def _is_letter(answer: str, mention: Mention, texts: Sequence[str], letters: str) -> bool:
    """Whether a letter is no word: "A man", "a man", "I think"."""
    if _own_text_follows(answer, mention, texts, letters) or _in_brackets(answer, mention):
        return True
    if _OPTION.search(answer[max(0, mention.start - _NEAR) : mention.start]):
        return True
    if mention.letters.islower() or mention.letters in "AI":
        return not _ARTICLE_FOLLOWS.match(answer, mention.end) and not (
            mention.letters.islower() and re.match(r"\s+[A-Za-z]", answer[mention.end :])
        )
    return True


def _own_text_follows(answer: str, mention: Mention, texts: Sequence[str], letters: str) -> int | None:
    """Where the text of a letter's own option ends that stands after it ("B blue", "b) blue"), or None."""
    place = letters.find(mention.letters.upper()) if len(mention.letters) == 1 else -1
    if place < 0 or not texts[place]:
        return None
    words = r"\s+".join(map(re.escape, texts[place].split()))
    found = re.compile(rf"{_BETWEEN}{words}(?![{_WORD}])", re.IGNORECASE).match(answer, mention.end)
    return found and found.end()


def _another_follows(answer: str, end: int, texts: Sequence[str], letters: str) -> bool:
    """Whether the next option of a list begins at `end`: "A red, B blue"."""
    start = _NEXT_LISTED.match(answer, end).end()
    return any(
        one.start == start and _own_text_follows(answer, one, texts, letters) for one in _mentions(answer)
    )


def _in_brackets(answer: str, mention: Mention) -> bool:
    before, after = answer[mention.start - 1 : mention.start], answer[mention.end : mention.end + 1]
    return (before, after) in {("(", ")"), ("[", "]"), ("{", "}"), ("<", ">"), ("\u3010", "\u3011")}
