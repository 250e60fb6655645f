"""SentencePiece tokenizer with the legacy LLaMA treatment of text.

What "legacy" means here, and why a plain SentencePiece call is not enough:

* `<s>`, `</s>` and `<unk>` written inside a text become their ids; the text is
  split there and every part is encoded by itself. Text of strangers is encoded
  with `control_tokens=False`, where these are characters like any others.
* Each part gets the dummy prefix, so it starts with a word-boundary piece even
  when it follows a special token: `a</s>b` gives `▁a </s> ▁b`.
* A newline or any character outside the vocabulary becomes byte pieces.

These are the ids the released mPLUG-Owl2 checkpoint was trained on.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence

import sentencepiece

from owl2_jax.core.axes import IGNORE_LABEL, IMAGE_TOKEN
from owl2_jax.core.overriding import override
from owl2_jax.core.text_files import what_was_downloaded
from owl2_jax.data.tokenizer import DialogueIds, StreamDecoder, Tokenizer, TokenizerError, without_utf8

WORD_BOUNDARY = "▁"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model read as legacy LLaMA reads it.

    Attributes:
      bos_id, eos_id, unk_id: ids of `<s>`, `</s>` and `<unk>`.

    Raises:
      TokenizerError: no SentencePiece model, or one that lacks the pieces a LLaMA
        tokenizer has.
    """

    def __init__(self, data: bytes, source: str = "<bytes>"):
        self.bytes = data
        self._pieces = _parse(self.bytes, source)
        self.vocab_size: int = self._pieces.vocab_size()
        self.bos_id: int = self._pieces.bos_id()
        self.eos_id: int = self._pieces.eos_id()
        self.unk_id: int = self._pieces.unk_id()
        self._known: dict[int, tuple[str, int | None]] = {}
        self._boundary_id: int = self._pieces.piece_to_id(WORD_BOUNDARY)
        self._require_llama_pieces(source)
        self._special = {self.piece(i): i for i in (self.bos_id, self.eos_id, self.unk_id)}
        self._special_ids = frozenset(self._special.values())
        self._splitter = re.compile("(" + "|".join(map(re.escape, self._special)) + ")")

    def __reduce__(self):
        return SentencePieceTokenizer, (self.bytes,)

    @override
    def encode(self, text: str, bos: bool = False, control_tokens: bool = True) -> list[int]:
        """Returns the ids of `text`, with `<s>` in front when `bos` is set.

        Args:
          control_tokens: `<s>`, `</s>` and `<unk>` in the text become their ids;
            otherwise they are spelt with the pieces of their characters.

        Raises:
          TokenizerError: the text has no UTF-8 form (half of a surrogate pair).
        """
        ids = [self.bos_id] if bos else []
        for part in self._splitter.split(text) if control_tokens else (text,):
            if part:
                special = self._special.get(part) if control_tokens else None
                ids.extend(self._encode_part(part) if special is None else [special])
        return ids

    @override
    def control_tokens(self, text: str) -> list[str]:
        """The `<s>`, `</s>` and `<unk>` that stand in a text, in order."""
        return self._splitter.findall(text)

    @override
    def encode_continuation(self, text: str, control_tokens: bool = True) -> list[int]:
        """Returns the ids of `text` where it goes on from earlier text.

        `text` starts with a space, and that space takes the place of the dummy
        prefix: `encode(a) + encode_continuation(b) == encode(a + b)`, because no
        piece reaches across a word boundary.
        """
        if not text.startswith(" "):
            raise ValueError(f"a continuation starts with a space, got {text[:20]!r}")
        rest = text[1:]
        # SentencePiece adds no prefix to an empty text, so a space that stands
        # alone (before an image, a special token or the end) is written by hand.
        if not rest or (control_tokens and self._splitter.match(rest)):
            return [self._boundary_id, *self.encode(rest)]
        return self.encode(rest, control_tokens=control_tokens)

    @override
    def dialogue(self, control_tokens: bool) -> DialogueIds:
        return PieceDialogue(self, control_tokens)

    @override
    def answered(self, ids: Sequence[int], text: str) -> list[int]:
        return [*(i for i in ids if i != self.eos_id), self.eos_id]

    @override
    def decode_answer(self, ids: Iterable[int]) -> str:
        return self.decode(ids)

    @override
    def stream(self, started: bool = False) -> StreamDecoder:
        return PieceStream(self, started)

    @override
    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Returns the text of `ids`; bytes that form no character become U+FFFD.

        With `skip_special=False` the special tokens are written out, with the
        spacing of the legacy LLaMA tokenizer (a space goes before the text that
        a special token ends: `<s> a</s>`).
        """
        ids = self._checked(ids)
        if skip_special:
            return self._pieces.decode([i for i in ids if i not in self._special_ids])
        return self._decode_with_special(ids)

    @override
    def piece(self, token_id: int) -> str:
        """Returns the piece of one id as the model writes it (`▁house`, `<0x0A>`)."""
        return self._look_up(token_id)[0]

    @override
    def is_special(self, token_id: int) -> bool:
        """Says whether an id is `<s>`, `</s>` or `<unk>`, which decoding leaves out."""
        return token_id in self._special_ids

    def byte_value(self, token_id: int) -> int | None:
        """Returns 0 .. 255 for a byte piece and None for any other id."""
        return self._look_up(token_id)[1]

    def _look_up(self, token_id: int) -> tuple[str, int | None]:
        """Piece and byte of an id, asked for once: answers that are streamed ask for every token."""
        found = self._known.get(token_id)
        if found is None:
            (number,) = self._checked([token_id])
            piece = self._pieces.id_to_piece(number)
            found = piece, int(piece[3:5], 16) if self._pieces.is_byte(number) else None
            self._known[number] = found
        return found

    @override
    def token_bytes(self, token_id: int) -> bytes:
        value = self.byte_value(token_id)
        if value is not None:
            return bytes([value])
        return self.piece(token_id).replace(WORD_BOUNDARY, " ").encode()

    def _encode_part(self, part: str) -> list[int]:
        try:
            return self._pieces.encode(part)
        except (RuntimeError, UnicodeEncodeError) as error:
            raise without_utf8(part) from error

    def _decode_with_special(self, ids: Sequence[int]) -> str:
        text, run, after_special = "", [], False
        for index, i in enumerate(ids):
            if i not in self._special_ids:
                run.append(i)
                after_special = False
                continue
            space = " " if index and not after_special else ""
            text += space + self._pieces.decode(run) + self.piece(i)
            run, after_special = [], True
        return text + self._pieces.decode(run)

    def _require_llama_pieces(self, source: str) -> None:
        needed = {"<s>": self.bos_id, "</s>": self.eos_id, "<unk>": self.unk_id}
        missing = [name for name, i in needed.items() if i < 0]
        if self._boundary_id == self.unk_id:
            missing.append(WORD_BOUNDARY)
        if missing:
            raise TokenizerError(
                f"the tokenizer {source} has no piece for {', '.join(missing)}; "
                "a LLaMA-style SentencePiece model is expected"
            )


class PieceDialogue(DialogueIds):
    """Encodes each part by itself; what follows an image or `</s>` begins afresh."""

    def __init__(self, tokenizer: SentencePieceTokenizer, control_tokens: bool):
        self.ids, self.labels = [], []
        self._tokenizer, self._control_tokens = tokenizer, control_tokens

    @override
    def text(self, text: str, learnt: bool) -> None:
        self._append(self._encode(text), learnt)

    @override
    def image(self) -> None:
        self._append([IMAGE_TOKEN], learnt=False)

    @override
    def close_turn(self, learnt: bool) -> None:
        self._append([self._tokenizer.eos_id], learnt)

    @override
    def open_caption(self) -> None:
        """Puts the `<s>` in front of a caption, so that the caption's words come next."""
        self._append([self._tokenizer.bos_id], learnt=False)

    @override
    def finish(self) -> None:
        pass

    def _encode(self, part: str) -> list[int]:
        last = self.ids[-1] if self.ids else IMAGE_TOKEN
        if last not in (IMAGE_TOKEN, self._tokenizer.eos_id):
            return self._tokenizer.encode_continuation(part, self._control_tokens)
        bos_each_part = not self.ids or self.ids[0] == IMAGE_TOKEN
        bos = last == IMAGE_TOKEN and bos_each_part
        return self._tokenizer.encode(part, bos, self._control_tokens)

    def _append(self, ids: list[int], learnt: bool) -> None:
        self.ids += ids
        self.labels += ids if learnt else [IGNORE_LABEL] * len(ids)


