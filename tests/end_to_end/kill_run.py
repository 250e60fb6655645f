"""Kills a training run again and again, and looks whether its result is that of an undisturbed one.

    python -m tests.end_to_end.kill_run --kills 50
    python -m tests.end_to_end.kill_run --kills 200 --bucket

Every start is the same command, and every kill (SIGKILL) comes at a random
moment: of the start-up, of a step, or of a save that is under way. With --bucket
the run that is killed lies in one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from owl2_jax.core.paths import absolute, as_path
from owl2_jax.training.logging.metrics import read_metrics
from tests.bucket_server import BUCKET, Bucket, started
from tests.environment import environment
from tests.training import runs

ROOT = Path(__file__).parents[2]
# What is waited for, and how long at most the kill comes after it.
STARTUP, STEP, SAVE = "startup", "step", "save"
LATEST_SECONDS = {STEP: 0.03, SAVE: 0.05}


class Victim:
    """A run directory and the command that trains in it."""

    POLL_SECONDS = 0.002

    def __init__(self, folder: Path, name: str, steps: int) -> None:
        self.run, self.steps = folder / name, steps
        overrides = (f"train.total_steps={steps}", "train.save_every_steps=3", "train.log_every_steps=1")
        self._command = runs.train_command(runs.write_config(folder / "kill.py"), self.run, *overrides)
        # Restarts find what the first start compiled, also after a kill in the middle of keeping it.
        self._environment = environment(OWL2_COMPILATION_CACHE=str(folder / "cache"))

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def finish(self) -> None:
        process = self.start()
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors

    def kill(self, reached: Callable[[], bool], delay: float) -> bool:
        """Starts the run and kills it `delay` seconds after `reached`; False when it ended before."""
        process = self.start()
        while not reached() and process.poll() is None:
            time.sleep(self.POLL_SECONDS)
        time.sleep(delay)
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (0, -9), errors
        return process.returncode == -9

    def has_read(self, step: int) -> bool:
        """Whether the reading of a step is written."""
        path = self.run / "metrics.jsonl"
        return path.is_file() and f'{{"step": {step},' in path.read_text()

    def is_saving_behind(self, step: int) -> bool:
        """Whether a save of a step after `step` is under way."""
        saves = self.run.glob("checkpoints/*orbax-checkpoint-tmp*")
        return any(int(save.name.partition(".")[0]) > step for save in saves)


class BucketVictim(Victim):
    """As `Victim`, for a run in the bucket of a server in this process."""

    POLL_SECONDS = 0.03  # each look takes a while of the server

    def __init__(self, folder: Path, name: str, steps: int, server: Bucket) -> None:
        super().__init__(folder, name, steps)
        self._server, self._name = server, name
        self.run = as_path(f"gs://{BUCKET}/{name}")
        self._command = [
            f"--workdir={self.run}" if part.startswith("--workdir=") else part for part in self._command
        ]
        self._environment |= server.environment

    def _saves(self) -> dict[int, bool]:
        """{step: whether it is whole}."""
        start = f"{self._name}/checkpoints/"
        saves: dict[int, bool] = {}
        for name in self._server.names(start):
            step, _, file = name.removeprefix(start).partition("/")
            if step.isdigit():
                saves[int(step)] = saves.get(int(step), False) or file == "commit_success.txt"
        return saves

    def has_read(self, step: int) -> bool:
        """Whether the save in front of a step is whole: its reading comes with the next one."""
        return any(whole and saved >= step - step % 3 for saved, whole in self._saves().items())

    def is_saving_behind(self, step: int) -> bool:
        return any(saved > step and not whole for saved, whole in self._saves().items())


def result(run: Path, step: int) -> list[np.ndarray]:
    """Every array of a checkpoint."""
    import orbax.checkpoint as ocp

    folder = absolute(run / "checkpoints" / str(step))
    items = [ocp.PyTreeCheckpointer().restore(folder / name) for name in ("params", "train")]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(items)]


def losses(run: Path) -> list[tuple[int, float]]:
    """Step and loss of every reading."""
    return [(line["step"], line["loss"]) for line in read_metrics(run)]


def compare(expected: Victim, found: Victim) -> None:
    """Raises AssertionError unless both runs ended with the same bits and the same readings."""
    pairs = zip(result(expected.run, expected.steps), result(found.run, found.steps), strict=True)
    for want, got in pairs:
        np.testing.assert_array_equal(got, want)
    assert losses(found.run) == losses(expected.run)
    # Where the data stands, and sums over the bits.
    states = [
        (victim.run / "checkpoints" / str(victim.steps) / "data" / "metadata").read_text()
        for victim in (expected, found)
    ]
    assert states[0] == states[1]


def undisturbed(folder: Path, steps: int) -> Victim:
    """A run that nobody kills, which has ended."""
    victim = Victim(folder, "straight", steps)
    victim.finish()
    return victim


def kill_and_compare(
    folder: Path,
    kills: int,
    seed: int = 0,
    server: Bucket | None = None,
    seconds: float = math.inf,
    expected: Victim | None = None,
) -> dict[str, Any]:
    """Kills a run `kills` times; returns how often at what. Raises AssertionError if it ends differently.

    Args:
      server: the run that is killed lies in its bucket; None is on the disk.
      seconds: no kill comes after them.
      expected: an undisturbed run in the same folder; None trains one.
    """
    chance = random.Random(seed)
    if expected is None:
        expected = undisturbed(folder, 3 * kills + 6)
    steps = expected.steps
    victim = (
        Victim(folder, "killed", steps) if server is None else BucketVictim(folder, "killed", steps, server)
    )
    done = {STARTUP: 0, STEP: 0, SAVE: 0}
    # In the order of steps, so that one run meets them all.
    last = time.monotonic() + seconds
    for step in sorted(chance.sample(range(1, steps - 4), kills)):
        if time.monotonic() > last:
            break
        kind = chance.choice((STARTUP, STEP, SAVE))
        if kind == STARTUP:
            killed = victim.kill(lambda: True, chance.uniform(0, 4))
        elif kind == STEP:
            reached = lambda step=step: victim.has_read(step)
            killed = victim.kill(reached, chance.uniform(0, LATEST_SECONDS[STEP]))
        else:
            reached = lambda step=step: victim.is_saving_behind(step)
            killed = victim.kill(reached, chance.uniform(0, LATEST_SECONDS[SAVE]))
        assert killed, "the run ended before it was killed"
        done[kind] += 1
        print(f"step {step}: {json.dumps(done)}", end="\r", flush=True)
    victim.finish()
    compare(expected, victim)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bucket", action="store_true")
    parser.add_argument("--seconds", type=float, default=math.inf, help="no kill comes after them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = stack.enter_context(started()) if args.bucket else None
        os.environ.update({} if server is None else server.environment)
        done = kill_and_compare(Path(folder), args.kills, args.seed, server, args.seconds)
    print(f"the same bits and readings after {sum(done.values())} kills: {json.dumps(done)}")


if __name__ == "__main__":
    main()
