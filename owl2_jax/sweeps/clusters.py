"""A sweep for a cluster: SLURM array jobs, or a JobSet per run, made from the scripts in launch/.

Training and evaluation are jobs of their own, as they need other machines.
Starting the same jobs again goes on where they were; `owl2 sweep --collect`
reads the folder that all of them share.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from owl2_jax.checkpoint.output_directory import new_directory
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import write_text
from owl2_jax.core.paths import in_bucket
from owl2_jax.sweeps.commands import Commands, commands_of
from owl2_jax.sweeps.folder import SweepFolder
from owl2_jax.sweeps.grid import Run, Sweep

_LAUNCH: Final = Path("launch")
_LONGEST_NAME: Final = 40  # a JobSet adds to the names of its pods, which may have 63 letters

_SUBMIT: Final = """\
#!/usr/bin/env bash
# Queues the whole sweep; run it in the folder that holds launch/ and configs/.
#
#   bash {output}/submit.sh [SBATCH OPTIONS OF THE TRAINING, as --nodes=2 --time=24:00:00]
#
# What all jobs need, as an account, comes through sbatch's variables (SBATCH_ACCOUNT).
set -euo pipefail
here=$(dirname "${{BASH_SOURCE[0]}}")
starts=$(sbatch --parsable "$here/starts.sbatch")
training=$(sbatch --parsable --dependency="afterok:$starts" "$@" "$here/train.sbatch")
sbatch --dependency="aftercorr:$training" "$here/evaluate.sbatch"
"""
_TRAIN: Final = """\
#!/usr/bin/env bash
{header}
#SBATCH --array=0-{last}
set -euo pipefail
cd "${{SLURM_SUBMIT_DIR:-.}}"
mapfile -t arguments <"{tasks}/$SLURM_ARRAY_TASK_ID.train"
# exec: the signal before the time limit reaches the script that saves and queues again.
exec bash launch/slurm.sbatch "${{arguments[@]}}"
"""
_EVALUATE: Final = """\
#!/usr/bin/env bash
#SBATCH --job-name=owl2-evaluate
#SBATCH --gpus=1
#SBATCH --requeue
#SBATCH --array=0-{last}
set -euo pipefail
cd "${{SLURM_SUBMIT_DIR:-.}}"
# shellcheck source=/dev/null
source "${{VENV:-.venv}}/bin/activate"
mapfile -t arguments <"{tasks}/$SLURM_ARRAY_TASK_ID.evaluate"
exec owl2 "${{arguments[@]}}"
"""
_ASKED: Final = (
    "import sys; from owl2_jax.core.buckets import exists; sys.exit(not exists(sys.argv[1] + '/model.json'))"
)
_STARTS: Final = """\
#!/usr/bin/env bash
# Copies of the checkpoint that all runs start from, in the sizes of the points.
set -euo pipefail
cd "${{SLURM_SUBMIT_DIR:-.}}"
# shellcheck source=/dev/null
[ ! -f "${{VENV:-.venv}}/bin/activate" ] || source "${{VENV:-.venv}}/bin/activate"
{commands}"""


def write_slurm(sweep: Sweep, folder: SweepFolder, output: Path) -> list[Path]:
    """Writes array jobs of one task per run, and `submit.sh`, which queues them in order.

        starts.sbatch       copies of the checkpoint that all start from
        train.sbatch        a task per run, through launch/slurm.sbatch
        evaluate.sbatch     a task per run, as soon as that run is trained
        tasks/<n>.train     arguments of task n, one a line; likewise .evaluate

    Args:
      output: must not exist yet.

    Returns:
      The scripts.

    Raises:
      Owl2Error: no launch/ here, or `output` exists.
    """
    launch = _read("slurm.sbatch")
    header = "\n".join(line for line in launch.splitlines() if line.startswith("#SBATCH"))
    plans = _plans(sweep, folder)
    values = {"last": len(plans) - 1, "tasks": (output.resolve() / "tasks").as_posix(), "output": output}
    files = {
        "submit.sh": _SUBMIT if sweep.config.benchmarks else _SUBMIT[: _SUBMIT.rindex("sbatch ")],
        "starts.sbatch": _STARTS,
        "train.sbatch": _TRAIN,
    }
    if sweep.config.benchmarks:
        files["evaluate.sbatch"] = _EVALUATE
    files = {
        name: text.format(header=header, commands=_starts(plans), **values) for name, text in files.items()
    }
    scripts = list(files)
    for number, (_, commands) in enumerate(plans):
        files[f"tasks/{number}.train"] = _lines(commands.train[1:])  # launch/slurm.sbatch says `owl2 train`
        if commands.evaluate is not None:
            files[f"tasks/{number}.evaluate"] = _lines(commands.evaluate)
    return _write(output, files, scripts)


def write_jobsets(sweep: Sweep, folder: SweepFolder, output: Path) -> list[Path]:
    """Writes `<run>.train.yaml` and `<run>.evaluate.yaml` from launch/gke_jobset.yaml, and `starts.sh`.

    IMAGE stays a variable, as it is in launch/. Raises as `write_slurm` does.
    """
    template = _read("gke_jobset.yaml")
    plans = _plans(sweep, folder)
    files = {"starts.sh": _STARTS.format(commands=_starts(plans))}
    for number, (run, commands) in enumerate(plans):
        for arguments in filter(None, (commands.train, commands.evaluate)):
            name = f"{_job_name(sweep, run, number)}-{arguments[0]}"
            files[f"{run.name.replace('/', '_')}.{arguments[0]}.yaml"] = _jobset(template, name, arguments)
    return _write(output, files, list(files))


def _jobset(template: str, name: str, arguments: Sequence[str]) -> str:
    """The JobSet of launch/ under another name, with another command."""
    command = f"command: {json.dumps(['owl2', *arguments])}"
    lines = [
        re.sub(r"command: .*", lambda _: command, line).replace("name: owl2-train", f"name: {name}")
        for line in template.splitlines()
        if not line.startswith("#")
    ]
    use = [
        "# One run of a sweep. IMAGE is that of launch/gke_jobset.yaml.",
        "#",
        "#   envsubst '$IMAGE' <FILE | kubectl apply --filename=-",
    ]
    return "\n".join([*use, *lines]) + "\n"


def _job_name(sweep: Sweep, run: Run, number: int) -> str:
    """Letters, digits and dashes, short, and unlike any other run's."""
    text = re.sub(r"[^a-z0-9]+", "-", f"{sweep.name} {run.name}".lower()).strip("-")
    return f"{text[: _LONGEST_NAME - 4].rstrip('-')}-{number}"


