"""A conversation: turns with images in any of them, one `</s>` per turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.conversation import encode_dialogue, encode_prompt
from owl2_jax.inference.engine import Engine
from owl2_jax.inference.request import Request, Result
from owl2_jax.sampling.params import Sampling

_EARLIER = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


class Chat:
    """Keeps the token ids of all turns, so that what was said is never tokenized again.

    The ids of a turn that is over do not change, and the engine finds their keys
    and values again instead of computing them a second time.

    Attributes:
      messages: the turns so far as `{"role": ..., "content": ...}`.
      images: all images so far, in the order of their tags.
    """

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling | None = None,
        max_new_tokens: int | None = None,
        **settings: Any,
    ):
        """`settings` are more of those of every `Request`: where answers end, what they look like."""
        self.engine = engine
        self.sampling = sampling or Sampling()
        self.max_new_tokens = max_new_tokens
        self._settings = settings
        self.reset()

    def reset(self) -> None:
        """Forgets everything said and shown."""
        self.messages: list[dict[str, str]] = []
        self.images: list[Any] = []
        self._ids = np.zeros((0,), np.int32)

    def ask(self, text: str, images: Sequence[Any] = ()) -> Iterator[str]:
        """Says something and yields the answer piece by piece.

        A turn counts once its answer ends; left early (the iterator is closed),
        the answer so far counts. A turn that fails leaves the chat as it was.

        Args:
          text: what the user says; an image tag for each image, or none:
            then the images stand in front.
          images: new images.

        Raises:
          Owl2Error: tags and images differ in number, an image cannot be
            read, the conversation is longer than the model allows, or the answer
            cannot have the form it is to have.
        """
        tag = self.engine.model.prompt_format.image_tag
        if images and tag not in text:
            text = tag * len(images) + text
        ids = np.concatenate([self._ids, self._turn_ids(text, len(images))])
        shown = [*self.images, *images]
        request_id = self.engine.submit(
            Request(
                ids,
                shown,
                self.sampling,
                max_new_tokens=self._answer_limit(ids, len(shown)),
                **self._settings,
            )
        )
        said = ""
        result: Result | None = None
        try:
            for event in self.engine.run(request_id):
                said += event.text
                result = event.result
                if event.text:
                    yield event.text
        finally:
            if result is None:
                result = self.engine.stop(request_id)
            if result.error is None:
                self._remember(text, said, ids, result, shown)
        if result.error is not None:
            raise Owl2Error(f"the answer could not go on: {result.error}")

    def _turn_ids(self, text: str, images: int) -> np.ndarray:
        """Ids of one user turn; later turns begin afresh after `</s>`, as in training."""
        model = self.engine.model
        message = {"role": "user", "content": text}
        if not self.messages:
            return encode_prompt([message], model.prompt_format, model.tokenizer, images).ids
        before = len(encode_dialogue(_EARLIER, model.prompt_format, model.tokenizer).ids)
        turns = [*_EARLIER, message]
        return encode_prompt(turns, model.prompt_format, model.tokenizer, images).ids[before:]

    def _answer_limit(self, ids: np.ndarray, images: int) -> int | None:
        """The wanted length of an answer, or what there is room for."""
        config = self.engine.model.config
        positions = len(ids) + images * (config.tokens_per_image - 1)
        room = config.decoder.max_length - positions
        if room < 1:
            raise Owl2Error(
                f"the conversation has {positions} positions and the model {config.decoder.max_length}; "
                "start a new one"
            )
        return None if self.max_new_tokens is None else min(self.max_new_tokens, room)

    def _remember(self, text: str, said: str, ids: np.ndarray, result: Result, shown: list[Any]) -> None:
        stops = self._settings.get("stop_token_ids", ())
        kept = [token for token in result.token_ids if token not in stops]
        answer = self.engine.model.tokenizer.answered(kept, said)
        self._ids = np.concatenate([ids, np.array(answer, np.int32)])
        self.images = shown
        self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
