"""Model directories, and parameters out of them and out of training runs.

A model directory holds `model.json`, the tokenizer and `params/` (an Orbax
checkpoint). A run directory holds `model.json`, the tokenizer and
`checkpoints/<step>/params`. Both are read by the same two steps:
`resolve_checkpoint` finds the files, `restore_params` loads the tree.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from owl2_jax.checkpoint.array_reader import (
    ParamsReader,
    check_complete,
    check_fit,
    listing,
    restore_params,
    stored_arrays,
)
from owl2_jax.checkpoint.array_store import streamed, write_params
from owl2_jax.checkpoint.output_directory import new_directory
from owl2_jax.core import tokenizer_files
from owl2_jax.core.buckets import check_readable
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.json_files import read_json
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.core.prompt_format import RELEASED, PromptFormat
from owl2_jax.core.text_files import read_bytes
from owl2_jax.core.tree import flatten

__all__ = [
    "Checkpoint", "ParamsReader", "check_checkpoint", "check_fit", "is_released_directory", "model_json",
    "read_model_json", "read_tokenizer", "resolve_checkpoint", "restore_params", "stored_arrays",
    "write_model_directory",
]  # fmt: skip

FORMAT: Final = 1
MODEL_FILE: Final = "model.json"
TOKENIZER_FILE: Final = tokenizer_files.SENTENCE_PIECES
PARAMS_DIR: Final = "params"
_COMMITTED: Final = "commit_success.txt"  # Orbax writes it last into a step in a bucket
CHECKPOINTS_DIR: Final = "checkpoints"
_MODEL_KEYS: Final = ("format", "model", "tokenizer", *RELEASED.as_dict())


@dataclass(frozen=True)
class Checkpoint:
    """Where one set of parameters and what belongs to it lie.

    Attributes:
      directory: holds `model.json` and the tokenizer.
      params: the Orbax checkpoint of the parameters.
      step: training step; None for a model directory.
    """

    directory: Path
    params: Path
    step: int | None = None


def model_json(
    model: Mapping[str, Any],
    *,
    tokenizer: str | None = TOKENIZER_FILE,
    prompt_format: PromptFormat = RELEASED,
) -> dict[str, Any]:
    """The content of `model.json`.

    Args:
      model: `Owl2Config.to_dict()`.
      tokenizer: name of the file beside it; None when there is none.
      prompt_format: how its prompts are written.
    """
    return {
        "format": FORMAT,
        "model": dict(model),
        "tokenizer": tokenizer,
        **prompt_format.as_dict(),
    }


def read_model_json(directory: str | Path) -> dict[str, Any]:
    """Reads and checks `model.json`: keys format, model, tokenizer, and those of `PromptFormat`.

    Raises:
      Owl2Error: it is missing, damaged, of another format, or names a
        tokenizer that is not there.
    """
    path = as_path(directory) / MODEL_FILE
    if not (path.exists() if in_bucket(path) else os.path.lexists(path)):
        raise Owl2Error(f"{path} is missing; {_way_to_model_json(path.parent)}")
    try:
        values = read_json(path, one_of_each_key=True)
    except Owl2Error as error:
        raise Owl2Error(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise Owl2Error(f"{path} is damaged: it has no 'model' group")
    if values.get("format") != FORMAT:
        raise Owl2Error(f"{path} has format {values.get('format')!r}; this version reads format {FORMAT}")
    for key in values:
        if key not in _MODEL_KEYS:
            raise unknown_name(f"key of {path}", key, _MODEL_KEYS)
    values = {**model_json(values["model"], tokenizer=None), **values}
    if values["tokenizer"] is not None and not (path.parent / values["tokenizer"]).is_file():
        raise Owl2Error(f"{path} names the tokenizer {values['tokenizer']!r}, which is not beside it")
    return values


def _way_to_model_json(directory: Path) -> str:
    if (directory / CHECKPOINTS_DIR).is_dir():
        return f"copy it back, or run its `owl2 train --workdir={directory}` again, which writes it"
    return "expected a model or run directory of ours"


def read_tokenizer(directory: str | Path) -> bytes | None:
    """The bytes of the tokenizer that `model.json` names; None when it names none."""
    name = read_model_json(directory)["tokenizer"]
    return None if name is None else read_bytes(as_path(directory) / name)


def write_model_directory(
    output: str | Path, model: Mapping[str, Any], params: Mapping[str, Any], tokenizer: bytes | None
) -> None:
    """Writes a whole model directory, or nothing.

    Args:
      output: must not exist yet.
      model: what `model_json` returned; its "tokenizer" is None exactly when
        `tokenizer` is.
      params: nested dict of arrays or `array_store.StreamedLeaf`.
      tokenizer: bytes of its file.

    Raises:
      Owl2Error: `output` exists, or the disk is full or not writable.
    """
    needed = sum(streamed(path, leaf).nbytes for path, leaf in flatten(params).items())
    with new_directory(output, needed) as directory:
        write_params(directory / PARAMS_DIR, params)
        if tokenizer is not None:
            (directory / model["tokenizer"]).write_bytes(tokenizer)
        # Last, as a reader asks for it: in a bucket a half-written directory has its name already.
        (directory / MODEL_FILE).write_bytes((json.dumps(model, indent=2) + "\n").encode())


def resolve_checkpoint(path: str | Path) -> Checkpoint:
    """Finds the parameters of a model directory, a run directory (latest step) or a step of a run.

    Steps that were being written when a run stopped have another name and do
    not count. A step that has its final name and lacks its parameters is an
    error: going on with an older one would hide the damage.

    Raises:
      Owl2Error: nothing there, or something half-written, saying which.
    """
    path = as_path(path)
    if in_bucket(path):
        check_readable(path)
    if not path.is_dir():
        raise Owl2Error(
            f"checkpoint {path} is not a directory; expected a model or run directory, as "
            "`owl2 train` and `owl2 convert to-jax` write them"
        )
    if path.parent.name == CHECKPOINTS_DIR and path.name.isdigit():
        return _step(path.parent.parent, path)
    if (path / PARAMS_DIR).is_dir():
        check_complete(path / PARAMS_DIR)
        read_model_json(path)
        return Checkpoint(path, path / PARAMS_DIR)
    if (path / CHECKPOINTS_DIR).is_dir():
        return _step(path, _latest_step(path / CHECKPOINTS_DIR))
    raise Owl2Error(
        f"checkpoint {path} has neither {PARAMS_DIR}/ (a model directory) nor {CHECKPOINTS_DIR}/ "
        f"(a run directory); it holds {listing(p.name for p in path.iterdir())}{_what_instead(path)}"
    )


def _what_instead(path: Path) -> str:
    """The way on from a directory of PyTorch weights or of PEFT adapters."""
    if (path / "adapter_config.json").is_file():
        return "; adapters of PEFT are put onto their base with `owl2 convert import-lora`"
    if (path / "config.json").is_file():
        return "; PyTorch weights are converted with `owl2 convert to-jax`"
    return ""


def is_released_directory(path: str | Path) -> bool:
    """Whether `path` looks like released weights: a config.json, and nothing of ours beside it."""
    path = as_path(path)
    ours = (MODEL_FILE, CHECKPOINTS_DIR, PARAMS_DIR)
    return (path / "config.json").is_file() and not any((path / name).exists() for name in ours)


def check_checkpoint(path: str | Path) -> None:
    """What can be said at once about a checkpoint that a command will load.

    Raises:
      Owl2Error: there is none, or it is half-written; see `resolve_checkpoint`.
    """
    if in_bucket(path):  # rights and credentials first: what may not be seen looks like what is not there
        check_readable(path)
    if not is_released_directory(path):
        resolve_checkpoint(path)


def _latest_step(checkpoints: Path) -> Path:
    steps = [p for p in checkpoints.iterdir() if p.name.isdigit() and is_whole_step(p)]
    if not steps:
        raise Owl2Error(
            f"{checkpoints} has no complete step; it holds {listing(p.name for p in checkpoints.iterdir())}"
        )
    return max(steps, key=lambda p: int(p.name))


def is_whole_step(step: Path) -> bool:
    """Whether a folder with the name of a step was finished: in a bucket its name does not say so."""
    return (step / _COMMITTED).is_file() if in_bucket(step) else step.is_dir()


def _step(run: Path, step: Path) -> Checkpoint:
    if in_bucket(step) and not is_whole_step(step):
        raise Owl2Error(f"{step} is half-written: {_COMMITTED} is missing; give another step")
    check_complete(step / PARAMS_DIR)
    read_model_json(run)
    return Checkpoint(run, step / PARAMS_DIR, int(step.name))
