"""Which steps of a run Orbax keeps, and how a save of it becomes whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from owl2_jax.checkpoint.best import BestConfig
from owl2_jax.checkpoint.orbax_s3 import commits_by_file


def manager_options(run: Path, keep: int, best: BestConfig | None) -> ocp.CheckpointManagerOptions:
    """The newest steps are kept, and the best one. What a killed run left half-written goes away.

    Raises:
      Owl2Error: the installed Orbax cannot save there.
    """
    policies = ocp.checkpoint_managers
    kept: Any = policies.LatestN(keep)
    score = None
    if best is not None:
        sign = -1.0 if best.mode == "min" else 1.0

        def score(scores: Mapping[str, float]) -> float:
            return sign * scores[best.metric] if best.metric in scores else -math.inf

        highest = policies.BestN(get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False)
        kept = policies.AnyPreservationPolicy([kept, highest])
    return ocp.CheckpointManagerOptions(
        preservation_policy=kept,
        best_fn=score,
        create=True,
        cleanup_tmp_directories=True,
        **commits_by_file(run),
    )
