"""Settings of a training run, as frozen dataclasses. Defaults live here alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from owl2_jax.checkpoint.best import BestConfig
from owl2_jax.checkpoint.local_config import LocalConfig
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import OldNames, check_value, check_values
from owl2_jax.core.ranges import Count, NotNegative, PartKept, PartLost, Positive, Seed, Whole, between
from owl2_jax.core.texts import AnyText, BucketPath, Name, Regex
from owl2_jax.data.config import DatasetConfig, check_sources


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over steps: linear warm-up from 0, then a cosine down to `end_lr`.

    Attributes:
      peak_lr: the largest rate.
      end_lr: rate of the last step, at most `peak_lr`; 0 for a cosine down to nothing.
      warmup_steps: steps of the warm-up; 0 for none.
    """

    peak_lr: Positive = 2e-5
    end_lr: NotNegative = 0.0
    warmup_steps: Whole = 250

    def __post_init__(self) -> None:
        check_values(self, "train.schedule")
        if self.end_lr > self.peak_lr:
            raise Owl2Error(f"end_lr must lie between 0 and peak_lr {self.peak_lr}, found {self.end_lr}")


def identifier(name: str) -> str:
    """A name with an underscore for each run of signs that are no letters, digits, '-', '.' or '_'."""
    return re.sub(r"[^\w.-]+", "_", name)


@dataclass(frozen=True)
class GroupConfig:
    """Parameters that are trained alike.

    Attributes:
      name: what the table and the logs call the group; other signs than letters, digits, '-', '.'
        and '_' become '_' where it is read from a file.
      pattern: regex over whole parameter names; of all groups the first that
        matches takes the parameter.
      trainable: False freezes the group, which then has no gradient and no optimiser state.
      lr_multiplier: factor of the schedule's learning rate.
      weight_decay: decoupled weight decay, 0 for none; None takes the optimiser's.
      layer_decay: factor per layer counted from the top, for stacked layers:
        the top layer has factor 1 * layer_decay, what feeds the first layer
        layer_decay ** (L + 1) (BEiT's layer-wise decay); 1 for none.
      depth: layers of the tower the group belongs to, when it lies below a
        stack of layers and is not itself stacked; it then decays by
        layer_decay ** (depth + 1). 0 for leaves above the stack.
      schedule: own schedule of the group; None takes the run's.
    """

    OLD_NAMES: ClassVar[OldNames] = {
        "lr": lambda value: {"trainable": False} if value is None else {"lr_multiplier": value},
        "name": lambda value: {
            "name": identifier(value) if isinstance(value, str) and value.strip() else value
        },
    }

    name: Name
    pattern: Regex
    trainable: bool = True
    lr_multiplier: Positive = 1.0
    weight_decay: NotNegative | None = None
    layer_decay: PartKept = 1.0
    depth: Whole = 0
    schedule: ScheduleConfig | None = None

    def __post_init__(self) -> None:
        check_values(self, f"train.groups.{self.name}")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) after clipping by global norm.

    Attributes:
      b1: decay of the first moment per step; 0 for the step's own alone.
      b2: decay of the second moment per step; 0 for the square of the step's own alone.
      eps: added to the root of the second moment.
      weight_decay: decoupled weight decay; 0 for none.
      clip_norm: largest global norm of a gradient; longer ones are scaled down
        to it. None for no clipping.
      first_moment_dtype: how the first moment is stored.
      decay_vectors: also decay biases, norm scales and other vectors.
    """

    b1: PartLost = 0.9
    b2: PartLost = 0.999
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0
    clip_norm: Positive | None = 1.0
    first_moment_dtype: Literal["float32", "bfloat16"] = "float32"
    decay_vectors: bool = False

    def __post_init__(self) -> None:
        check_values(self, "train.optimizer")

    @property
    def state_bytes(self) -> int:
        """Bytes of a trained parameter's two moments; the second one is float32."""
        return (2 if self.first_moment_dtype == "bfloat16" else 4) + 4


@dataclass(frozen=True)
class WandbConfig:
    """Also send metrics to Weights & Biases (extra "wandb").

    Attributes:
      project: where the run is listed.
      name: what the run is called there; None lets the service choose.
      mode: "offline" keeps the readings in the run directory for a later upload.
    """

    project: Name
    name: Name | None = None
    mode: Literal["online", "offline"] = "online"

    def __post_init__(self) -> None:
        check_values(self, "train.wandb")


