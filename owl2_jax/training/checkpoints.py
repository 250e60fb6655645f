"""Saving and resuming a run with Orbax: parameters, optimiser, step and data state together."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.params_io import CHECKPOINTS_DIR, MODEL_FILE, PARAMS_DIR, TOKENIZER_FILE, model_json
from owl2_jax.training.state import TrainState

# Items of a step directory, beside PARAMS_DIR.
TRAIN_ITEM = "train"
DATA_ITEM = "data"
CONFIG_FILE = "config.json"

_log = logging.getLogger(__name__)


class Checkpoints:
    """The steps of a run directory. Saves are asynchronous; close() or wait() raises their errors.

    Args:
      run: the run directory.
      keep: how many steps are kept.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self._manager = ocp.CheckpointManager(
            (run / CHECKPOINTS_DIR).resolve(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, single_host_load_and_broadcast=False
            ),
            item_names=(PARAMS_DIR, TRAIN_ITEM, DATA_ITEM),
        )

    def save(self, state: TrainState, data_state: Mapping[str, Any]) -> None:
        """Starts saving the state; raises what an earlier save failed with."""
        self._manager.check_for_errors()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    PARAMS_DIR: ocp.args.StandardSave(state.params),
                    TRAIN_ITEM: ocp.args.StandardSave(_without_params(state)),
                    DATA_ITEM: ocp.args.JsonSave(dict(data_state)),
                }
            ),
        )

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest step that can be read, or None when there is none.

        A damaged step is skipped with a warning for the one before.

        Args:
          like: arrays or shapes with shardings, of the state to restore.

        Raises:
          Owl2Error: steps exist and none can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore_step(step, like)
            except Exception as error:  # noqa: BLE001 - damage shows as nearly any type
                _log.warning("checkpoint of step %d cannot be read (%s); trying the one before", step, error)
        if steps:
            raise Owl2Error(
                f"none of the checkpoints {steps} in {self._manager.directory} can be read; the last reason is "
                "in the log. Restore them from a copy, or start anew in another directory"
            )
        return None

    def _restore_step(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                **{
                    PARAMS_DIR: ocp.args.StandardRestore(like.params),
                    TRAIN_ITEM: ocp.args.StandardRestore(_without_params(like)),
                    DATA_ITEM: ocp.args.JsonRestore(),
                }
            ),
        )
        train = restored[TRAIN_ITEM]
        return like.replace(params=restored[PARAMS_DIR], **train), restored[DATA_ITEM]

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def wait(self) -> None:
        """Waits for running saves and raises their errors."""
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def close(self) -> None:
        self.wait()
        self._manager.close()


def _without_params(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "opt_state": state.opt_state,
        "bad_steps": state.bad_steps,
        "skipped": state.skipped,
    }


def open_run_directory(run: Path, config: Mapping[str, Any], tokenizer: bytes, differences: Any) -> None:
    """Makes a run directory, or checks that the existing one belongs to this config.

    Args:
      config: the whole configuration as JSON types.
      tokenizer: bytes of the SentencePiece model that goes with the checkpoints.
      differences: function of (old, new) configs giving lines of what differs.

    Raises:
      Owl2Error: the directory holds a run of another config; the differences
        and the two ways out are named.
    """
    path = run / CONFIG_FILE
    if path.is_file():
        lines = differences(json.loads(path.read_text(encoding="utf-8")), config)
        if lines:
            shown = "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")
            raise Owl2Error(
                f"{run} holds a run of another config ({shown}). Either give the old settings to resume it, or "
                "another --workdir to start anew"
            )
    run.mkdir(parents=True, exist_ok=True)
    data = config["data"]
    model = model_json(
        config["model"],
        template=data["template"],
        image_tag=data["image_tag"],
        image_mode=data["image_mode"],
    )
    (run / TOKENIZER_FILE).write_bytes(tokenizer)
    _write_json(run / MODEL_FILE, model)
    # Written last: a directory with a config has all the rest.
    _write_json(path, config)


def _write_json(path: Path, values: Any) -> None:
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)
