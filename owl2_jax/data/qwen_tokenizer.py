"""Qwen's tokenizer: byte-level BPE over text in NFC, read by `tiktoken` from a file of ranks.

It has no token in front of a text. Turns end in `</s>`, which is text like any
other here: a token may hold the end of an answer and the beginning of `</s>`. Text
between images is encoded as a whole, cut after the `</s>` of the template alone, where
no token reaches across (`>` and `USER` are two). `<|endoftext|>` ends and pads.
"""

from __future__ import annotations

import codecs
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from owl2_jax.core.axes import IGNORE_LABEL, IMAGE_TOKEN
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.overriding import override
from owl2_jax.core.tokenizer_files import SPECIAL_TOKENS, read_ranks
from owl2_jax.data.tokenizer import DialogueIds, StreamDecoder, Tokenizer, TokenizerError, without_utf8

if TYPE_CHECKING:
    import tiktoken

SEPARATOR: Final = "</s>"
_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class QwenTokenizer(Tokenizer):
    """A file of ranks with Qwen's special tokens after them.

    Raises:
      TokenizerError: the file is damaged, or `tiktoken` is not installed.
    """

    end_texts = (SEPARATOR,)

    def __init__(self, data: bytes, source: str = "<bytes>"):
        self.bytes = data
        try:
            ranks = read_ranks(data, f"the tokenizer {source}")
        except Owl2Error as error:
            raise TokenizerError(str(error)) from None
        self._first_special = len(ranks)
        self._special = {name: len(ranks) + number for number, name in enumerate(SPECIAL_TOKENS)}
        self._ids = _encoding(ranks, self._special)
        self.vocab_size = len(ranks) + len(SPECIAL_TOKENS)
        self.eos_id = self._special["<|endoftext|>"]
        self._splitter = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))

    def __reduce__(self):
        return QwenTokenizer, (self.bytes,)

    @override
    def encode(self, text: str, bos: bool = False, control_tokens: bool = True) -> list[int]:
        text = normalized(text)
        if control_tokens:
            return self._ids.encode(text, allowed_special="all")
        return self._ids.encode_ordinary(text)

    @override
    def control_tokens(self, text: str) -> list[str]:
        return self._splitter.findall(text)

    @override
    def encode_continuation(self, text: str, control_tokens: bool = True) -> list[int]:
        if not text.startswith(" "):
            raise ValueError(f"a continuation starts with a space, got {text[:20]!r}")
        return self.encode(text, control_tokens=control_tokens)

    @override
    def dialogue(self, control_tokens: bool) -> DialogueIds:
        return QwenDialogue(self, control_tokens)

    @override
    def answered(self, ids: Sequence[int], text: str) -> list[int]:
        return self.encode(f" {text}{SEPARATOR}", control_tokens=False)

    @override
    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        ids = self._checked(ids)
        kept = [i for i in ids if not (skip_special and self.is_special(i))]
        return b"".join(map(self.token_bytes, kept)).decode(errors="replace")

    @override
    def decode_answer(self, ids: Iterable[int]) -> str:
        return self.decode(ids).removeprefix(" ")

    @override
    def stream(self, started: bool = False) -> StreamDecoder:
        return ByteStream(self, started)

    @override
    def piece(self, token_id: int) -> str:
        data = self.token_bytes(self._checked([token_id])[0])
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)

    @override
    def token_bytes(self, token_id: int) -> bytes:
        if self.is_special(token_id):
            return SPECIAL_TOKENS[token_id - self._first_special].encode()
        return self._ids.decode_single_token_bytes(token_id)

    @override
    def is_special(self, token_id: int) -> bool:
        return self._first_special <= token_id < self.vocab_size


class QwenDialogue(DialogueIds):
    """Encodes everything between two images, or ends of turns, as one text."""

    def __init__(self, tokenizer: QwenTokenizer, control_tokens: bool):
        self.ids, self.labels = [], []
        self._tokenizer, self._control_tokens = tokenizer, control_tokens
        self._parts: list[tuple[str, bool]] = []  # since the last image or turn

    @override
    def text(self, text: str, learnt: bool) -> None:
        self._parts.append((text, learnt))

    @override
    def image(self) -> None:
        self.finish()
        self.ids.append(IMAGE_TOKEN)
        self.labels.append(IGNORE_LABEL)

    @override
    def close_turn(self, learnt: bool) -> None:
        self._parts.append((SEPARATOR, learnt))
        self.finish()

    @override
    def open_caption(self) -> None:
        pass

    @override
    def finish(self) -> None:
        """A token is learnt where its first byte is."""
        parts, self._parts = self._parts, []
        ids = self._tokenizer.encode("".join(text for text, _ in parts), False, self._control_tokens)
        texts = itertools.accumulate(text for text, _ in parts)
        ends = [len(normalized(text).encode()) for text in texts]
        position, part = 0, 0
        for token_id in ids:
            while part < len(ends) - 1 and position >= ends[part]:
                part += 1
            self.ids.append(token_id)
            self.labels.append(token_id if parts[part][1] else IGNORE_LABEL)
            position += len(self._tokenizer.token_bytes(token_id))


class ByteStream(StreamDecoder):
    """Text of ids that come one after the other: characters once their bytes are all there."""

    def __init__(self, tokenizer: QwenTokenizer, started: bool):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._started = started

    @override
    def feed(self, ids: int | Iterable[int]) -> str:
        ids = [ids] if isinstance(ids, int) or not isinstance(ids, Iterable) else ids
        kept = [i for i in self._tokenizer._checked(ids) if not self._tokenizer.is_special(i)]
        return self._without_space(self._decoder.decode(b"".join(map(self._tokenizer.token_bytes, kept))))

    @override
    def finish(self) -> str:
        return self._without_space(self._decoder.decode(b"", final=True))

    def _without_space(self, text: str) -> str:
        """The text without the one space that an answer begins with."""
        if self._started or not text:
            return text
        self._started = True
        return text.removeprefix(" ")


def normalized(text: str) -> str:
    """Text in NFC. Raises `TokenizerError` where it has no UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise without_utf8(text) from error
    return unicodedata.normalize("NFC", text)


def _encoding(ranks: dict[bytes, int], special: dict[str, int]) -> tiktoken.Encoding:
    try:
        import tiktoken
    except ImportError as error:
        raise TokenizerError(
            'a qwen.tiktoken tokenizer needs tiktoken; install it with: pip install "owl2_jax[qwen]"'
        ) from error
    return tiktoken.Encoding("qwen", pat_str=_SPLIT, mergeable_ranks=ranks, special_tokens=special)
