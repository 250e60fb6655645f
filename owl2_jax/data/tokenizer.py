"""What every tokenizer does, whichever kind it is of; `data.tokenizers` opens one."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.vocabulary import why_no_fit


class TokenizerError(Owl2Error):
    """A tokenizer file, size or id that cannot be used."""


class DialogueIds(abc.ABC):
    """Ids and labels of a dialogue, grown together from its parts.

    Attributes:
      ids: so far; `axes.IMAGE_TOKEN` where an image stands.
      labels: as many; the id where it is learnt, `axes.IGNORE_LABEL` elsewhere.
    """

    ids: list[int]
    labels: list[int]

    @abc.abstractmethod
    def text(self, text: str, learnt: bool) -> None:
        """Adds text without image tags; what follows other text begins with a space."""

    @abc.abstractmethod
    def image(self) -> None:
        """Adds the place of an image."""

    @abc.abstractmethod
    def close_turn(self, learnt: bool) -> None:
        """Ends an answer."""

    @abc.abstractmethod
    def open_caption(self) -> None:
        """What stands between an image and its caption."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Ends the dialogue: `ids` and `labels` are whole."""


class StreamDecoder(abc.ABC):
    """Turns the ids of an answer into text one by one, never giving out part of a character.

    The pieces of text, joined and closed by `finish`, equal `decode_answer` of all ids.
    """

    @abc.abstractmethod
    def feed(self, ids: int | Iterable[int]) -> str:
        """Takes one id or several and returns the text that is complete by now."""

    @abc.abstractmethod
    def finish(self) -> str:
        """Ends the text: bytes that never became a character are U+FFFD."""


class Tokenizer(abc.ABC):
    """Text to ids and back.

    Attributes:
      bytes: the file, to be written beside a checkpoint.
      vocab_size: number of pieces V; ids are 0 .. V - 1.
      eos_id: the id that ends an answer.
      end_texts: texts that end an answer where the model writes them.
    """

    bytes: bytes
    vocab_size: int
    eos_id: int
    end_texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.vocab_size

    @abc.abstractmethod
    def encode(self, text: str, bos: bool = False, control_tokens: bool = True) -> list[int]:
        """Returns the ids of `text`.

        Args:
          bos: begin a sample, with whatever stands there before its text.
          control_tokens: the tokenizer's special tokens in the text become their
            ids; otherwise they are characters like any others.

        Raises:
          TokenizerError: the text has no UTF-8 form (half of a surrogate pair).
        """

    @abc.abstractmethod
    def control_tokens(self, text: str) -> list[str]:
        """The special tokens that stand in a text, in order."""

    @abc.abstractmethod
    def encode_continuation(self, text: str, control_tokens: bool = True) -> list[int]:
        """Returns the ids of `text` where it goes on from earlier text; it starts with a space."""

    @abc.abstractmethod
    def dialogue(self, control_tokens: bool) -> DialogueIds:
        """An empty dialogue; `control_tokens` is as for `encode`."""

    @abc.abstractmethod
    def answered(self, ids: Sequence[int], text: str) -> list[int]:
        """The ids of a whole turn in a history, from those of an answer and its text."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Returns the text of `ids`; bytes that form no character become U+FFFD."""

    @abc.abstractmethod
    def decode_answer(self, ids: Iterable[int]) -> str:
        """The text of an answer, without the space that a template puts before it."""

    @abc.abstractmethod
    def stream(self, started: bool = False) -> StreamDecoder:
        """Decodes one answer; with `started` it goes on with other text, and a space in front is kept."""

    @abc.abstractmethod
    def piece(self, token_id: int) -> str:
        """Returns the piece of one id, for people to read."""

    @abc.abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """What an id adds to a text; it may be part of a character."""

    @abc.abstractmethod
    def is_special(self, token_id: int) -> bool:
        """Says whether an id is a special token, which decoding leaves out."""

    def require_size(self, vocab_size: int) -> None:
        """Raises TokenizerError unless a model with this many embeddings, spare ones included, fits."""
        wrong = why_no_fit(self.vocab_size, vocab_size)
        if wrong:
            raise TokenizerError(f"{wrong}; use the tokenizer that the checkpoint was trained with")

    def _checked(self, ids: Iterable[int]) -> list[int]:
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise TokenizerError(
                    f"token id {i} is outside the vocabulary 0 .. {self.vocab_size - 1}; "
                    "take image placeholders and labels out before decoding"
                )
        return ids


def without_utf8(text: str) -> TokenizerError:
    """The error for text that no file can hold."""
    return TokenizerError(
        f"cannot encode {text[:40]!r}: expected text that has a UTF-8 form; repair or drop the record"
    )