def _plans(sweep: Sweep, folder: SweepFolder) -> list[tuple[Run, Commands]]:
    return [(run, commands_of(sweep, folder, run)) for run in sweep.runs]


def _starts(plans: Sequence[tuple[Run, Commands]]) -> str:
    """Makes each resized checkpoint that is not there."""
    found = {commands.start: commands.resize for _, commands in plans if commands.resize is not None}
    lines = [f"{_is_there(start)} || owl2 {shlex.join(resize)}\n" for start, resize in found.items()]
    return "".join(lines) or "echo 'no copy is needed'\n"


def _is_there(start: Path | None) -> str:
    """The shell's question whether a checkpoint was made."""
    place = shlex.quote(str(start))
    if start is None or not in_bucket(start):
        return f"[ -d {place} ]"
    return f"python -c {shlex.quote(_ASKED)} {place}"


def _lines(arguments: Sequence[str]) -> str:
    return "".join(f"{argument}\n" for argument in arguments)


def _read(name: str) -> str:
    path = _LAUNCH / name
    if not path.is_file():
        raise Owl2Error(f"{path} is not here; run this in the folder that holds launch/ and configs/")
    return path.read_text(encoding="utf-8")


def _write(output: Path, files: dict[str, str], shown: Sequence[str]) -> list[Path]:
    with new_directory(output) as folder:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
    return [output / name for name in shown]
