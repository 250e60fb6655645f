"""Opens a tokenizer of either kind; nothing else asks which it is."""

from __future__ import annotations

import os
from pathlib import Path

from owl2_jax.core.buckets import why_not
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.core.tokenizer_files import FILE_NAMES, holds_ranks
from owl2_jax.data.qwen_tokenizer import QwenTokenizer
from owl2_jax.data.sentence_pieces import SentencePieceTokenizer
from owl2_jax.data.tokenizer import Tokenizer, TokenizerError


def open_tokenizer(model: str | os.PathLike | bytes) -> Tokenizer:
    """The tokenizer that a file or its bytes hold.

    Raises:
      TokenizerError: the file is missing, damaged, or of neither kind.
    """
    source = "<bytes>" if isinstance(model, bytes) else str(model)
    data = model if isinstance(model, bytes) else _read(as_path(model))
    kind = QwenTokenizer if holds_ranks(data) else SentencePieceTokenizer
    return kind(data, source)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except Exception as error:
        if not isinstance(error, OSError) and not (in_bucket(path) and why_not(path, error)):
            raise
        reason = why_not(path, error) if in_bucket(path) else getattr(error, "strerror", None) or error
        raise TokenizerError(
            f"cannot read the tokenizer {path}: {reason}; give a {' or a '.join(FILE_NAMES)}"
        ) from error
