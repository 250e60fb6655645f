"""A tokenizer of numbers, for models that have none, or few enough tokens to list all answers."""

from __future__ import annotations

from collections.abc import Iterable

from owl2_jax.data.sentence_pieces import PieceStream


class NumberTokenizer:
    """Every id is written as its number."""

    end_texts: tuple[str, ...] = ()

    def __init__(self, vocab_size: int, eos_id: int = -1):
        """Without an `eos_id`, nothing stops an answer."""
        self.vocab_size = vocab_size
        self.eos_id = eos_id

    def require_size(self, size: int) -> None: ...

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(self.piece(i) for i in ids).strip()

    def piece(self, token_id: int) -> str:
        return f" {token_id}"

    def byte_value(self, token_id: int) -> None: ...

    def decode_answer(self, ids: Iterable[int]) -> str:
        return self.decode(ids)

    def stream(self, started: bool = False) -> PieceStream:
        return PieceStream(self, started)

    def is_special(self, token_id: int) -> bool:
        return token_id == self.eos_id
