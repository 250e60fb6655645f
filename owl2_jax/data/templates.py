"""Templates: how a dialogue becomes text, and which of the text is learnt.

mplug_owl2   USER: <|image|>What? ASSISTANT: A dog.</s>USER: ...
learnt       -----------------------------+++++++++++-----------
plain        <|image|>A dog on a beach.
learnt       ---------+++++++++++++++++++
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from owl2_jax.core.errors import unknown_name
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.data.messages import ConversationError, Message, check_messages

EOS = "</s>"


@dataclass(frozen=True)
class Template:
    """How a dialogue becomes text.

    Attributes:
      name: the key in `TEMPLATES`.
      system: sentence in front of the first turn; empty for none.
      user, assistant: what each turn starts with, a colon added.
      caption: there are no turns: the images of the one user message (its
        words are left out, as in the released pre-training), then the caption
        and a space, without a closing `</s>`.
    """

    name: str
    system: str = ""
    user: str = "USER"
    assistant: str = "ASSISTANT"
    caption: bool = False


_ASSISTANT_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TEMPLATES: dict[str, Template] = {
    "mplug_owl2": Template("mplug_owl2"),
    "v1": Template("v1", system=_ASSISTANT_SYSTEM),
    "plain": Template("plain", caption=True),
}


def get_template(name: str) -> Template:
    """Returns the template of a name. Raises UnknownNameError for any other name."""
    if name not in TEMPLATES:
        raise unknown_name("template", name, TEMPLATES)
    return TEMPLATES[name]


def render(messages: Sequence[Message], prompt_format: PromptFormat, trailing_space: bool = False) -> str:
    """Returns the dialogue as the text the model reads, image tags in place.

    With `trailing_space` an open turn ends in `ASSISTANT: ` instead of `ASSISTANT:`.

    Raises: what `check_messages` and `spans` raise.
    """
    check_messages(messages, prompt_format.image_tag)
    parts = spans(messages, prompt_format, trailing_space)
    return "".join(part.text + EOS * part.closes for part in parts)


class Span(NamedTuple):
    """A part of a rendered dialogue.

    Attributes:
      text: as people wrote it, and the template around it.
      learnt: the model learns it.
      closes: a `</s>` of the template follows; it is no part of the text, so
        that none in a text can be taken for it.
    """

    text: str
    learnt: bool
    closes: bool = False


def spans(
    messages: Sequence[Message], prompt_format: PromptFormat, trailing_space: bool = False
) -> Iterator[Span]:
    """Yields the dialogue in order.

    A learnt span that follows on other text starts with a space; spans after
    `</s>` or an image are encoded afresh.

    Raises: UnknownNameError for a template that is none; ConversationError for messages it
      has no place for, and for `trailing_space` where no turn is open.
    """
    template = get_template(prompt_format.template)
    if template.caption:
        open_turn = yield from _caption_spans(messages, prompt_format.image_tag)
    else:
        open_turn = yield from _turn_spans(messages, template)
    if trailing_space and not open_turn:
        raise ConversationError("a trailing space belongs after an open 'ASSISTANT:'; no turn is open here")
    if trailing_space:
        open_turn += " "
    yield Span(open_turn, False)


def _turn_spans(messages: Sequence[Message], template: Template) -> Generator[Span, None, str]:
    # An empty answer leaves its turn open, and the next turn is encoded with it.
    pending = f"{template.system} " if template.system else ""
    for index, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "user":
            if not content:
                raise ConversationError(
                    f"message {index}, the user's, is empty; write a question or an image"
                )
            pending += f"{template.user}: {content} {template.assistant}:"
        elif content:
            pending += "" if index else f"{template.assistant}:"
            yield Span(pending, False)
            yield Span(f" {content}", True, closes=True)
            pending = ""
    return pending


def _caption_spans(messages: Sequence[Message], image_tag: str) -> Generator[Span, None, str]:
    if len(messages) > 2:
        raise ConversationError(f"a caption has one user and one assistant message, found {len(messages)}")
    if messages[0]["role"] != "user":
        raise ConversationError("the assistant speaks first, and template 'plain' has no place for that")
    question = messages[0]["content"]
    images = image_tag * question.count(image_tag)
    if question and not images:
        raise ConversationError(
            f"the user message {question[:40]!r} has no image, and template 'plain' keeps nothing else of "
            "it; leave it empty or choose 'mplug_owl2'"
        )
    yield Span(images, False)
    if len(messages) == 2 and messages[1]["content"]:
        yield Span(f"{messages[1]['content']} ", True)
    return ""