@dataclass(frozen=True)
class HeldoutConfig:
    """Loss on data that no step sees; reported as "heldout/loss" and per set.

    Attributes:
      datasets: {name: set}; weights play no part.
      every_steps: how often; also after the last step.
      max_samples: most samples of a set, spread evenly over it.
    """

    datasets: dict[Name, DatasetConfig]
    every_steps: Count = 500
    max_samples: Count = 512

    def __post_init__(self) -> None:
        check_values(self, "heldout")
        if not self.datasets:
            raise Owl2Error("heldout.datasets is empty; name a set, or leave heldout out")
        check_sources(self.datasets, "heldout.datasets")


@dataclass(frozen=True)
class EvaluatorConfig:
    """A benchmark answered during training; reported as "<benchmark>/<metric>".

    Attributes:
      benchmark: a name of `owl2 evaluate --list`.
      every_steps: how often; also after the last step.
      max_questions: only the first so many (0: all).
      data_root: folder of the published files.
    """

    benchmark: Name
    every_steps: Count = 1000
    max_questions: Whole = 0
    data_root: BucketPath = "data"

    def __post_init__(self) -> None:
        check_values(self, f"evaluators.{self.benchmark}")


def _default_groups() -> tuple[GroupConfig, ...]:
    return (GroupConfig(name="all", pattern=".*"),)


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
      total_steps: the run's length; set this or total_examples.
      total_examples: the run's length; set this or total_steps.
      examples_per_step: samples of a step, needed to count in examples.
      seed: of random parameters and dropout.
      start_from: checkpoint whose parameters the run starts from; None starts
        at random.
      groups: how parameters train, the first match wins; everything alike by default.
      schedule: learning rate over the steps.
      optimizer: AdamW and clipping.
      accumulate_steps: equal parts that a batch is computed in.
      loss_chunk: positions whose logits exist at a time (0: all at once).
      log_every_steps: steps that a line of `metrics.jsonl` sums up.
      save_every_steps: how often to save; also after the last step.
      keep_checkpoints: how many of the newest are kept.
      max_failed_saves: saves in a row that may fail (0: the first ends the run); the run tells each
        and goes on. Those of `local_checkpoints` are counted by themselves; on several hosts no others
        may fail.
      local_checkpoints: frequent saves on every host's own disk, besides.
      max_bad_steps: non-finite steps in a row before the run stops.
      watchdog_seconds: longest time without a finished step; the run then
        prints every host's step and its own stacks and exits (0: never).
      profile_steps: first and last step of a profiler trace, written to
        `profile/` of the run directory.
      compiler_options: of the TPU compiler for the step, as `owl2 fit --search` finds them.
      best: the checkpoint to keep for its score; needs an evaluation.
      wandb: also report to Weights & Biases.
    """

    total_steps: Count | None = None
    total_examples: Annotated[int, between(1, 2**53)] | None = None
    examples_per_step: Count | None = None
    seed: Seed = 0
    start_from: BucketPath | None = None
    groups: tuple[GroupConfig, ...] = field(default_factory=_default_groups)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    accumulate_steps: Count = 1
    loss_chunk: Whole = 0
    log_every_steps: Count = 20
    save_every_steps: Count = 500
    keep_checkpoints: Count = 2
    max_failed_saves: Whole = 0
    local_checkpoints: LocalConfig | None = None
    max_bad_steps: Count = 10
    watchdog_seconds: NotNegative = 1800.0
    profile_steps: tuple[Count, Count] | None = None
    compiler_options: dict[Name, AnyText] = field(default_factory=dict)
    best: BestConfig | None = None
    wandb: WandbConfig | None = None

    def __post_init__(self) -> None:
        check_values(self, "train")
        if (self.total_steps is None) == (self.total_examples is None):
            raise Owl2Error(
                f"train: set exactly one of total_steps ({self.total_steps}) and total_examples "
                f"({self.total_examples})"
            )
        if self.total_examples is not None and not self.examples_per_step:
            raise Owl2Error("train: total_examples needs examples_per_step")
        check_value(Count, self.num_steps, "train.total_examples / train.examples_per_step")
        if not self.groups:
            raise Owl2Error("train.groups is empty; name at least one, or leave it out to train everything")
        if self.profile_steps is not None and self.profile_steps[0] > self.profile_steps[1]:
            raise Owl2Error(
                f"train.profile_steps must be (first, last) from 1 on, found {self.profile_steps}"
            )

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        if self.total_steps is not None:
            return self.total_steps
        assert self.total_examples is not None
        assert self.examples_per_step is not None
        return -(-self.total_examples // self.examples_per_step)
