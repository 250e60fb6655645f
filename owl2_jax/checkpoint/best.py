"""Which of a run's checkpoints is the best one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from owl2_jax.core.fields import check_values
from owl2_jax.core.texts import Name


@dataclass(frozen=True)
class BestConfig:
    """Which checkpoint is the best one; it is kept beside the newest ones.

    Attributes:
      metric: name as in `metrics.jsonl`, "heldout/loss" for example.
      mode: whether less or more is better.
    """

    metric: Name = "heldout/loss"
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        check_values(self, "train.best")
