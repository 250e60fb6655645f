"""Answer strings: the VQA normalisation, exact match and ANLS.

The normalisation is that of the VQA challenge (visualqa.org) as the released
evaluation applies it, oddities included, since published scores contain them:

* A punctuation mark is deleted when a space stands beside it anywhere in the
  text, or when the text has a comma between digits; else it becomes a space.
* At most 32 full stops are removed (a flag passed as a count), and none that
  stands before a digit.
* Contractions spelled with a capital can never match, because the text is in
  lower case by then; they are left out of the table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

PUNCTUATION = frozenset(';/[]"{}()=+\\_-><@`,?!')
ARTICLES = frozenset(("a", "an", "the"))
NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
} | {"none": "0"}

_DIGIT_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MAX_FULL_STOPS = 32

# A word that lacks exactly one apostrophe of one of these gets it back.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've
    mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't
    shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
    something'd something'd've something'll that's there'd there'd've there're there's they'd they'd've
    they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
    where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905


def _missing_one_apostrophe(word: str) -> list[str]:
    places = [place for place, letter in enumerate(word) if letter == "'"]
    return [word[:place] + word[place + 1 :] for place in places]


CONTRACTIONS = {short: word for word in _CONTRACTIONS for short in _missing_one_apostrophe(word)}
# The published table has this one the wrong way round.
CONTRACTIONS["somebody'd"] = "somebodyd"


@lru_cache(maxsize=1 << 16)
def strip_punctuation(text: str) -> str:
    """Removes or blanks punctuation; the only step ground truths go through."""
    marks = PUNCTUATION.intersection(text)
    if marks:
        delete_all = _DIGIT_COMMA.search(text) is not None
        table = {
            ord(mark): "" if delete_all or mark + " " in text or " " + mark in text else " " for mark in marks
        }
        # The rule looks at the original text for every mark, so one pass is the same as twenty-one.
        stripped = text.translate(table)
    else:
        stripped = text
    return _FULL_STOP.sub("", stripped, count=_MAX_FULL_STOPS) if "." in stripped else stripped


def normalise_words(text: str) -> str:
    """Lower case, number words to digits, articles dropped, apostrophes put back."""
    words = [NUMBER_WORDS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@lru_cache(maxsize=1 << 16)
def normalise_prediction(text: str) -> str:
    """The form of a model's answer that is compared with the ground truths."""
    return normalise_words(strip_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))


@lru_cache(maxsize=1 << 16)
def normalise_for_server(text: str) -> str:
    """The form of an answer in the VQAv2 test-dev submission file of the release.

    Unlike `normalise_prediction`, commas and question marks go first, and a
    possessive 's is cut off its word.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalise_prediction(text.strip())


def exact_match(prediction: str, answers: str | Sequence[str]) -> float:
    """1.0 when the prediction equals an answer, letter case, outer space and a final stop aside."""
    answers = [answers] if isinstance(answers, str) else answers
    return float(_plain(prediction) in {_plain(answer) for answer in answers})


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".").rstrip()


def anls(prediction: str, answers: str | Sequence[str], threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one prediction (Biten et al. 2019).

    The best of the answers counts; a similarity below `threshold` counts as 0.
    """
    answers = [answers] if isinstance(answers, str) else answers
    return max((_similarity(prediction, answer, threshold) for answer in answers), default=0.0)


def _similarity(prediction: str, answer: str, threshold: float) -> float:
    prediction, answer = (" ".join(text.lower().split()) for text in (prediction, answer))
    longest = max(len(prediction), len(answer))
    if not longest:
        return 1.0
    similarity = 1.0 - edit_distance(prediction, answer) / longest
    return similarity if similarity >= threshold else 0.0


def edit_distance(left: str, right: str) -> int:
    """Levenshtein distance in characters."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
