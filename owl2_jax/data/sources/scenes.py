"""Scenes drawn from seeds (`owl2_jax.data.scenes`), as images or in words, with questions about them.

The splits:

    train      pairs of colour and shape, and words, that training may show
    test       other scenes of the same
    composed   asks for pairs and words that training never shows
    transfer   asks in one modality for the homes that only the other one teaches
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Annotated

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.ranges import Seed, at_least, between
from owl2_jax.core.texts import AnyText, Name
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.scenes.drawing import png
from owl2_jax.data.scenes.questions import Asked, Modality, Split, Wanted, asked, kinds_of, untested_kinds
from owl2_jax.data.scenes.scene import LEVELS
from owl2_jax.data.scenes.turns import more_turns
from owl2_jax.data.sources.base import DEFAULT_IMAGE_TAG, Example, Style, checked_index

Difficulty = Annotated[int, between(min(LEVELS), max(LEVELS))]
Examples = Annotated[int, at_least(1, most=2**31)]
Turns = Annotated[int, between(1, 16)]


class ScenesSource:
    """One split of the scenes, shown in one modality; the kinds of question take turns.

    Args:
      split: "train", "test", "composed" or "transfer".
      modality: "images", or "text": the same scenes in words.
      kinds: Only these of "count", "relation", "size", "odd", "word" and
        "home"; None for all that the split has. "caption", of the split
        "train", is there where it is named: the scene in words, and with
        "text" without the scene, for its language alone; so is "repeat", of
        "text": the scene in words, and again in another order.
      difficulty: 1 to 3: more things, sizes that differ less, longer words,
        noise, and odd ones out among things that are not all alike.
      turns: Questions and answers about each scene, in one conversation. Those
        after the first ask for numbers, sides, sizes, places and what is at a
        place; the split "train" alone has them.
      examples: How many there are; a longer source begins with a shorter one.
      seed: Of the scenes.
      prompt: Text around the question, with `{question}` in it.
      image_tag: The tag that marks the image in the messages.

    Raises:
      UnknownNameError: The split has no such kind in this modality.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        modality: Modality = "images",
        kinds: Sequence[Name] | None = None,
        difficulty: Difficulty = 2,
        turns: Turns = 1,
        examples: Examples = 20_000,
        seed: Seed = 0,
        prompt: AnyText = "{question}",
        image_tag: ImageTag = DEFAULT_IMAGE_TAG,
    ):
        known = kinds_of(modality, split)
        named = (*known, *untested_kinds(modality, split))
        for kind in kinds or ():
            if kind not in named:
                raise unknown_name(f"kind of the scenes' split {split} in {modality}", kind, named)
        if kinds is not None and not kinds:
            raise Owl2Error(f"the scenes have no kinds of question; give some of {', '.join(named)}, or None")
        self.kinds = known if kinds is None else tuple(dict.fromkeys(kinds))
        self.style = Style("scenes", prompt, image_tag)
        self.style.require_question()
        if turns > 1 and split != "train":
            raise Owl2Error(f"turns is {turns}, but the split {split} is scored by one answer each: 1")
        self._turns = turns
        self._wanted = Wanted(LEVELS[difficulty], modality, split)
        self._key, self._length = f"{seed}/{difficulty}", examples

    def __len__(self) -> int:
        return self._length

    @property
    def files(self) -> list[str]:
        """None: what an index holds follows from the settings alone."""
        return []

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), "scenes")
        kind, one = self._asked(position)
        wanted = self._wanted
        name = f"scenes/{wanted.split}/{wanted.modality}/{kind}/{position:05d}"
        if one.scene is None or wanted.modality == "text":
            words = "" if one.scene is None else f"{one.scene.words()} "
            example = self.style.example(name, words + one.question, one.answer, kind=kind)
        else:
            key = f"scenes/{self._key}/{name}"
            example = self.style.example(
                name, one.question, one.answer, [png(one.scene)], kind=kind, image_keys=[key]
            )
        if self._turns > 1:
            for turn in more_turns(Random(name), one, self._turns - 1):
                example["messages"] += self.style.turn(turn.question, turn.answer)
        return example

    def description(self) -> str:
        """One line: what the split is and how much it holds."""
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kind_counts().items()))
        return f"scenes {self._wanted.split} in {self._wanted.modality}: {len(self)} examples ({counts})"

    def kind_counts(self) -> dict[str, int]:
        """Number of examples of each kind."""
        whole, rest = divmod(len(self), len(self.kinds))
        counts = {kind: whole + (i < rest) for i, kind in enumerate(self.kinds)}
        return {kind: count for kind, count in counts.items() if count}

    def question_answers(self) -> list[tuple[str, str, str]]:
        """(kind, question, answer) of every example, without the scenes."""
        found = map(self._asked, range(len(self)))
        return [(kind, one.question, one.answer) for kind, one in found]

    def answers_by_kind(self) -> dict[str, Counter[str]]:
        """How often each answer occurs, for each kind of question."""
        counts: dict[str, Counter[str]] = {kind: Counter() for kind in self.kind_counts()}
        for kind, _, answer in self.question_answers():
            counts[kind][answer] += 1
        return counts

    def _asked(self, position: int) -> tuple[str, Asked]:
        kind = self.kinds[position % len(self.kinds)]
        return kind, asked(kind, self._wanted, f"{self._key}/{position}")