class PieceStream(StreamDecoder):
    """Text of ids that come one after the other: pieces at once, characters of byte pieces once whole."""

    def __init__(self, tokenizer: SentencePieceTokenizer, started: bool):
        self._tokenizer = tokenizer
        self._bytes = b""
        self._started = started

    @override
    def feed(self, ids: int | Iterable[int]) -> str:
        """Takes one id or several and returns the text that is complete by now."""
        ids = [ids] if isinstance(ids, int) or not isinstance(ids, Iterable) else ids
        return "".join(self._feed_one(int(i)) for i in ids)

    @override
    def finish(self) -> str:
        """Ends the text: bytes that never became a character are U+FFFD each."""
        rest, self._bytes = self._bytes, b""
        return _decode_bytes(rest, final=True)[0]

    def _feed_one(self, token_id: int) -> str:
        value = self._tokenizer.byte_value(token_id)
        if self._tokenizer.is_special(token_id):
            return ""
        if value is not None:
            self._started = True
            text, self._bytes = _decode_bytes(self._bytes + bytes([value]), final=False)
            return text
        text = self._tokenizer.piece(token_id)
        # The dummy prefix of the first piece is no part of the text.
        text = text if self._started else text.removeprefix(WORD_BOUNDARY)
        self._started = True
        return self.finish() + text.replace(WORD_BOUNDARY, " ")


