"""Questions that the chat page offers; what has a published wording is asked in it."""

from __future__ import annotations

from owl2_jax.core.prompt_format import IMAGE_TAG
from owl2_jax.data.prompts import get_prompt


def _published(label: str, prompt: str, **fields: str) -> dict[str, str]:
    """`label` is what the page shows for it."""
    return {"label": label, "text": get_prompt(prompt).message(**fields).removeprefix(IMAGE_TAG)}


def _plain(question: str) -> dict[str, str]:
    return {"label": question, "text": question}


EXAMPLES = (
    _plain("What is in this image?"),
    _published("Caption it in one sentence", "caption"),
    _plain("What color is it?"),
    _published("How many objects? In a word", "vqa", question="How many objects are there?"),
)
