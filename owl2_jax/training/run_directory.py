"""A run's directory: its config, what a checkpoint needs beside it, and a record of every start."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from owl2_jax.checkpoint.param_files import CHECKPOINTS_DIR, MODEL_FILE, is_whole_step, model_json
from owl2_jax.core import tokenizer_files
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import differences
from owl2_jax.core.file_identity import Identity, changes, identities_as, identities_now
from owl2_jax.core.file_writing import write_bytes
from owl2_jax.core.json_files import read_json_object
from owl2_jax.core.paths import scheme_of
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.core.text_files import read_bytes
from owl2_jax.training.extending import LENGTH_FIELDS, why_not_extended
from owl2_jax.version import __version__

CONFIG_FILE: Final = "config.json"
RECORD_FILE: Final = "run.json"
DATA_FILE: Final = "data.json"  # what the files of the sets were, by `file_identity`

# Settings that a resumed run may change: they say where and how the run is
# computed or watched, not what it learns.
FREE_FIELDS: Final = frozenset(
    {
        "mesh",
        "model.remat",
        "model.attention",
        "model.image_kv",
        "model.scan_unroll",
        "model.splash_block",
        "train.compiler_options",
        "train.loss_chunk",
        "train.log_every_steps",
        "train.save_every_steps",
        "train.keep_checkpoints",
        "train.max_failed_saves",
        "train.local_checkpoints",
        "train.max_bad_steps",
        "train.watchdog_seconds",
        "train.profile_steps",
        "train.best",
        "train.wandb",
        "data.cache_samples",
        "data.workers",
        "data.prefetch",
        "data.max_rejected_share",
        "heldout",
        "evaluators",
    }
)
_PACKAGES: Final = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def check_run_directory(
    run: Path, config: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
) -> None:
    """Checks that a run directory is new, or belongs to this config; `FREE_FIELDS` may differ.

    So may its length, where the steps that are done would have been the same.

    Args:
      run: the directory.
      config: all settings of this start, as JSON types.
      read: gives the saved config the names of today.

    Raises:
      Owl2Error: it holds a run of another config (with the differences and the
        two ways out), or something that is no run.
    """
    path = run / CONFIG_FILE
    if run.exists() and not run.is_dir():
        raise Owl2Error(f"--workdir {run} is a file; give a directory that is new or holds a run")
    if not path.is_file():
        return
    try:
        old = read(read_json_object(path))
    except Owl2Error as error:
        raise Owl2Error(f"{error}; restore it, or give another --workdir") from error
    fixed, now = _fixed(old), _fixed(config)
    lines = differences(fixed, now)
    if lines and not differences(_any_length(fixed), _any_length(now)):
        refusal = why_not_extended(run, old["train"], config["train"], saved_step(run))
        if refusal:
            raise Owl2Error(refusal)
    elif lines:
        shown = "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")
        raise Owl2Error(
            f"{run} holds a run of another config ({shown}). Either give the old settings to resume it, or "
            "another --workdir to start again"
        )


def check_data(
    run: Path,
    found: Mapping[str, Mapping[str, Identity]],
    accept: bool = False,
    files: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Checks that the files of all sets are those a run was trained on so far, and notes them.

    Args:
      found: {set: `file_identity.identities` of its files}.
      accept: go on with other files, which are noted from now on.
      files: {set: its files}, to read them again as an older version did.

    Raises:
      Owl2Error: a file has changed since, with the ways out.
    """
    if not accept:
        before = _trained_on(run)
        for name, now in found.items() if before else ():
            old = before.get(name, {})
            lines = changes(old, now)
            if lines and files is not None:
                lines = changes(old, identities_as(old, files[name]))
            _refuse_changes(run, name, lines)
    _write_json(run / DATA_FILE, found)


def check_known_data(run: Path) -> None:
    """As `check_data`, for files that a run knows by name: without its sets opened, so at once.

    Raises:
      Owl2Error: one of them has other content now, or cannot be read; a missing one is left to its set.
    """
    for name, before in _trained_on(run).items():
        now = identities_now(before)
        _refuse_changes(run, name, changes({file: before[file] for file in now}, now))


def _trained_on(run: Path) -> dict[str, dict[str, Identity]]:
    """What `check_data` noted; nothing where no step is saved yet."""
    path = run / DATA_FILE
    return read_json_object(path) if path.is_file() and saved_step(run) else {}


def _refuse_changes(run: Path, name: str, lines: Sequence[str]) -> None:
    if lines:
        shown = "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")
        raise Owl2Error(
            f"data.datasets.{name} is not what {run} was trained on so far: {shown}. Put the old files back; "
            f"or start another --workdir with train.start_from={run}; or go on with the new ones by "
            "--accept-changed-data"
        )


