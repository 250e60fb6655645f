"""Settings of a training run, as frozen dataclasses. Defaults live here alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.config import DatasetConfig


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over steps: linear warm-up from 0, then a cosine down to `end_lr`."""

    peak_lr: float = 2e-5
    end_lr: float = 0.0
    warmup_steps: int = 250

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise Owl2Error(f"schedule.warmup_steps must be at least 0, found {self.warmup_steps}")
        if not 0 <= self.end_lr <= self.peak_lr:
            raise Owl2Error(
                f"schedule.end_lr {self.end_lr} must lie between 0 and schedule.peak_lr {self.peak_lr}"
            )


@dataclass(frozen=True)
class GroupConfig:
    """Parameters that are trained alike.

    Attributes:
      name: what the table and the logs call the group.
      pattern: regex over whole parameter names; of all groups the first that
        matches takes the parameter.
      lr: multiplier of the schedule's learning rate; None freezes the group,
        which then has no gradient and no optimiser state.
      weight_decay: decoupled weight decay; None takes the optimiser's.
      layer_decay: factor per layer counted from the top, for stacked layers:
        the top layer has factor 1 * layer_decay, what feeds the first layer
        layer_decay ** (L + 1) (BEiT's layer-wise decay); 1 for none.
      depth: layers of the tower the group belongs to, when it lies below a
        stack of layers and is not itself stacked; it then decays by
        layer_decay ** (depth + 1). 0 for leaves above the stack.
      schedule: own schedule of the group; None takes the run's.
    """

    name: str
    pattern: str
    lr: float | None = 1.0
    weight_decay: float | None = None
    layer_decay: float = 1.0
    depth: int = 0
    schedule: ScheduleConfig | None = None

    def __post_init__(self) -> None:
        if self.lr is not None and self.lr <= 0:
            raise Owl2Error(f"group {self.name!r}: lr must be above 0, or None to freeze; found {self.lr}")
        if not 0 < self.layer_decay <= 1:
            raise Owl2Error(f"group {self.name!r}: layer_decay must lie in (0, 1], found {self.layer_decay}")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) after clipping by global norm."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"
    decay_vectors: bool = False  # also decay biases, norm scales and other vectors


@dataclass(frozen=True)
class BestConfig:
    """Which checkpoint is the best one; it is kept beside the newest ones.

    Attributes:
      metric: name as in `metrics.jsonl`, "heldout/loss" for example.
      mode: whether less or more is better.
    """

    metric: str = "heldout/loss"
    mode: Literal["min", "max"] = "min"


@dataclass(frozen=True)
class WandbConfig:
    """Also send metrics to Weights & Biases (extra "wandb")."""

    project: str
    name: str | None = None
    mode: Literal["online", "offline"] = "online"


@dataclass(frozen=True)
class HeldoutConfig:
    """Loss on data that no step sees; reported as "heldout/loss" and per set.

    Attributes:
      datasets: {name: set}; weights play no part.
      every_steps: how often; also behind the last step.
      max_samples: most samples of a set, spread evenly over it.
    """

    datasets: dict[str, DatasetConfig]
    every_steps: int = 500
    max_samples: int = 512

    def __post_init__(self) -> None:
        if not self.datasets:
            raise Owl2Error("heldout.datasets is empty; name a set, or leave heldout out")
        _require_positive("heldout", self, ("every_steps", "max_samples"))


@dataclass(frozen=True)
class EvaluatorConfig:
    """A benchmark answered during training; reported as "<benchmark>/<metric>".

    Attributes:
      benchmark: a name of `owl2 evaluate --list`.
      every_steps: how often; also behind the last step.
      max_questions: only the first so many (0: all).
      data_root: folder of the published files.
    """

    benchmark: str
    every_steps: int = 1000
    max_questions: int = 0
    data_root: str = "data"

    def __post_init__(self) -> None:
        _require_positive(f"evaluator {self.benchmark!r}", self, ("every_steps",))


def _require_positive(what: str, config: object, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise Owl2Error(f"{what}.{name} must be at least 1, found {getattr(config, name)}")


def _default_groups() -> tuple[GroupConfig, ...]:
    return (GroupConfig(name="all", pattern=".*"),)


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
      total_steps, total_examples: the run's length; exactly one is set.
      examples_per_step: samples of a step, needed to count in examples.
      start_from: checkpoint whose parameters the run starts from; None starts
        at random.
      accumulate_steps: equal parts that a batch is computed in.
      max_targets: most supervised positions of a row; the loss looks at no
        more of them (0: every position).
      loss_chunk: positions whose logits exist at a time (0: all at once).
      save_every_steps, keep_checkpoints: how often to save, how many to keep.
      max_bad_steps: non-finite steps in a row before the run stops.
      watchdog_seconds: longest time without a finished step; the run then
        prints every host's step and its own stacks and exits (0: never).
      profile_steps: first and last step of a profiler trace, written to
        `profile/` of the run directory.
      best: the checkpoint to keep for its score; needs an evaluation.
      wandb: also report to Weights & Biases.
    """

    total_steps: int | None = None
    total_examples: int | None = None
    examples_per_step: int | None = None
    seed: int = 0
    start_from: str | None = None
    groups: tuple[GroupConfig, ...] = field(default_factory=_default_groups)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    accumulate_steps: int = 1
    max_targets: int = 0
    loss_chunk: int = 0
    log_every_steps: int = 20
    save_every_steps: int = 500
    keep_checkpoints: int = 2
    max_bad_steps: int = 10
    watchdog_seconds: float = 1800.0
    profile_steps: tuple[int, int] | None = None
    best: BestConfig | None = None
    wandb: WandbConfig | None = None

    def __post_init__(self) -> None:
        if (self.total_steps is None) == (self.total_examples is None):
            raise Owl2Error(
                f"train: set exactly one of total_steps ({self.total_steps}) and total_examples "
                f"({self.total_examples})"
            )
        if self.total_examples is not None and not self.examples_per_step:
            raise Owl2Error("train: total_examples needs examples_per_step")
        if self.num_steps < 1:
            raise Owl2Error(f"train: the run's length must be at least 1 step, found {self.num_steps}")
        counts = (
            "accumulate_steps",
            "log_every_steps",
            "save_every_steps",
            "keep_checkpoints",
            "max_bad_steps",
        )
        _require_positive("train", self, counts)
        if self.profile_steps is not None and not 1 <= self.profile_steps[0] <= self.profile_steps[1]:
            raise Owl2Error(
                f"train.profile_steps must be (first, last) from 1 on, found {self.profile_steps}"
            )

    @property
    def num_steps(self) -> int:
        if self.total_steps is not None:
            return self.total_steps
        assert self.total_examples is not None
        assert self.examples_per_step is not None
        return -(-self.total_examples // self.examples_per_step)
