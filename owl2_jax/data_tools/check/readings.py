"""What the reading of records (`data.reading`) makes of the texts of a mixture, in counts and sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from owl2_jax.core.errors import counted
from owl2_jax.data.messages import Message
from owl2_jax.data.released_reading import ReleasedImageError, loses_its_loss
from owl2_jax.data.tokenizer import Tokenizer

_SHOWN = 60


@dataclass
class TextNotes:
    """Records whose texts the readings treat differently.

    Attributes:
      counts: records by what was found in them, "control", "lost_loss" or "refused".
      first: {key: an example}.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, messages: Sequence[Message], tokenizer: Tokenizer) -> None:
        """Notes a record; `name` says which it is."""
        texts = [message["content"] for message in messages]
        marked = [text for text in texts if tokenizer.control_tokens(text)]
        if marked:
            token = tokenizer.control_tokens(marked[0])[0]
            self._note("control", f"{name}: {_around(marked[0], token)}")
        if loses_its_loss(messages):
            self._note("lost_loss", name)

    def refuse(self, name: str, reason: str, detail: str) -> None:
        """Notes a rejected record where the released reading is the reason."""
        if reason == ReleasedImageError.reason:
            self._note("refused", f"{name}: {detail}")

    def _note(self, key: str, example: str) -> None:
        self.counts[key] += 1
        self.first.setdefault(key, example)


def remarks(reading: str, notes: TextNotes) -> Iterator[str]:
    """Sentences on what the reading does to the records that were read."""
    control = notes.counts["control"]
    if control:
        holds = "holds" if control == 1 else "hold"
        becomes = "become control ids" if reading == "released" else "stay text"
        yield (
            f"{counted(control, 'record')} {holds} <s>, </s> or <unk>, which {becomes} "
            f"(data.reading={reading}); {notes.first['control']}."
        )
    if reading != "released":
        return
    refused = notes.counts["refused"]
    yield (
        f"data.reading=released refuses {counted(refused, 'record')} that the released code trains"
        + (f"; {notes.first['refused']}." if refused else ".")
    )
    lost = notes.counts["lost_loss"]
    if lost:
        yield (
            f"{counted(lost, 'record')} learnt here {'loses its' if lost == 1 else 'lose their'} whole loss "
            "in the released code, which takes ' ASSISTANT: ' or </s> in a text for a border; "
            f"{notes.first['lost_loss']}."
        )


def _around(text: str, token: str) -> str:
    """The part of a text around a token, in quotes."""
    start = max(0, text.index(token) - _SHOWN // 2)
    part = text[start : start + _SHOWN]
    return ("..." if start else "") + repr(part) + ("..." if start + _SHOWN < len(text) else "")
