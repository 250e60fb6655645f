"""Keys by which equal and alike examples are found.

Two images look the same when their difference hashes (dHash, Krawetz 2013)
are close. The hash keeps one bit for each of 16 x 16 places of the image,
shrunk to 17 x 16 grey pixels: is the place darker than its right neighbour?
Re-encoding and resizing change a few bits; another image changes about half.

To find close pairs among millions without comparing all, a hash is cut into one
more band than bits may differ: two close hashes then have a band in common.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

HASH_BITS = 256
_SIDE = 16


def image_hash(image: Image.Image) -> bytes:
    """The difference hash of an RGB image, 32 bytes."""
    grey = image.convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(grey, np.int16)
    return np.packbits(levels[:, :-1] < levels[:, 1:]).tobytes()


def distance(one: bytes, other: bytes) -> int:
    """Number of bits in which two hashes differ."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def distances(one: bytes, others: Sequence[bytes]) -> np.ndarray:
    """int[n], `distance` to each of several hashes."""
    table = np.frombuffer(b"".join(others), np.uint8).reshape(len(others), -1)
    return np.bitwise_count(table ^ np.frombuffer(one, np.uint8)).sum(axis=1, dtype=int)


def bands(value: bytes, count: int) -> list[int]:
    """Cuts a hash into `count` numbers that together hold all of its bits."""
    bits, cuts = int.from_bytes(value), np.linspace(0, HASH_BITS, count + 1).astype(int)
    return [(bits >> int(low)) & ((1 << int(high - low)) - 1) for low, high in itertools.pairwise(cuts)]


def exact_key(messages: Sequence[dict[str, Any]], images: Sequence[bytes]) -> str:
    """Equal for the same messages with the same image files."""
    digest = hashlib.blake2b(json.dumps(list(messages), sort_keys=True).encode(), digest_size=16)
    for image in images:
        digest.update(hashlib.blake2b(image, digest_size=16).digest())
    return digest.hexdigest()


def words_key(messages: Sequence[dict[str, Any]]) -> str:
    """Equal for messages with the same words; case, punctuation and spacing do not count."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(f"{message['role']}\0{' '.join(words(message['content']))}\0".encode())
    return digest.hexdigest()


def words(text: str) -> list[str]:
    """The words of a text in any script: runs of letters, marks and digits, case folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c if is_word_character(c) else " " for c in folded).split()


def is_word_character(character: str) -> bool:
    """Letters, marks and digits of any script."""
    return unicodedata.category(character)[0] in "LMN"
