"""What sequences ask of the sampler, in numpy: a row for each that runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from owl2_jax.inference.request import Request
from owl2_jax.sampling.sampler import MAX_BIAS, MAX_STOP_IDS, SamplerInputs

_PLAIN = (
    "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
# Of the sampler's inputs, those that are large and nearly always the same.
LARGE = ("bias_ids", "bias", "allowed")


class SamplerRows:
    """The settings of R rows; row R is greedy and pads steps."""

    def __init__(self, rows: int, vocab_size: int, eos_id: int):
        self._vocab_size = vocab_size
        self._eos_id = eos_id
        words = -(-vocab_size // 32)

        def column(value: float, dtype: type, *more: int) -> np.ndarray:
            return np.full((rows + 1, *more), value, dtype)

        self._columns = {
            "temperature": column(0, np.float32),
            "top_p": column(1, np.float32),
            "min_p": column(0, np.float32),
            "top_k": column(0, np.int32),
            "seed": column(0, np.uint32, 2),
            "min_new_tokens": column(0, np.int32),
            "repetition_penalty": column(1, np.float32),
            "presence_penalty": column(0, np.float32),
            "frequency_penalty": column(0, np.float32),
            "stop_ids": column(vocab_size, np.int32, MAX_STOP_IDS),
            "bias_ids": column(vocab_size, np.int32, MAX_BIAS),
            "bias": column(0, np.float32, MAX_BIAS),
            "masked": column(0, np.bool_),
            "allowed": column(0xFFFFFFFF, np.uint32, words),
            "top": column(0, np.int32),
        }

    def put(self, row: int, request: Request) -> None:
        """Sets a row to what a request asks for; a request of a given form needs `mask` before a step."""
        sampling = request.sampling
        values: dict[str, Any] = {name: getattr(sampling, name) for name in _PLAIN}
        values |= {
            "top_k": min(sampling.top_k, 2**31 - 1),
            "seed": (sampling.seed >> 32, sampling.seed & 0xFFFFFFFF),
            "min_new_tokens": min(request.min_new_tokens, 2**31 - 1),
            "masked": request.structured is not None,
            "top": request.top_logprobs,
        }
        for name, value in values.items():
            self._columns[name][row] = value
        self._fill(row, "stop_ids", request.end_ids(self._eos_id), self._vocab_size)
        self._fill(row, "bias_ids", list(map(int, sampling.logit_bias)), self._vocab_size)
        self._fill(row, "bias", list(sampling.logit_bias.values()), 0)

    def _fill(self, row: int, name: str, values: Any, padding: float) -> None:
        column = self._columns[name]
        column[row] = padding
        column[row, : len(values)] = values

    def mask(self, row: int, allowed: np.ndarray) -> None:
        """Says which tokens may come next in a row: uint32[W], see `SamplerInputs.allowed`."""
        self._columns["allowed"][row] = allowed

    def penalized(self, row: int) -> bool:
        """Whether a row's choice depends on the tokens before it."""
        columns = self._columns
        return bool(
            columns["repetition_penalty"][row] != 1
            or columns["presence_penalty"][row]
            or columns["frequency_penalty"][row]
        )

    def single_step(self, rows: np.ndarray) -> bool:
        """Whether the host has to look at every token of some row before the next is chosen."""
        return bool(self._columns["masked"][rows].any())

    def take(self, rows: np.ndarray, generated: np.ndarray) -> SamplerInputs:
        """The inputs of a step: int32[S] rows, R for padding, and tokens of their answers so far.

        Without the large ones, which are nearly always the same; see `large`.
        """
        columns = {name: column[rows] for name, column in self._columns.items() if name not in LARGE}
        return SamplerInputs(rows=rows, generated=generated, **columns, **dict.fromkeys(LARGE))

    def large(self, rows: np.ndarray) -> dict[str, np.ndarray] | None:
        """The large inputs of int32[S] rows; None when no row asks for them."""
        columns = self._columns
        if columns["masked"][rows].any() or (columns["bias_ids"][rows, 0] < self._vocab_size).any():
            return {name: columns[name][rows] for name in LARGE}
        return None

    def unasked(self, size: int) -> dict[str, np.ndarray]:
        """The large inputs of `size` rows that do not ask for them."""
        return {name: np.repeat(self._columns[name][-1:], size, axis=0) for name in LARGE}
