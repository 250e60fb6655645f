"""How many pieces a tokenizer may have for a model.

Embeddings are often padded: by one row for a padding token, or to a round
number that divides over devices. The spare rows stand for no piece: they are
kept, and never produced.
"""

from __future__ import annotations

from typing import Final

from owl2_jax.core.errors import Owl2Error

MOST_SPARE: Final = 1024  # rows; with more, the tokenizer is another model's


def why_no_fit(pieces: int, rows: int) -> str | None:
    """What is wrong with a tokenizer of `pieces` for a model with `rows` embeddings; None when it fits."""
    if pieces > rows:
        return f"the tokenizer has {pieces} pieces, the model only {rows} embeddings"
    if rows - pieces > MOST_SPARE:
        return (
            f"the tokenizer has {pieces} pieces, the model {rows} embeddings, which are more than "
            f"{MOST_SPARE} spare rows"
        )
    return None


def check_fit(pieces: int, rows: int, way_out: str) -> None:
    """Raises `Owl2Error` when they do not fit, with what to do."""
    wrong = why_no_fit(pieces, rows)
    if wrong:
        raise Owl2Error(f"{wrong}; {way_out}")
