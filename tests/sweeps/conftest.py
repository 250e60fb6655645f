"""A sweep over the small model of the training tests, and an `owl2` that only pretends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from owl2_jax.sweeps import processes
from owl2_jax.sweeps.folder import SweepFolder
from owl2_jax.sweeps.grid import Run, Sweep, load_sweep
from tests.sweeps import fake_owl2
from tests.training import runs

# The true worker, of commands that pretend.
_WORKER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from owl2_jax.cli import worker
from tests.sweeps import fake_owl2
def main(arguments):
    print("process", os.getpid(), "threads", os.environ["NPROC"])
    return fake_owl2.main(arguments)
worker.main = main
worker.run(int(sys.argv[2]))
"""
PRETENDING_WORKER = (sys.executable, "-c", _WORKER, str(Path(__file__).parents[2]))
QUERIES = {"4": [], "2": ["model.abstractor.num_queries=2"], "8": ["model.abstractor.num_queries=8"]}
SIZES = {"28": [], "56": ["model.vision.image_size=56"]}


@pytest.fixture
def make_sweep(tmp_path: Path):
    """Writes a sweep file with some fields changed, and reads it."""
    runs.write_config(tmp_path / "small.py")

    def make(**changes: Any) -> Sweep:
        values = {"base": "small.py", "axes": {"queries": QUERIES}, "benchmarks": ["easy_vqa"], **changes}
        path = tmp_path / "sweep.py"
        path.write_text(f"def get_config():\n    return {values!r}\n")
        return load_sweep(str(path))

    return make


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "results")


@pytest.fixture
def pretended(monkeypatch, tmp_path: Path) -> Path:
    """`owl2` becomes `fake_owl2.py`; returns the file that tells it what to fail at."""
    monkeypatch.setattr(processes, "PROGRAM", (sys.executable, str(Path(__file__).with_name("fake_owl2.py"))))
    monkeypatch.setattr(processes, "WORKER", PRETENDING_WORKER)
    monkeypatch.setenv("FAKE_FAILS", str(tmp_path / "fails"))
    return tmp_path / "fails"


def pretend(sweep: Sweep, folder: SweepFolder, runs: Sequence[Run] | None = None) -> None:
    """Leaves the files of finished runs."""
    for run in sweep.runs if runs is None else runs:
        files = folder.run(run)
        fake_owl2.train(files.training, list(run.overrides))
        fake_owl2.evaluate(files.scores, list(sweep.config.benchmarks))


def pretend_scores(sweep: Sweep, folder: SweepFolder, scores: dict[str, Sequence[float]]) -> None:
    """Leaves finished runs of easy_vqa with {point: score of each seed, from the first}."""
    for point in sweep.points:
        for seed, score in zip(sweep.config.seeds, scores.get(point.name, ()), strict=False):
            files = folder.run(Run(point, seed))
            fake_owl2.train(files.training, [f"train.seed={seed}"])
            fake_owl2.evaluate(files.scores, ["easy_vqa"], score - seed)  # which adds the seed
