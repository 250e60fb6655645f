"""Log-likelihood of given continuations, for multiple choice without generation.

When every option is one token after the same prompt, as letters are, a question
is one row of the batch; otherwise each option is a row of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.conversation import encode_text
from owl2_jax.inference.buckets import bucket, length_buckets, power_buckets
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import Owl2

# Rows of one call. It never changes within a run, so neither do the answers.
_ROWS = 8


@dataclass(frozen=True)
class _Row:
    """Tokens to run, and whose log-probability to read where.

    Attributes:
      tokens: int32[T].
      places: The position whose logits predict each wanted token.
      wanted: The tokens.
      options: Which option each wanted token belongs to.
    """

    tokens: np.ndarray
    places: list[int]
    wanted: list[int]
    options: list[int]


class OptionScorer:
    """Scores continuations of text-only prompts with one model."""

    def __init__(self, model: LoadedModel):
        self.model = model
        self._config = model.config.replace(remat="none")
        self._lengths = length_buckets(model.config.decoder.max_length)

    def scores(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """Natural log-likelihood of each option as the text right after its prompt.

        Raises:
          Owl2Error: A prompt with an option is longer than the model allows.
        """
        rows = [
            (number, row)
            for number, (prompt, texts) in enumerate(zip(prompts, options, strict=True))
            for row in self._rows(prompt, texts)
        ]
        totals = [[0.0] * len(texts) for texts in options]
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            logprobs = iter(self._run([row for _, row in part]).tolist())
            for number, row in part:
                for option in row.options:
                    totals[number][option] += next(logprobs)
        return [tuple(total) for total in totals]

    def _rows(self, prompt: str, options: Sequence[str]) -> list[_Row]:
        """Splits each `prompt + option` where it leaves the tokens of the prompt."""
        alone = self._encode(prompt)
        whole = [self._encode(prompt + option) for option in options]
        # A piece may reach over the border; what all of them share is the prompt.
        start = min(_shared(alone, tokens) for tokens in whole)
        longest = max(len(tokens) for tokens in whole)
        if longest > self._lengths[-1]:
            raise Owl2Error(
                f"a prompt with its option has {longest} tokens and the model {self._lengths[-1]} positions; "
                "use fewer worked examples"
            )
        if all(len(tokens) == start + 1 for tokens in whole):
            count = len(options)
            wanted = [int(tokens[start]) for tokens in whole]
            return [_Row(whole[0][:start], [start - 1] * count, wanted, list(range(count)))]
        return [
            _Row(tokens[:-1], list(range(start - 1, len(tokens) - 1)), tokens[start:].tolist(),
                 [number] * (len(tokens) - start))
            for number, tokens in enumerate(whole)
        ]  # fmt: skip

    def _encode(self, text: str) -> np.ndarray:
        return encode_text(text, self.model.tokenizer, self.model.image_tag)

    def _run(self, rows: Sequence[_Row]) -> np.ndarray:
        """Log-probabilities of all wanted tokens of all rows, one after the other."""
        length = bucket(max(len(row.tokens) for row in rows), self._lengths)
        tokens = np.zeros((_ROWS, length), np.int32)
        lengths = np.zeros((_ROWS,), np.int32)
        for index, row in enumerate(rows):
            tokens[index, : len(row.tokens)] = row.tokens
            lengths[index] = len(row.tokens)
        total = sum(len(row.wanted) for row in rows)
        size = bucket(total, power_buckets(_ROWS * self._lengths[-1], 4, 16))
        where = np.zeros((3, size), np.int32)
        where[0, :total] = [index for index, row in enumerate(rows) for _ in row.wanted]
        where[1, :total] = [place for row in rows for place in row.places]
        where[2, :total] = [token for row in rows for token in row.wanted]
        return np.asarray(_logprobs(self._config, self.model.params, tokens, lengths, where))[:total]


@functools.partial(jax.jit, static_argnums=0)
def _logprobs(
    config: Owl2Config, params: Any, tokens: jax.Array, lengths: jax.Array, where: jax.Array
) -> jax.Array:
    """Log-probabilities of single tokens.

    Args:
      tokens: int32[B, T], right-padded.
      lengths: int32[B].
      where: int32[3, N]: row, position of the logits, and token.

    Returns:
      float32[N].
    """
    (rows, length), size = tokens.shape, config.vision.image_size
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    segment_ids = (positions < lengths[:, None]).astype(jnp.int32)
    no_images = jnp.zeros((0, size, size, 3), jnp.uint8)
    no_slots = jnp.zeros((rows, 0), jnp.int32)
    module = Owl2(config)
    hidden = module.apply(
        {"params": params}, tokens, positions, segment_ids, no_images, no_slots, no_slots, method="hidden"
    )
    row, position, token = where
    logits = module.apply({"params": params}, hidden[row, position], method="logits")
    chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _shared(left: np.ndarray, right: np.ndarray) -> int:
    """How many tokens two sequences begin with alike."""
    count = min(len(left), len(right))
    different = np.flatnonzero(left[:count] != right[:count])
    return int(different[0]) if different.size else count
