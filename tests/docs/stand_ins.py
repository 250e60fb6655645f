"""Programs that stand in for machines, clusters, stores and installers: each notes its words and succeeds.

So every line of a page that is no `owl2` command runs in a real shell, with the real launch
scripts, and what these would have started is compared with what it would take.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tests.docs.blocks import EXTRA, ROOT

NAMES = (
    "owl2", "gcloud", "kubectl", "docker", "sbatch", "srun", "tensorboard", "envsubst", "pip", "python",
    "python3", "pytest", "ruff", "lint-imports", "mkdocs", "chromium", "nvidia-smi",
)  # fmt: skip
# `python -m venv FOLDER` leaves a folder that can be entered; envsubst passes on what it reads.
PROGRAM = """\
#!/usr/bin/env bash
printf '%s\\0' "${0##*/}" "$@" >"$NOTES/$EPOCHREALTIME-$$"
case "${0##*/} $1 $2" in
  "python3 -m venv") mkdir -p "$3/bin"; ln -sf "$0" "$3/bin/python"; : >"$3/bin/activate" ;;
  envsubst*) cat ;;
  kubectl*) case " $* " in *" --filename=- "*) cat >/dev/null ;; esac ;;
  sbatch*) echo 1 ;;
esac
"""
# What reads its arguments by argparse, before anything else.
PARSING = ("tests.end_to_end.kill_run", "owl2_jax.data_tools.reference.scenes", "launch/load_test.py")
Words = list[str]
Refusal = Callable[[Words], str | None]


@dataclass
class Shell:
    """A shell in a folder, in whose path the stand-ins come first.

    Attributes:
      folder: where it runs.
      notes: a file per call of a stand-in.
      exported: lines of the page that set variables for those after them.
    """

    folder: Path
    notes: Path
    exported: list[str]

    def run(self, line: str) -> list[Words]:
        """Runs a line; returns the words of every program that stood in, in their order."""
        before = set(self.notes.iterdir())
        if line.startswith(("export ", "source ")):
            self.exported.append(line)
        script = "\n".join(["set -euo pipefail", *self.exported, line])
        path = f"{self.notes.parent / 'bin'}:{os.environ['PATH']}"
        environment = {
            **os.environ,
            "PATH": path,
            "NOTES": str(self.notes),
            "IMAGE": "image",
            "RESTARTS": "0",
        }
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        made = sorted(set(self.notes.iterdir()) - before)
        return [note.read_text(encoding="utf-8").split("\0")[:-1] for note in made]


def shell_in(folder: Path, apart: Path) -> Shell:
    """A shell in `folder`; stand-ins and notes lie in `apart`."""
    (apart / "bin").mkdir()
    (apart / "notes").mkdir()
    for name in NAMES:
        program = apart / "bin" / name
        program.write_text(PROGRAM)
        program.chmod(0o755)
    return Shell(folder, apart / "notes", [])


def why_refused(words: Words, refusal: Refusal) -> str | None:
    """Why a program would not take its words; None if it would, or if nothing is known of it.

    Args:
      words: its name and arguments.
      refusal: the same for the words after `owl2`.
    """
    name, *rest = words
    if name == "owl2":
        return refusal(rest)
    if name == "gcloud":  # what it is to run on the machines
        started = re.findall(r"\bowl2 (train .*?)>>", " ".join(rest))
        return next(filter(None, (refusal(shlex.split(line)) for line in started)), None)
    if name in ("sbatch", "srun"):
        script = [number for number, word in enumerate(rest) if word.endswith("slurm.sbatch")]
        return refusal(["train", *rest[script[0] + 1 :]]) if script else None
    if name == "pip":
        extras = set(re.findall(r"[\w]+", " ".join(re.findall(r"(?:owl2_jax|\.)\[(.*?)\]", " ".join(rest)))))
        unknown = extras - set(EXTRA.findall((ROOT / "setup.py").read_text(encoding="utf-8")))
        return f"there are no extras {sorted(unknown)}" if unknown else None
    if name == "pytest":
        paths = [word for word in rest if word.startswith("tests/")]
        return next((f"there is no {path}" for path in paths if not (ROOT / path).exists()), None)
    return _of_python(rest) if name in ("python", "python3") else None


class _Parsed(Exception):
    """Raised where a program has read its arguments."""


def _of_python(words: Words) -> str | None:
    """Why `python WORDS` would not take its arguments; those of `PARSING` read them."""
    is_module = words[0] == "-m"
    name, arguments = (words[1], words[2:]) if is_module else (words[0], words[1:])
    if name not in PARSING:
        there = importlib.util.find_spec(name) if is_module else (ROOT / name).is_file()
        return None if there else f"there is no {name}"
    start = runpy.run_module if is_module else runpy.run_path
    errors = io.StringIO()
    with _stopped_after_parsing(), mock.patch.object(sys, "argv", [name, *arguments]):
        try:
            with contextlib.redirect_stderr(errors):
                start(name if is_module else str(ROOT / name), run_name="__main__")
        except _Parsed:
            return None
        except SystemExit:
            return errors.getvalue()
    return f"{name} ended without reading its arguments"


@contextlib.contextmanager
def _stopped_after_parsing() -> Iterator[None]:
    parse = argparse.ArgumentParser.parse_args

    def parse_args(self, *arguments, **options):
        parse(self, *arguments, **options)
        raise _Parsed

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args):
        yield
