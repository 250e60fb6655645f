"""Saving and resuming a run with Orbax: parameters, optimiser, step and data state together."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, Protocol, TypeVar

import jax
import orbax.checkpoint as ocp

from owl2_jax.checkpoint.array_reader import check_complete, drop_late_replies
from owl2_jax.checkpoint.array_store import quiet_orbax
from owl2_jax.checkpoint.best import BestConfig
from owl2_jax.checkpoint.failed_saves import FailedSaves, SaveFailure
from owl2_jax.checkpoint.local_tier import LocalTier
from owl2_jax.checkpoint.manager_options import manager_options
from owl2_jax.checkpoint.param_files import CHECKPOINTS_DIR, PARAMS_DIR
from owl2_jax.core.buckets import move_folder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import absolute, in_bucket
from owl2_jax.core.tree import Params, PyTree
from owl2_jax.parallel.multihost import all_gather, any_trouble, together

# Items of a step directory, beside PARAMS_DIR.
TRAIN_ITEM: Final = "train"
DATA_ITEM: Final = "data"
DAMAGED_DIR: Final = "damaged"

_log = logging.getLogger(__name__)


class RunState(Protocol):
    """What a run carries from step to step; a dataclass of pytrees, as `training.state.TrainState`."""

    step: jax.Array
    params: Params

    def replace(self, **changes: Any) -> Any:
        """A copy with other fields."""


S = TypeVar("S", bound=RunState)


class Checkpoints(Generic[S]):
    """The steps of a run directory. Saves are asynchronous; leaving the block waits for them.

    Args:
      run: the run directory.
      keep: how many of the newest steps are kept.
      best: the step that is kept besides them for its score.
      fingerprint: state to small numbers (a pytree) that are saved with it and
        compared when it is restored: the files themselves have no checksum, so
        a flipped bit would go unseen. None saves and compares none.
      local: frequent saves on every host's own disk; None for none.
      may_fail: saves in a row that may fail; each is told, and the next one is tried. Those on the
        hosts' own disks are counted by themselves. On several hosts it is for those alone.
    """

    def __init__(
        self,
        run: Path,
        keep: int,
        best: BestConfig | None = None,
        fingerprint: Callable[[S], PyTree] | None = None,
        local: LocalTier | None = None,
        may_fail: int = 0,
    ) -> None:
        self._run, self._fingerprint, self._local = run, fingerprint, local
        # A host that failed leaves the others in Orbax's barriers, which no later save gets past.
        self._failures, self._under_way = FailedSaves(may_fail if jax.process_count() == 1 else 0), False
        self._local_failures, self._failed_together = FailedSaves(may_fail), False
        self._failure, self._saving = SaveFailure(), -1
        logging.getLogger("absl").addFilter(self._failure)
        drop_late_replies()  # of reads and writes beside one that failed
        self._options = manager_options(run, keep, best)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        with quiet_orbax():
            return ocp.CheckpointManager(
                absolute(self._run / CHECKPOINTS_DIR),
                options=self._options,
                item_names=(PARAMS_DIR, TRAIN_ITEM, DATA_ITEM),
            )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for running saves. Their error is raised, unless another one is on its way."""
        try:
            if error is None:
                self.wait()
            elif not self._failed_together:
                self._guarded(self._manager.wait_until_finished)  # the others may be elsewhere
        except Owl2Error as failed:
            if error is None:
                raise
            _log.warning("%s", failed)
        finally:
            if self._local is not None:
                self._local.close()
            self._close()

    def _close(self) -> None:
        if self._failed_together and jax.process_count() > 1:
            # Orbax would wait for the host that failed. Together, so that no end cuts off another's message.
            jax.distributed.shutdown()
        else:
            self._manager.close()
            logging.getLogger("absl").removeFilter(self._failure)

    def save(
        self,
        state: S,
        data_state: Mapping[str, Any],
        scores: Mapping[str, float] | None = None,
        last: bool = False,
    ) -> None:
        """Starts saving the state; a step that is saved already stays.

        Args:
          scores: what was evaluated at this step, for the choice of the best.
          last: the run ends here, so this one must succeed.

        Raises:
          Owl2Error: an earlier save failed, or this one could not begin, and no more may.
        """
        self._look_back()
        self._under_way = self._failures.tolerated(lambda: self._save(state, data_state, scores), last)
        if self._local is not None and not last:
            self.save_locally(state, data_state)

    def _look_back(self) -> None:
        """Tells how the save before this one ended."""
        if self._under_way and self._failures.tolerated(self.wait):
            self._failures.went_well()
            return
        if self._failures.any:  # it is told, but each of its threads keeps an error of its own, for later
            with suppress(Exception):
                self._manager.close()
            self._manager, self._failed_together, self._failure.error = self._open(), False, None

    def save_locally(self, state: S, data_state: Mapping[str, Any]) -> None:
        """Starts saving the state on every host's own disk, once all have written the one before.

        Raises:
          Owl2Error: the one before failed on a host, and no more may.
        """
        assert self._local is not None
        local, saved = self._local, {"data": dict(data_state), "fingerprint": self._sums(state)}
        if self._local_failures.tolerated(local.wait):
            self._local_failures.went_well()
        local.save(int(state.step), state, saved)

    def _save(self, state: S, data_state: Mapping[str, Any], scores: Mapping[str, float] | None) -> None:
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._saving = step
        items = {
            PARAMS_DIR: ocp.args.StandardSave(state.params),
            TRAIN_ITEM: ocp.args.StandardSave(_without_params(state)),
            DATA_ITEM: ocp.args.JsonSave({"data": dict(data_state), "fingerprint": self._sums(state)}),
        }
        self._guarded(
            lambda: self._manager.save(
                step, args=ocp.args.Composite(**items), metrics=dict(scores) if scores else None
            )
        )

    def wait(self) -> None:
        """Waits for running saves, on every process. Raises `Owl2Error` on all when one failed on any."""
        try:
            # Orbax itself waits for the other hosts before it tells what failed on this one.
            together(lambda: self._guarded(self._manager.wait_until_finished), self._look)
        except Owl2Error:
            self._failed_together = True
            raise

    def _guarded(self, action: Callable[[], object]) -> None:
        """Runs `action` after asking for the errors of saves under way, and words what goes wrong."""
        try:
            with quiet_orbax():
                self._manager.check_for_errors()
                action()
                self._manager.check_for_errors()
        except Exception as error:
            raise self._worded(error) from error

    def _look(self) -> None:
        """Raises what failed so far of a save under way."""
        if self._failure.error is not None:
            raise self._worded(self._failure.error) from self._failure.error

    def _worded(self, error: BaseException) -> Owl2Error:
        reason = " ".join(str(error).split(" [tensorstore_spec", 1)[0].split())
        steps = [step for step in self._manager.all_steps() if step != self._saving]
        return Owl2Error(
            f"a checkpoint could not be saved in {self._manager.directory}: "
            f"{reason or type(error).__name__}. Whole ones: {steps or 'none'}; make room there, then the "
            "same command resumes"
        )

    def restore(self, like: S) -> tuple[S, dict[str, Any]] | None:
        """The newest step that can be read, or None when there is none.

        A damaged step is moved to `damaged/` of the run, with a warning, and
        the one before is taken. A step that all hosts have on their own disks is read
        from there; one that only some have is none.

        Args:
          like: arrays or shapes with shardings, of the state to restore. The
            mesh may be another one than that of the saved state.

        Raises:
          Owl2Error: steps exist and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step, attempt in self._candidates(steps):
            reader = partial(self._read_local, attempt) if attempt else self._read_step
            found, damage = self._try_step(step, like, reader)
            if found is not None:
                self._set_aside(damaged)
                return found
            if attempt:
                _log.warning("step %d cannot be read from the hosts' own disks (%s)", step, damage)
                continue
            _log.warning(
                "checkpoint of step %d cannot be read (%s); going on from the one before it", step, damage
            )
            damaged.append(step)
        if steps:
            raise Owl2Error(
                f"none of the checkpoints {steps} in {self._manager.directory} can be read. Restore them "
                "from a copy, or start again with another --workdir"
            )
        return None

    def _candidates(self, steps: list[int]) -> list[tuple[int, int]]:
        """(step, the attempt that left it on all hosts' own disks; 0 for the run's), in the order to try."""
        found = [(step, 0) for step in steps]
        if self._local is not None:
            on_hosts = [set(map(tuple, saves)) for saves in all_gather(sorted(self._local.saves()))]
            common = set.intersection(*on_hosts)
            self._local.prefer(common)
            found += common
            without = [str(host) for host, saves in enumerate(on_hosts) if not saves]
            if without and any(on_hosts):
                _log.warning(
                    "host %s has none of the steps that others have on their disks", ", ".join(without)
                )
        return sorted(found, reverse=True)

    def _read_local(self, attempt: int, step: int, like: S) -> tuple[S, dict[str, Any]]:
        assert self._local is not None
        return self._local.read(step, attempt, like)

    def _try_step(
        self, step: int, like: S, reader: Callable[[int, S], tuple[S, dict[str, Any]]]
    ) -> tuple[tuple[S, dict[str, Any]] | None, str]:
        """(what a step holds, ""), or (None, what is wrong with it): the same on every process.

        A process whose part of the files is damaged must not go back alone.
        """
        read, damage = None, ""
        try:
            read = reader(step, like)
        except Exception as error:
            damage = " ".join(str(error).split())[:300] or type(error).__name__
        damage = any_trouble(damage)
        if damage:
            return None, damage
        assert read is not None
        state, saved = read
        damage = self._compared(state, saved["fingerprint"])
        return (None, damage) if damage else ((state, saved["data"]), "")

    def _compared(self, state: S, saved: PyTree) -> str:
        """What is wrong with values that were read, told alike on every process; "" for nothing.

        Args:
          saved: the fingerprint that this process read with them.
        """
        if self._fingerprint is None:
            return ""
        same = self._sums(state) == saved
        damage = any_trouble("" if same else "its values are not those that were saved")
        # Each host's replicas may match what lay beside them and be of another save than the others'.
        if not damage and any(other != saved for other in all_gather(saved)):
            return "the hosts have it of different saves"
        return damage

    def _read_step(self, step: int, like: S) -> tuple[S, dict[str, Any]]:
        """The state and the JSON item, as they are stored."""
        items = {
            PARAMS_DIR: ocp.args.StandardRestore(like.params),
            TRAIN_ITEM: ocp.args.StandardRestore(_without_params(like)),
            DATA_ITEM: ocp.args.JsonRestore(),
        }
        check_complete(self._run / CHECKPOINTS_DIR / str(step) / PARAMS_DIR)
        with quiet_orbax():
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        saved = restored[DATA_ITEM]
        if not {"data", "fingerprint"} <= saved.keys():
            raise Owl2Error(f"its item {DATA_ITEM} lacks fields; it has {sorted(saved)}")
        return like.replace(params=restored[PARAMS_DIR], **restored[TRAIN_ITEM]), saved

    def _sums(self, state: S) -> PyTree:
        if self._fingerprint is None:
            return None
        return jax.tree.map(int, jax.device_get(self._fingerprint(state)))

    def _set_aside(self, steps: list[int]) -> None:
        """Makes room for steps that will be taken again; nothing is deleted."""
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                target = self._run / DAMAGED_DIR / str(step)
                target.parent.mkdir(exist_ok=True)
                while target.exists():
                    target = target.with_name(target.name + "-again")
                damaged = self._run / CHECKPOINTS_DIR / str(step)
                move_folder(damaged, target) if in_bucket(damaged) else damaged.rename(target)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._manager.reload()

    @property
    def steps(self) -> list[int]:
        """Steps that are whole, in order."""
        return sorted(self._manager.all_steps())

    def best_step(self, best: BestConfig) -> int | None:
        """The kept step with the best score; None when none has one."""
        scores = {}
        for step in self._manager.all_steps():
            metrics = self._manager.metrics(step)
            if metrics and best.metric in metrics:
                scores[step] = metrics[best.metric]
        choose = min if best.mode == "min" else max
        return choose(scores, key=scores.get) if scores else None


def _without_params(state: RunState) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(state))  # type: ignore[arg-type]
    return {name: getattr(state, name) for name in names if name != "params"}
