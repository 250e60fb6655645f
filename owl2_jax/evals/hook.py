"""Benchmarks during training: the same questions, prompts and scores, on parameters in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.asking import EngineModel
from owl2_jax.evals.base import Question
from owl2_jax.evals.registry import get_benchmark
from owl2_jax.evals.runner import answer_in_memory, load_questions
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded import LoadedModel


class Evaluator:
    """Scores parameters on one benchmark; the command hands it to the training loop.

    Attributes:
      name: the benchmark's.
      metrics: names of what a call returns, for choosing a best checkpoint.

    Raises:
      Owl2Error: the benchmark is unknown, is scored elsewhere, or its files are missing.
    """

    def __init__(
        self,
        name: str,
        make_model: Callable[[Any], LoadedModel],
        *,
        root: Path = Path("data"),
        limit: int | None = None,
        slots: int | None = None,
    ):
        """Prepares an evaluation.

        Args:
          make_model: from the parameters to a model; holds configuration, tokenizer and mesh.
          root: the data root.
          limit: only the first so many questions.
          slots: questions decoded together; by default what memory allows.
        """
        self.name = name
        self._benchmark = get_benchmark(name)
        if not self._benchmark.scored_here:
            raise Owl2Error(f"{name} is scored by a judge or a server; it cannot run during training")
        self._benchmark.check()
        self._make_model, self._root, self._limit, self._slots = make_model, root, limit, slots
        for file in self._benchmark.files:
            file.require(root)
        self.metrics = (self._benchmark.metric,)

    @cached_property
    def questions(self) -> list[Question]:
        """Read when first asked, and kept."""
        return load_questions(self.name, self._benchmark, self._root, self._limit)

    def __call__(self, params: Any) -> dict[str, float]:
        """{metric: value} of the parameters; every process that shares them must call it."""
        model = self._make_model(params)
        config = EngineConfig.for_throughput(model.config)
        if self._slots is not None:
            config = EngineConfig(slots=self._slots)
        # The engine goes with this call, so that its cache does not take memory from training.
        answered = answer_in_memory(self._benchmark, self.questions, EngineModel(Engine(model, config)))
        metric = self._benchmark.metric
        return {metric: self._benchmark.summarise(answered).metrics[metric]}
