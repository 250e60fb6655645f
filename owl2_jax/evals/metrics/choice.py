"""Reading the chosen option out of a generated answer.

One reader for every benchmark of lettered options. An answer that names no
option, or several, is None and counts as wrong. Two published scripts read
otherwise: MMMU's draws a random option for such an answer, which adds about
1/k of them to a score, and ScienceQA's takes the first letter it meets. Digits
are never letters: "2" is an option only where an option's text is "2".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from owl2_jax.evals.metrics.answer_text import clean, enclosed, plain, without_listing
from owl2_jax.evals.metrics.letters import NAMES_NO_OPTION, announced, bracketed, freestanding, leading, lone
from owl2_jax.evals.metrics.option_texts import announced_text, text_inside

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def option_lines(options: Sequence[str], letters: str = LETTERS) -> str:
    """The options as prompts show them: one "A. text" a line."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=False))


def letter_index(letter: object, letters: str) -> int:
    """Where a published answer stands among `letters`, letter case and outer space aside.

    Raises:
      ValueError: it is no letter, or none of these.
    """
    name = letter.strip().upper() if isinstance(letter, str) else ""
    if len(name) != 1 or name not in letters:
        raise ValueError(f"the answer is {letter!r}; expected one of {', '.join(letters)}")
    return letters.index(name)


def parse_choice(prediction: str, options: Sequence[str], letters: str = LETTERS) -> int | None:
    """Index of the option that `prediction` names, or None.

    Markup (Markdown, LaTeX, tags), full-width forms and a repetition of the list
    of options are set aside first. Then, the first that says something decides:
    a lone letter; the whole text of an option; what stands in the last
    `<answer>` or `\\boxed{}`; the last announced letter ("the answer is B", "B is
    correct"); an announced text; a leading letter ("B. red", "B, because"); the
    last letter in brackets; the one option whose text occurs in the answer; the
    one letter that stands free. Letters that are ruled out ("not A", "A is
    wrong") do not count; several together ("A and B") name no option.

    Args:
      prediction: the model's answer.
      options: the texts of the options.
      letters: the letter of each option; longer is fine.
    """
    letters = letters[: len(options)]
    texts = [plain(option) for option in options]
    if len(set(texts)) < len(texts) and prediction.strip() in options and len(prediction.strip()) > 1:
        return list(options).index(prediction.strip())  # "5!" beside "5"
    for inner in enclosed(prediction):
        found = _parse(clean(inner), texts, letters)
        if found is not None:
            return found
    return _parse(clean(prediction), texts, letters)


def _parse(answer: str, texts: list[str], letters: str) -> int | None:
    letter = lone(answer)
    if letter is not None and letter in letters:
        return letters.index(letter)
    if plain(answer) in texts:
        return texts.index(plain(answer))
    rest = without_listing(answer, texts, letters)
    if rest != answer:
        return _parse(rest, texts, letters)
    if letter is not None:
        return None
    for tier in (announced, announced_text, leading, bracketed, text_inside, freestanding):
        found = tier(answer, texts, letters)
        if found is not None:
            return None if found == NAMES_NO_OPTION else found
    return None
