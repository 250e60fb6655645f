"""A tokenizer of any size, for models whose own is not at hand."""

from __future__ import annotations

import struct

from owl2_jax.data.sources.embedded import TOKENIZER
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.data.tokenizers import open_tokenizer

_NORMAL = 1
_NEVER = -1e9  # a score by which no merge is ever chosen


def tokenizer_of_size(size: int) -> Tokenizer:
    """The embedded corpus' tokenizer with pieces added that no text is cut into.

    A SentencePiece file is a protobuf message whose first field repeats once per
    piece, so pieces can be written after its end.

    Args:
      size: at least that of the embedded one, 4096.
    """
    data = TOKENIZER.read_bytes()
    count = open_tokenizer(data).vocab_size
    return open_tokenizer(data + b"".join(map(_piece, range(count, size))))


def _piece(number: int) -> bytes:
    name = f"<added {number}>".encode()
    content = (
        b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", _NEVER) + b"\x18" + bytes([_NORMAL])
    )
    return b"\x0a" + bytes([len(content)]) + content
