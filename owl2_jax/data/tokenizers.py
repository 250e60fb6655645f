"""Opens a tokenizer of either kind; nothing else asks which it is."""

from __future__ import annotations

import os
from pathlib import Path

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
    data = model if isinstance(model, bytes) else _read(Path(model))
    kind = QwenTokenizer if holds_ranks(data) else SentencePieceTokenizer
    return kind(data, source)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise TokenizerError(
            f"cannot read the tokenizer {path}: {reason}; give a {' or a '.join(FILE_NAMES)}"
        ) from error