def check_tokenizer_file(run: Path, tokenizer: bytes) -> None:
    """Raises `Owl2Error` when a run was trained with another tokenizer than `data.tokenizer` now names."""
    names = [name for name in tokenizer_files.FILE_NAMES if (run / name).is_file()]
    path = run / (names or [tokenizer_files.file_name(tokenizer)])[0]
    if path.is_file() and saved_step(run) and read_bytes(path) != tokenizer:
        raise Owl2Error(
            "data.tokenizer is another file than the one this run was trained with, so the same ids would "
            f"mean other pieces; put the old one back (a copy is {path}), or give another --workdir"
        )


def is_complete(run: Path, num_steps: int) -> bool:
    """Whether the last step of a run is saved already."""
    return is_whole_step(run / CHECKPOINTS_DIR / str(num_steps))


def saved_step(run: Path) -> int:
    """The newest step that is saved; 0 for none."""
    steps = [
        path.name for path in _entries(run / CHECKPOINTS_DIR) if path.name.isdigit() and is_whole_step(path)
    ]
    return max(map(int, steps), default=0)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def write_run_directory(run: Path, config: Mapping[str, Any], tokenizer: bytes) -> None:
    """Writes config, model and tokenizer; run `check_run_directory` before, on one process only.

    Args:
      config: the whole configuration as JSON types.
      tokenizer: bytes of the tokenizer that goes with the checkpoints.
    """
    model = model_json(
        config["model"],
        tokenizer=tokenizer_files.file_name(tokenizer),
        prompt_format=PromptFormat.of(config["data"]),
    )
    _write(run / model["tokenizer"], tokenizer)
    _write_json(run / MODEL_FILE, model)
    # Written last: a directory with a config has all the rest.
    _write_json(run / CONFIG_FILE, config)


def record_start(
    run: Path, config: Mapping[str, Any], devices: Mapping[str, Any], records: Mapping[str, int]
) -> None:
    """Adds this start to `run.json`: when, what code and versions, on which devices, on which data.

    Args:
      devices: kind, number and processes, as JSON types.
      records: {set: number of its records}.
    """
    path = run / RECORD_FILE
    try:
        starts = list(read_json_object(path)["starts"])
    except (Owl2Error, KeyError, TypeError):
        starts = []
    manifest = data_manifest(config["data"]["datasets"], records)
    starts.append(
        {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv,
            "config_sha256": _hash(config),
            "data_sha256": _hash(manifest),
            "data": manifest,
            "devices": dict(devices),
            "versions": _versions(),
            "git": git_state(Path(__file__).parent),
        }
    )
    _write_json(path, {"starts": starts})


def data_manifest(
    datasets: Mapping[str, Mapping[str, Any]], records: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """{set: kind, options, records, and bytes of each file its options name}."""
    manifest = {}
    for name, dataset in datasets.items():
        values = [value for value in dataset["options"].values() if isinstance(value, str)]
        paths = [Path(value) for value in values if scheme_of(value) is None]
        files = {str(path): path.stat().st_size for path in paths if path.is_file()}
        manifest[name] = {
            "kind": dataset["kind"],
            "options": dict(dataset["options"]),
            "records": records.get(name),
            "files": files,
        }
    return manifest


def _hash(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    versions = {"owl2_jax": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def git_state(folder: Path) -> dict[str, Any] | None:
    """{"commit", "changed"} of the work tree that holds the code; None where it is in none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        tracked = git("ls-files", "--", str(Path(__file__).resolve()))
        if not tracked.strip():  # installed into an environment inside somebody's work tree
            return None
        return {
            "commit": git("rev-parse", "HEAD").strip(),
            "changed": bool(git("status", "--porcelain", "-uno")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _any_length(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without its length in steps or examples."""
    train = config.get("train", {})
    return {**config, "train": {key: value for key, value in train.items() if key not in LENGTH_FIELDS}}


def _fixed(config: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The config without `FREE_FIELDS`."""
    kept = {}
    for key, value in config.items():
        path = f"{where}.{key}" if where else key
        if path not in FREE_FIELDS:
            kept[key] = _fixed(value, path) if isinstance(value, Mapping) else value
    return kept


def _write(path: Path, content: bytes) -> None:
    """Replaces a file as a whole; one that holds this already keeps its time."""
    if not path.is_file() or read_bytes(path) != content:
        write_bytes(path, content)


def _write_json(path: Path, values: object) -> None:
    _write(path, (json.dumps(values, indent=2) + "\n").encode())