def train_tokenizer(lines: Iterable[str], vocab_size: int) -> bytes:
    """Trains a SentencePiece model with LLaMA's settings and returns the file.

    BPE with byte fallback, digits split, text taken as it is (identity
    normaliser, spaces kept, dummy prefix), `<unk>`, `<s>`, `</s>` = 0, 1, 2. The
    same lines give the same bytes.

    Args:
      lines: the text. A line break inside a line ends the line, so that line
        breaks stay byte pieces as in LLaMA.
      vocab_size: number of pieces, the 3 special and 256 byte pieces included.

    Raises:
      TokenizerError: the text is empty or does not support `vocab_size` pieces.
    """
    sentences = [part for line in lines for part in line.split("\n") if part.strip()]
    if not sentences:
        raise TokenizerError("no text to train a tokenizer on; give at least one line that is not blank")
    model = io.BytesIO()
    try:
        longest = max(len(s.encode()) for s in sentences)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size,
            # Longer lines would be left out without a word.
            max_sentence_length=max(4192, longest + 1),
            **_LLAMA_TRAINING,
        )
    except (RuntimeError, OSError, UnicodeEncodeError) as error:
        reason = str(error).strip().rsplit("] ", 1)[-1]
        raise TokenizerError(f"cannot train a tokenizer of {vocab_size} pieces: {reason}") from error
    return model.getvalue()


_LLAMA_TRAINING = {
    "model_type": "bpe",
    "byte_fallback": True,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": True,
    "character_coverage": 0.99995,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "num_threads": 1,
    "minloglevel": 2,
}


def _parse(model: bytes, source: str) -> sentencepiece.SentencePieceProcessor:
    pieces = sentencepiece.SentencePieceProcessor()
    try:
        # An empty file parses as a model without pieces.
        parsed = bool(model) and pieces.LoadFromSerializedProto(model)
    except (RuntimeError, UnicodeDecodeError):  # the second when its message quotes the file
        parsed = False
    if not parsed:
        instead = what_was_downloaded(model)
        raise TokenizerError(
            f"{source} ({len(model)} bytes) is {instead or 'no SentencePiece model; give a tokenizer.model'}"
        )
    return pieces


def _decode_bytes(data: bytes, final: bool) -> tuple[str, bytes]:
    """Splits bytes into the text they complete and a rest that may still grow.

    Each byte that can start no character becomes one U+FFFD, as in SentencePiece
    (Python's own decoder would merge several into one).
    """
    text = ""
    while data:
        width = _utf8_width(data[0])
        if len(data) < width and not final:
            break
        try:
            character = data[:width].decode()
        except UnicodeDecodeError:
            character, width = REPLACEMENT, 1
        text, data = text + character, data[width:]
    return text, data


def _utf8_width(first: int) -> int:
    if first < 0xC0:
        return 1
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4
