"""Kills a training run again and again, and looks whether its result is that of an undisturbed one.

    python -m tests.end_to_end.kill_run --kills 50

Every start is the same command. Half of the kills (SIGKILL) come at a random
moment of the process, start-up included; half come inside a save. When a run
finishes all the same it is compared and begun anew, until all kills are done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tests.training import runs

ROOT = Path(__file__).parents[2]
STEPS = 40
# A save every few steps, so that much of the time goes into saves.
OVERRIDES = (f"train.total_steps={STEPS}", "train.save_every_steps=3", "train.log_every_steps=1")


class Victim:
    """A run directory and the command that trains in it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.run = folder / name
        config = folder / "kill.py"
        config.write_text(f"def get_config():\n    return {runs.VALUES!r}\n")
        self._command = [
            sys.executable, "-m", "owl2_jax.cli.main", "train",
            f"--config={config}", f"--workdir={self.run}", *OVERRIDES,
        ]  # fmt: skip
        # Restarts find what the first start compiled.
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        kept = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        self._environment = {**kept, "JAX_PLATFORMS": "cpu", **cache}

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def finish(self) -> float:
        """Runs to the end; returns the seconds it took."""
        begun = time.monotonic()
        process = self.start()
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return time.monotonic() - begun

    def kill(self, process: subprocess.Popen[str], moment: float | None, chance: random.Random) -> bool:
        """Kills after `moment` seconds, or inside a save for None; False when the run ended before."""
        deadline = time.monotonic() + (300 if moment is None else moment)
        while time.monotonic() < deadline and process.poll() is None:
            if moment is None and any(self.run.glob("checkpoints/*orbax-checkpoint-tmp*")):
                time.sleep(chance.uniform(0, 0.05))
                break
            time.sleep(0.002)
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
            return False
        process.kill()
        process.wait()
        return True


def result(run: Path) -> list[np.ndarray]:
    """Every array of the last checkpoint."""
    import orbax.checkpoint as ocp

    step = (run / "checkpoints" / str(STEPS)).resolve()
    items = [ocp.PyTreeCheckpointer().restore(step / name) for name in ("params", "train")]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(items)]


def losses(run: Path) -> list[tuple[int, float]]:
    """Step and loss of every reading."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def compare(expected: Path, found: Path) -> None:
    """Raises AssertionError unless both runs ended with the same bits and the same readings."""
    for want, got in zip(result(expected), result(found), strict=True):
        np.testing.assert_array_equal(got, want)
    assert losses(found) == losses(expected)
    data = [(run / "checkpoints" / str(STEPS) / "data" / "metadata").read_text() for run in (expected, found)]
    assert data[0] == data[1], "the data stands elsewhere"


def kill_and_compare(folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kills `kills` times; returns what happened. Raises AssertionError for a run that ends differently."""
    chance = random.Random(seed)
    expected, victim = Victim(folder, "straight"), Victim(folder, "killed")
    expected.finish()
    seconds = Victim(folder, "timed").finish()  # a start that finds everything compiled
    done = in_saves = finished = 0
    moments = [None if number % 2 else chance.uniform(0, seconds) for number in range(kills)]
    while moments:
        if victim.kill(victim.start(), moments[-1], chance):
            in_saves += moments.pop() is None
            done += 1
        else:
            compare(expected.run, victim.run)
            shutil.rmtree(victim.run)
            finished += 1
    victim.finish()
    compare(expected.run, victim.run)
    return {"kills": done, "in_saves": in_saves, "compared": finished + 1, "seconds_per_start": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_and_compare(Path(folder), args.kills, args.seed)
    print(f"every run ended with the same bits: {json.dumps(outcome)}")


if __name__ == "__main__":
    main()
