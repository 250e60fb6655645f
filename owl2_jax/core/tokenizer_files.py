"""Which kind of tokenizer a file holds, and the name it has beside a checkpoint.

tokenizer.model   SentencePiece (mPLUG-Owl2)
qwen.tiktoken     ranks of byte-level BPE (mPLUG-Owl2.1): a base64 token and its rank a line
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from owl2_jax.core.errors import Owl2Error, shortened

SENTENCE_PIECES: Final = "tokenizer.model"
RANKS: Final = "qwen.tiktoken"
FILE_NAMES: Final = (SENTENCE_PIECES, RANKS)

# Behind the ranks, in this order: ends of texts and turns, and spare ones.
SPECIAL_TOKENS: Final = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)),
)  # fmt: skip

_FIRST_LINE: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?(\n|\Z)")
_BYTES: Final = 256


def file_name(tokenizer: bytes) -> str:
    """The name of a tokenizer's file beside a checkpoint, by what it holds."""
    return RANKS if holds_ranks(tokenizer) else SENTENCE_PIECES


def holds_ranks(tokenizer: bytes) -> bool:
    """Whether these bytes begin as a file of ranks does."""
    return _FIRST_LINE.match(tokenizer) is not None


def read_ranks(data: bytes, name: str) -> dict[bytes, int]:
    """{token: rank} of a file of ranks, which has the ranks 0, 1, 2, ... and every single byte.

    Raises:
      Owl2Error: a line that is none, a rank twice or left out, or a byte without a token.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        encoded, _, rank = line.partition(b" ")
        try:
            token, value = base64.b64decode(encoded, validate=True), int(rank)
        except (binascii.Error, ValueError):
            raise Owl2Error(
                f"{name} line {number} is {shortened(repr(line[:80]))}; expected base64 and a rank"
            ) from None
        if value != len(ranks) or token in ranks:
            raise Owl2Error(
                f"{name} line {number} has rank {value} for {shortened(repr(token))}; expected rank "
                f"{len(ranks)} and a token that is new; copy the file again"
            )
        ranks[token] = value
    missing = [byte for byte in range(_BYTES) if bytes([byte]) not in ranks]
    if missing:
        raise Owl2Error(
            f"{name} has no token for byte {missing[0]}{' and others' if missing[1:] else ''}; a byte-level "
            "vocabulary has all 256; copy the file again"
        )
    return ranks
