"""Qwen's vocabulary, as the package dashscope ships it, and a small one of the same format."""

from __future__ import annotations

import base64
import functools
import importlib.util
from pathlib import Path

# As in a BPE, every token of several bytes is made of two that come before it.
_MERGED = (
    b"in", b"re", b"he", b"th", b"the", b" t", b" the", b"er", b" r", b" re", b" red", b"ed", b"ER",
    b"SI", b"ST", b"SIST", b"AN", b"ANT", b"SISTANT", b"US", b"USER", b"AS", b"ASSISTANT", b"</",
    b"s>", b" y", b"es",
    b" yes", b"\xe2\x96", b" \xe2", b".<", b"./",
)  # fmt: skip


def qwen_file() -> Path:
    """`qwen.tiktoken` of 151 643 ranks; the package's own code stays where it is."""
    spec = importlib.util.find_spec("dashscope")
    assert spec is not None, "install the extra `test`"
    return Path(next(iter(spec.submodule_search_locations or ()))) / "resources" / "qwen.tiktoken"


@functools.cache
def small_ranks() -> bytes:
    """A file of ranks with the single bytes and a few words."""
    tokens = [bytes([byte]) for byte in range(256)] + list(dict.fromkeys(_MERGED))
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
