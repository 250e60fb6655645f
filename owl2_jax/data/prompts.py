"""The prompts of training, evaluation and serving, in one registry.

The texts are those of the released mPLUG-Owl2 evaluation, to the byte: the
space after `ASSISTANT:`, the line breaks and the typographic apostrophe of
`LETTER` change tokens, and with them scores. Every evaluation result carries
the hash of its prompt, so that two results with equal hashes asked alike.
"""

from __future__ import annotations

import hashlib
import string
from dataclasses import dataclass

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.prompt_format import IMAGE_TAG, RELEASED
from owl2_jax.data.templates import get_template

WORD = "Answer the question using a single word or phrase."
LETTER = "Answer with the option\N{RIGHT SINGLE QUOTATION MARK}s letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."
_DIALOGUE = get_template(RELEASED.template)


@dataclass(frozen=True)
class Prompt:
    """A prompt with `{fields}`.

    Attributes:
      name: Its name in `PROMPTS`.
      body: What the user says, with fields in braces.
      opening: What stands before the body.
      ending: What stands after it, up to where the model goes on.
      without: A phrase removed from the finished body ("" for none).
    """

    name: str
    body: str
    opening: str = f"{_DIALOGUE.user}: "
    ending: str = f" {_DIALOGUE.assistant}: "
    without: str = ""

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(field for _, field, _, _ in string.Formatter().parse(self.body) if field)

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that change with any byte of the template."""
        parts = (self.opening, self.body, self.ending, self.without)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    def message(self, **fields: str) -> str:
        """The user's message alone, for training data and chat."""
        if set(fields) != set(self.fields):
            raise Owl2Error(
                f"prompt {self.name!r} takes the fields {', '.join(self.fields) or 'none'}; "
                f"got {', '.join(sorted(fields)) or 'none'}"
            )
        text = self.body.format(**fields)
        return text.replace(self.without, "") if self.without else text

    def text(self, **fields: str) -> str:
        """The whole prompt, ready to be tokenized: opening, message and ending."""
        return self.opening + self.message(**fields) + self.ending


def _raw(name: str, body: str) -> Prompt:
    """A text-only prompt that is continued as it stands, without chat turns."""
    return Prompt(name, body, opening="", ending="")


_ALL = (
    Prompt("vqa", f"{IMAGE_TAG}{{question}} {WORD}"),
    Prompt("caption", f"{IMAGE_TAG}{CAPTION}"),
    Prompt("question", f"{IMAGE_TAG}{{question}}"),
    # Its questions end in "Please answer yes or no."; the space before that phrase stays.
    Prompt("mme", f"{IMAGE_TAG}{{question}}\n{WORD}", without="Please answer yes or no."),
    Prompt("choice", f"{IMAGE_TAG}{{question}}\n{{options}}\n{LETTER}"),
    Prompt("choice_hint", f"{IMAGE_TAG}{{hint}}\n{{question}}\n{{options}}\n{LETTER}"),
    # The images stand inside these questions.
    Prompt("mmmu_choice", f"{{question}}\n{{options}}\n{LETTER}"),
    Prompt("mmmu_open", f"{{question}}\n{WORD}"),
    # One image tag per sampled frame.
    Prompt("video", f"{{frames}}{{question}} {WORD}"),
    _raw(
        "mmlu",
        "The following are multiple choice questions (with answers) about {subject}.\n\n"
        "{shots}{question}\n{options}\nAnswer:",
    ),
    _raw("arc", "Question: {question}\n{options}\nAnswer:"),
    _raw("bbh", "{shots}\n\nQ: {question}\nA: Let's think step by step."),
    _raw(
        "agieval_choice",
        "{passage}Q: {question} Answer Choices: {options}\nA: Among A through {last}, the answer is",
    ),
    _raw("agieval_cloze", "{passage}Q: {question}\nA: The answer is"),
    # The embedded corpus asks in its own words; the checkpoint's template goes around them.
    _raw("as_asked", "{question}"),
)

PROMPTS: dict[str, Prompt] = {prompt.name: prompt for prompt in _ALL}


def get_prompt(name: str) -> Prompt:
    """The prompt of that name; raises `UnknownNameError` with near names otherwise."""
    if name not in PROMPTS:
        raise unknown_name("prompt", name, PROMPTS)
    return PROMPTS[name]
