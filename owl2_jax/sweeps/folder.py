"""A sweep's folder: what lies where, and that it belongs to this grid.

WORKDIR/sweep.json                     what the runs have in common, and every point
        claims.json                    the claims, and what had been scored when each was first stated
        starts/<sizes>/                resized copies of the checkpoint that all start from
        points/<point>/fit.json        what `owl2 fit` said
        points/<point>/seed-<n>/run/       of `owl2 train`
                                scores/    of `owl2 evaluate`
                                log.txt    what the commands printed
                                failed.json    why the last try failed
        table.*, claims.csv, claims.md, plots/    of `owl2 sweep --collect`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from owl2_jax.checkpoint.identity import checkpoint_identity
from owl2_jax.checkpoint.param_files import CHECKPOINTS_DIR, is_whole_step
from owl2_jax.config import RunConfig, todays_names
from owl2_jax.core import buckets, fields, json_files
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import Json
from owl2_jax.core.paths import as_path
from owl2_jax.sweeps.grid import Point, Run, Sweep

SCORES_FILE: Final = "scores.json"


@dataclass(frozen=True)
class RunFolder:
    """Where one run's files lie."""

    path: Path

    @property
    def training(self) -> Path:
        """Of `owl2 train`."""
        return self.path / "run"

    @property
    def scores(self) -> Path:
        """Of `owl2 evaluate`."""
        return self.path / "scores"

    @property
    def log(self) -> Path:
        """What the commands printed."""
        return self.path / "log.txt"

    @property
    def failed(self) -> Path:
        """Why the last try failed; no file where it did not."""
        return self.path / "failed.json"

    def is_trained(self, config: RunConfig) -> bool:
        """Whether the last step is saved."""
        return is_whole_step(self.training / CHECKPOINTS_DIR / str(config.train.num_steps))

    def read_scores(self) -> dict[str, dict[str, Any]]:
        """{benchmark: its entry in scores.json}. Raises `Owl2Error` when the file is damaged."""
        path = self.scores / SCORES_FILE
        entries = read_json(path)
        try:
            return {} if entries is None else {entry["benchmark"]: entry for entry in entries["scores"]}
        except (KeyError, TypeError) as error:
            raise Owl2Error(
                f"{path} is no scores file ({error}); delete it and run the sweep again"
            ) from None

    def lacks(self, config: RunConfig, benchmarks: Sequence[str]) -> str | None:
        """What a run has yet to do, in words; None when it is finished."""
        if not self.is_trained(config):
            return "is not trained to its last step"
        scored = self.read_scores()
        missing = [name for name in benchmarks if name not in scored]
        return f"has no score for {', '.join(missing)}" if missing else None


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep's files lie."""

    path: Path

    def run(self, run: Run) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.path / "points" / run.name)

    def scored_seeds(self, point: str) -> set[int]:
        """Seeds of a point that have scores, whether or not the sweep asks for them now.

        Raises:
          Owl2Error: they cannot be listed or read.
        """
        path = self.path / "points" / point
        try:
            names = buckets.names_in(path) if buckets.is_folder(path) else []
        except OSError as error:
            raise Owl2Error(f"{path} cannot be listed: {error.strerror or error}") from None
        seeds = (name.removeprefix("seed-") for name in names if name.startswith("seed-"))
        return {
            int(seed) for seed in seeds if seed.isdecimal() and RunFolder(path / f"seed-{seed}").read_scores()
        }

    def fit(self, point: Point) -> Path:
        """The file of what `owl2 fit` said of a point."""
        return self.path / "points" / point.name / "fit.json"

    def start(self, config: RunConfig, source: str | None = None) -> Path:
        """A copy of the start for the sizes of `config`.

        Args:
          source: a point's own start; None for the sweep's.
        """
        model = config.model
        name = f"{model.vision.image_size}px_{model.abstractor.num_queries}q_{model.decoder.adaptive}"
        if source is not None:
            name += f"_{hashlib.sha256(source.encode()).hexdigest()[:8]}"
        return self.path / "starts" / name

    def take(self, sweep: Sweep) -> bool:
        """Marks the folder as this sweep's, or checks that it is; points may be added to a grid.

        Returns:
          Whether the folder is new.

        Raises:
          Owl2Error: it holds results of another grid, with the differences.
        """
        path = self.path / "sweep.json"
        found, wanted = read_json(path), _identity(sweep)
        if found is not None:
            if wanted["common"]["start_identity"] is None:  # its files are on another machine
                wanted["common"]["start_identity"] = found["common"].get("start_identity")
            lines = _differences(found, wanted)
            if lines:
                raise Owl2Error(
                    f"{self.path} holds results of another grid ({'; '.join(lines[:6])}"
                    f"{f'; and {len(lines) - 6} more' if len(lines) > 6 else ''}). Give another --workdir, "
                    "or the old settings"
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise Owl2Error(f"{self.path} is not empty and holds no sweep; give another --workdir")
        json_files.write_json(path, wanted)
        return found is None


def _identity(sweep: Sweep) -> dict[str, Any]:
    config = sweep.config
    common = {"base": sweep.base_values, "overrides": config.overrides, "start_from": config.start_from}
    common |= {"start_identity": _start_identity(config.start_from)}
    common |= {"benchmarks": config.benchmarks, "max_questions": config.max_questions}
    points = {point.name: point.overrides for point in sweep.points}
    return json.loads(json.dumps(fields.to_dict({"common": common, "points": points})))


def _start_identity(start_from: str | None) -> str | None:
    """Tells a checkpoint that was replaced by another of the same name; None where there is none."""
    if start_from is None:
        return None
    try:
        return checkpoint_identity(as_path(start_from))
    except Owl2Error:  # said where a run needs it
        return None


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Lines for what is not as it was; points that are new are none."""
    before, after = dict(found["common"]), dict(wanted["common"])
    before_start, after_start = before.pop("start_identity", None), after.pop("start_identity")
    if todays_names(before["base"]) == todays_names(after["base"]):
        before["base"] = after["base"]  # the same, as an older version or another spelling has it
    lines = fields.differences(before, after)
    if before_start is not None and before_start != after_start:  # an earlier version noted none
        lines.append(f"the checkpoint start_from={after['start_from']} was replaced by another one")
    for name, overrides in found["points"].items():
        now = wanted["points"].get(name)
        if now is None:
            lines.append(f"point {name} is not in this grid")
        elif now != overrides:
            lines.append(f"point {name}: {', '.join(overrides)} -> {', '.join(now)}")
    return lines


def read_json(path: Path) -> Json:
    """The content of a file; None when there is none. Raises `Owl2Error` when it is damaged."""
    if not buckets.exists(path):
        return None
    try:
        return json_files.read_json(path)
    except Owl2Error as error:
        raise Owl2Error(f"{error}; delete it and run the sweep again") from error
