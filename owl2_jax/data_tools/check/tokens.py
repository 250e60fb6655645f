"""Token ids as HTML: the text with its label mask in colour, and the ids on hover."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import numpy as np

from owl2_jax.core.axes import IGNORE_LABEL
from owl2_jax.data.batch import Sample
from owl2_jax.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """Positions that are shown together: a token, the bytes of one character, or an image.

    Attributes:
      first: position of the first.
      ids: token ids; empty for an image.
      text: what is shown.
      learnt: the positions have labels.
      image: its number in the sample; None for text.
      special: `<s>`, `</s>` or `<unk>`, not the same characters in a text.
    """

    first: int
    ids: tuple[int, ...]
    text: str
    learnt: bool
    image: int | None = None
    special: bool = False


def pieces(sample: Sample, tokenizer: Tokenizer, tokens_per_image: int) -> Iterator[Piece]:
    """The pieces of a sample, in order."""
    learnt = sample.labels != IGNORE_LABEL
    starts = {int(start): number for number, start in enumerate(sample.image_starts)}
    position, end = 0, len(sample)
    while position < end:
        if position in starts:
            number = starts[position]
            yield Piece(position, (), f"image {number + 1}", False, image=number)
            position += tokens_per_image
            continue
        count = _bytes_of_character(sample.tokens[position:], learnt[position:], tokenizer)
        ids = tuple(int(i) for i in sample.tokens[position : position + count])
        special = tokenizer.is_special(ids[0])
        yield Piece(position, ids, _text(ids, tokenizer), bool(learnt[position]), special=special)
        position += count


def text_html(sample: Sample, tokenizer: Tokenizer, tokens_per_image: int) -> str:
    """A sample's pieces as `<span>`s; whatever the text holds is escaped."""
    return "".join(_span(piece, tokens_per_image) for piece in pieces(sample, tokenizer, tokens_per_image))


def _span(piece: Piece, tokens_per_image: int) -> str:
    if piece.image is not None:
        last = piece.first + tokens_per_image - 1
        hover = f"positions {piece.first} to {last}: image {piece.image + 1}"
        return f'<span class="t pic" title="{hover}">▣ {escape(piece.text)}</span>'
    ids = " ".join(map(str, piece.ids))
    hover = f"position {piece.first}: id {ids}, {'learnt' if piece.learnt else 'not learnt'}"
    kinds = "t" + (" on" if piece.learnt else "") + (" special" if piece.special else "")
    shown = escape(piece.text).replace("\n", "⏎<br>")
    return f'<span class="{kinds}" title="{escape(hover)}">{shown}</span>'


def _bytes_of_character(ids: np.ndarray, learnt: np.ndarray, tokenizer: Tokenizer) -> int:
    """How many ids at the beginning make whole characters together; 1 where none do."""
    data = bytearray()
    for count, (i, on) in enumerate(zip(ids[:4], learnt[:4], strict=True), 1):
        if on != learnt[0] or (data and tokenizer.is_special(int(i))):
            break
        data += tokenizer.token_bytes(int(i))
        try:
            data.decode()
        except UnicodeDecodeError:
            continue
        return count
    return 1


def _text(ids: tuple[int, ...], tokenizer: Tokenizer) -> str:
    try:
        return b"".join(map(tokenizer.token_bytes, ids)).decode()
    except UnicodeDecodeError:
        return tokenizer.piece(ids[0])
