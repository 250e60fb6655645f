"""A training run from configuration to last checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from owl2_jax.checkpoint.local_tier import LocalTier
from owl2_jax.checkpoint.run_checkpoints import Checkpoints
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.host_memory import give_back_free_memory
from owl2_jax.core.json_files import read_json_object
from owl2_jax.core.paths import absolute
from owl2_jax.core.tree import Params, PyTree
from owl2_jax.data.batch import Batch
from owl2_jax.parallel import multihost
from owl2_jax.parallel.multihost import all_gather
from owl2_jax.training import param_groups
from owl2_jax.training.device_batch import device_batch
from owl2_jax.training.goodput import COMPILE, DATA_WAIT, EVALUATE, SAVE, GoodputClock
from owl2_jax.training.hooks import Hook, evaluate
from owl2_jax.training.initialize import starting_params
from owl2_jax.training.logging.metrics import read_metrics
from owl2_jax.training.logging.profile import Profile
from owl2_jax.training.logging.reporter import Reporter
from owl2_jax.training.logging.terminal import print_groups
from owl2_jax.training.preemption import StopRequests
from owl2_jax.training.run_directory import RECORD_FILE
from owl2_jax.training.state import TrainState
from owl2_jax.training.step_window import StepMetrics, StepWindow
from owl2_jax.training.trainer import Trainer
from owl2_jax.training.watchdog import Watchdog


class Batches(Protocol):
    """An endless stream of batches with a state, as `owl2_jax.data.pipeline.Pipeline`."""

    def __next__(self) -> Batch: ...

    def get_state(self) -> dict[str, Any]:
        """What `set_state` takes to go on after the last batch."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
      state: the last state, saved.
      finished: whether it reached its last step.
      signal: what asked it to stop; None when nothing did.
    """

    state: TrainState
    finished: bool
    signal: int | None


def train(
    trainer: Trainer,
    batches: Batches,
    run: Path,
    *,
    title: str = "train",
    start: Callable[[Trainer], Params] | None = None,
    hooks: Sequence[Hook] = (),
) -> Outcome:
    """Trains to the configured step, resuming what the run directory holds.

    Args:
      run: a written run directory (`run_directory.write_run_directory`).
      start: makes the parameters of step 0, by default `starting_params`.
      hooks: evaluations to run beside the steps.

    Raises:
      Owl2Error: too many non-finite steps in a row, too many unusable records,
        no readable checkpoint, or a save that failed.
    """
    config, started = trainer.config, time.perf_counter()
    local = config.local_checkpoints
    if jax.process_index() == 0:
        print_groups(param_groups.table(trainer.shapes, trainer.specs, config))

    with (
        Watchdog(run, config.watchdog_seconds) as watchdog,
        _checkpoints(run, trainer) as checkpoints,
    ):
        # Where to begin: the newest checkpoint of this run, or the starting parameters.
        multihost.agree("newest checkpoint", max(checkpoints.steps, default=0))
        resumed = checkpoints.restore(trainer.abstract_state())
        if resumed is None:
            state = trainer.create((start or starting_params)(trainer))
        else:
            state, read = resumed
            batches.set_state(read)
        first = int(state.step)
        changes = ChangeCheck(trainer, state)
        readings = read_metrics(run)  # before those after `first` are dropped

        # The steps. Metrics stay on the device until they are reported.
        with (
            StopRequests() as requests,
            Profile(run, config.profile_steps) as profile,
            Reporter(trainer, run, title, first) as reporter,
        ):
            clock, window = GoodputClock.resume(readings, first, started), StepWindow()
            for step in range(first + 1, config.num_steps + 1):
                window.make_room()
                batch = next_batch(batches, window, clock)
                batch = device_batch(
                    batch,
                    trainer.mesh,
                    config.accumulate_steps,
                    bool(trainer.datasets),
                    trainer.images_beside,
                )
                profile.before(step)
                # The first call compiles, which is no part of a step's time.
                with clock.during(COMPILE) if step == first + 1 else contextlib.nullcontext():
                    state, metrics = trainer.step(state, batch)
                profile.after(step, metrics)
                window.add(metrics)
                reporter.advance(step, batch)
                watchdog.beat(step)

                # What is due after a step: evaluations, a reading, a save.
                ends = step == config.num_steps
                stops = requests.reached(step) or ends
                due = [hook for hook in hooks if hook.is_due(step, ends)]
                with clock.during(EVALUATE), watchdog.paused():
                    scores = evaluate(due, state.params)
                if stops or due or step % config.log_every_steps == 0:
                    steps = window.fetch()
                    reporter.report(step, steps, clock.read(), scores)
                    check_finite(step, steps, config.max_bad_steps)
                if stops or (due and config.best) or step % config.save_every_steps == 0:
                    changes.check(state)
                    with clock.during(SAVE):
                        reporter.flush()
                        checkpoints.save(state, data_state(batches), scores, last=stops)
                elif local is not None and step % local.every_steps == 0:
                    with clock.during(SAVE):
                        reporter.flush()
                        checkpoints.save_locally(state, data_state(batches))
                if due or stops or step % config.save_every_steps == 0:
                    give_back_free_memory()
                if stops:
                    break

    # Leaving the blocks waited for the last save: nothing is done until it is on the disk.
    return Outcome(state, int(state.step) >= config.num_steps, requests.signal)


def next_batch(batches: Batches, window: StepWindow, clock: GoodputClock) -> Batch:
    """Takes a batch. It is a wait for data as far as the device had nothing else to do."""
    start = time.perf_counter()
    batch = next(batches)
    if window.is_idle:
        clock.add(DATA_WAIT, time.perf_counter() - start)
    return batch


def check_finite(step: int, steps: Sequence[StepMetrics], most: int) -> None:
    """Raises `Owl2Error` for a run that diverged: `most` steps in a row, or more, were not finite."""
    bad = max(int(metrics["bad_steps"]) for metrics in steps)
    if bad >= most:
        raise Owl2Error(
            f"step {step}: loss or gradient was not finite for {bad} steps in a row (train.max_bad_steps "
            f"is {most}); lower the learning rate, or look at these steps' batches"
        )


def _checkpoints(run: Path, trainer: Trainer) -> Checkpoints[TrainState]:
    config = trainer.config
    local = None
    if config.local_checkpoints is not None:
        # Told by the first process, as the others may look before it has written the record.
        identity, attempt = all_gather([_identity(run, config.num_steps), time.time_ns()])[0]
        local = LocalTier(config.local_checkpoints, identity, attempt)
    return Checkpoints(
        run, config.keep_checkpoints, config.best, trainer.fingerprint, local, config.max_failed_saves
    )


def _identity(run: Path, steps: int) -> str:
    """Tells a run from every other one, also from one of the same name that was removed."""
    path = run / RECORD_FILE
    first = read_json_object(path)["starts"][0] if jax.process_index() == 0 and path.is_file() else None
    text = json.dumps([str(absolute(run)), steps, first], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_state(batches: Batches) -> dict[str, Any]:
    """Where the data of all processes stands."""
    if jax.process_count() == 1:
        return batches.get_state()
    from owl2_jax.data.pipeline import merge_states

    return merge_states(all_gather(batches.get_state()))


class ChangeCheck:
    """Holds a run to its table of param_groups, once, in front of its first save.

    By then two steps or more were taken (a warm-up's first step has rate 0),
    and a whole interval, so that data every group needs has come by.
    """

    def __init__(self, trainer: Trainer, state: TrainState) -> None:
        self._trainer, self._taken = trainer, _good_steps(state)
        self._before: PyTree | None = trainer.fingerprint(state)["params"]

    def check(self, state: TrainState) -> None:
        """Raises `Owl2Error` when a frozen group changed or a trained one did not."""
        steps = _good_steps(state) - self._taken
        if self._before is None or steps < 2:
            return
        before, after = jax.device_get((self._before, self._trainer.fingerprint(state)["params"]))
        param_groups.check_changes(before, after, self._trainer.specs, steps)
        self._before = None


def _good_steps(state: TrainState) -> int:
    return int(state.step) - int(state.skipped)
