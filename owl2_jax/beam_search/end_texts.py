"""Where an answer ends in a text that is no token, read token by token on the device.

A table says how every token goes on: its row is how much of a text that ends answers
has been written, its column the token, and the entry what has been written then.

    "</s>"      rows: nothing, "<", "</", "</s"      entry 4: "</s>" is there
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from owl2_jax.data.tokenizer import Tokenizer


@functools.lru_cache(maxsize=4)
def end_table(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray | None:
    """The table of the texts that end answers of a tokenizer.

    Args:
      vocab_size: V, ids of the model, spare ones included.

    Returns:
      int8[S, V] with entries from 0 (nothing) to S (a text is there), or None where no text ends an
      answer. Special tokens, and ids without a token, add nothing.
    """
    if not tokenizer.end_texts:
        return None
    pieces = [
        b"" if tokenizer.is_special(i) else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)
    ]
    return transitions([text.encode() for text in tokenizer.end_texts], pieces, vocab_size)


def transitions(ends: Sequence[bytes], pieces: Sequence[bytes], vocab_size: int) -> np.ndarray:
    """The table of `end_table` for texts and tokens as bytes."""
    states = sorted({end[:length] for end in ends for length in range(len(end))}, key=len)
    number = {state: index for index, state in enumerate(states)}
    # Other tokens neither go on with such a text nor hold the first byte of one.
    near = [
        token
        for token, piece in enumerate(pieces)
        if any(piece[:1] in end or end[:1] in piece for end in ends) or not piece
    ]
    table = np.zeros((len(states), vocab_size), np.int8)
    table[:, len(pieces) :] = np.arange(len(states))[:, None]
    for index, state in enumerate(states):
        for token in near:
            table[index, token] = _follow(state, pieces[token], ends, number)
    return table


def _follow(state: bytes, piece: bytes, ends: Sequence[bytes], number: dict[bytes, int]) -> int:
    """What has been written after a token: the longest beginning that the text ends with, or a whole text."""
    written = state + piece
    if any(end in written for end in ends):
        return len(number)
    return next(number[written[start:]] for start in range(len(written) + 1) if written[start:] in number)
