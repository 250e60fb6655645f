"""What sequences ask of the sampler, in numpy: a row for each that runs."""

from __future__ import annotations

import numpy as np

from owl2_jax.inference.request import Request
from owl2_jax.inference.sampler import MAX_BIAS, MAX_STOP_IDS, SamplerInputs


class SamplerRows:
    """The settings of R rows; row R is greedy and pads steps."""

    def __init__(self, rows: int, vocab_size: int, eos_id: int):
        self._count = rows
        self._vocab_size = vocab_size
        self._eos_id = eos_id
        words = -(-vocab_size // 32)
        self._columns = {
            "temperature": np.zeros(rows + 1, np.float32),
            "top_p": np.ones(rows + 1, np.float32),
            "min_p": np.zeros(rows + 1, np.float32),
            "top_k": np.zeros(rows + 1, np.int32),
            "seed": np.zeros((rows + 1, 2), np.uint32),
            "min_new_tokens": np.zeros(rows + 1, np.int32),
            "repetition_penalty": np.ones(rows + 1, np.float32),
            "presence_penalty": np.zeros(rows + 1, np.float32),
            "frequency_penalty": np.zeros(rows + 1, np.float32),
            "stop_ids": np.full((rows + 1, MAX_STOP_IDS), vocab_size, np.int32),
            "bias_ids": np.full((rows + 1, MAX_BIAS), vocab_size, np.int32),
            "bias": np.zeros((rows + 1, MAX_BIAS), np.float32),
            "masked": np.zeros(rows + 1, bool),
            "allowed": np.full((rows + 1, words), 0xFFFFFFFF, np.uint32),
            "top": np.zeros(rows + 1, np.int32),
        }

    def put(self, row: int, request: Request) -> None:
        """Sets a row to what a request asks for."""
        sampling = request.sampling
        values = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "top_k": min(sampling.top_k, 2**31 - 1),
            "seed": (sampling.seed >> 32, sampling.seed & 0xFFFFFFFF),
            "min_new_tokens": min(request.min_new_tokens, 2**31 - 1),
            "repetition_penalty": sampling.repetition_penalty,
            "top": request.top_logprobs,
        }
        for name, value in values.items():
            self._columns[name][row] = value
        self._columns["stop_ids"][row] = self._vocab_size
        if self._eos_id >= 0:
            self._columns["stop_ids"][row, 0] = self._eos_id

    def penalized(self, row: int) -> bool:
        """Whether a row's choice depends on the tokens before it."""
        return bool(self._columns["repetition_penalty"][row] != 1)

    def single_step(self, rows: np.ndarray) -> bool:
        """Whether the host has to look at every token of some row before the next is chosen."""
        return bool(self._columns["masked"][rows].any())

    def take(self, rows: np.ndarray, generated: np.ndarray, size: int) -> SamplerInputs:
        """The inputs of a step of `size` rows: int32[n] rows and tokens of their answers so far."""
        padded = np.full(size, self._count, np.int32)
        padded[: len(rows)] = rows
        counts = np.zeros(size, np.int32)
        counts[: len(rows)] = generated
        columns = {name: column[padded] for name, column in self._columns.items()}
        return SamplerInputs(rows=padded, generated=counts, **columns)
