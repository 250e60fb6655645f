"""Runs a sweep on this machine, and goes on where it was stopped.

Each run is made of commands (`commands`), in processes of their own, one run
after the other; or several runs at a time, each of them in a process that does
run after run (`processes.Worker`). What is
finished is skipped, what was interrupted goes on from its last checkpoint, and
what failed is tried again, at once and the next time.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from owl2_jax.core.append_file import AppendFile
from owl2_jax.core.buckets import remove_if_there
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import write_json
from owl2_jax.core.locks import Lock
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.processes import usable_cores
from owl2_jax.core.text_files import read_bytes
from owl2_jax.sweeps.commands import Commands, commands_of
from owl2_jax.sweeps.folder import RunFolder, SweepFolder, read_json
from owl2_jax.sweeps.grid import Run, Sweep
from owl2_jax.sweeps.processes import Children, Runner, Worker, locked

Say = Callable[[str], None]
_MISTAKE: Final = 2  # exit code of what a second try cannot cure


@dataclass
class Outcome:
    """How a sweep ended.

    Attributes:
      finished: runs that are done, earlier ones included.
      failed: {run: what its last try said}.
      signal: what asked it to stop; None when nothing did.
    """

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    signal: int | None = None


def run_sweep(
    sweep: Sweep,
    folder: SweepFolder,
    runs: Sequence[Run],
    *,
    retries: int = 1,
    say: Say = print,
    jobs: int | None = None,
) -> Outcome:
    """Trains and evaluates `runs`.

    Args:
      folder: claimed for this sweep.
      retries: how often a run that failed is tried again before the next run.
      say: takes a line for every step.
      jobs: so many processes share the runs and the cores; None makes a process
        of each command, with all cores.

    Raises:
      Owl2Error: the checkpoint to start from is missing, or `owl2 fit` said
        that a run cannot fit.
    """
    plans = {run.name: commands_of(sweep, folder, run) for run in runs}
    for run in runs:
        check_fit_report(folder, run)
    outcome, left, turn = Outcome(), iter(enumerate(runs, 1)), threading.Lock()

    def work(runner: Runner) -> None:
        while runner.stopped is None:
            with turn:
                number, run = next(left, (0, None))
            if run is None:
                return
            tell: Say = lambda text, number=number, run=run: say(f"[{number}/{len(runs)}] {run.name}: {text}")
            one = _OneRun(sweep, folder, run, plans[run.name], runner, tell)
            error = one.finish(retries)
            if runner.stopped is not None:
                return
            with turn:
                if error is None:
                    outcome.finished.append(run.name)
                else:
                    outcome.failed[run.name] = error

    with Children(_environment(folder.path)) as children:
        if jobs is None:
            work(children)
        else:
            _work_beside(work, children, jobs)
    outcome.signal = children.stopped
    return outcome


def _work_beside(work: Callable[[Runner], None], children: Children, jobs: int) -> None:
    """`work` in so many threads, each with a process that lives as long as the thread."""
    threads = max(1, usable_cores() // jobs)

    def one() -> None:
        worker = Worker(children, threads)
        try:
            work(worker)
        finally:
            worker.close()

    with ThreadPoolExecutor(jobs) as pool:
        for ended in [pool.submit(one) for _ in range(jobs)]:
            ended.result()


def check_fit_report(folder: SweepFolder, run: Run) -> None:
    """Raises `Owl2Error` when `owl2 fit` found that a run's step needs more memory than a chip has."""
    report = read_json(folder.fit(run.point))
    if report is not None and not report["fits"]:
        needed, capacity = report["memory"]["needed"] / 2**30, report["memory"]["capacity"] / 2**30
        raise Owl2Error(
            f"point {run.point.name} cannot fit: owl2 fit says {needed:.2f} GiB per chip of "
            f"{report['topology']}, which has {capacity:.2f} GiB; change the point, or delete "
            f"{folder.fit(run.point)} after a change of topology"
        )


def _environment(workdir: Path) -> dict[str, str]:
    """Runs that differ in the seed alone compile once."""
    if in_bucket(workdir):  # where each kept program would be a request; they stay on this machine
        return dict(os.environ)
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str((workdir / "compiled").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return {**compiled, **os.environ}


class _OneRun:
    """One run, from its folder's state to done."""

    def __init__(
        self, sweep: Sweep, folder: SweepFolder, run: Run, commands: Commands, children: Runner, tell: Say
    ) -> None:
        self._config, self._workdir = sweep.run_config(run), folder.path
        self._files, self._commands = folder.run(run), commands
        self._children, self._tell = children, tell
        self._lacks = lambda: self._files.lacks(self._config, sweep.config.benchmarks)

    def finish(self, retries: int) -> str | None:
        """Does what is left of the run; returns why it failed, None when it did not (or was stopped)."""
        files, children = self._files, self._children
        waits = lambda: self._tell("another process is at this run; waiting for it")
        with locked(files.path / "lock", waits, lambda: children.stopped is not None) as lock:
            if lock is None or self._lacks() is None:
                return None
            for attempt in range(retries + 1):
                failure = self._try(lock)
                if failure is None or children.stopped is not None:
                    return None
                write_json(files.failed, failure)
                self._tell(f"FAILED: {failure['error']}")
                if failure["code"] == _MISTAKE or attempt == retries:
                    break
                self._tell("tries again")
            return str(failure["error"])

    def _try(self, lock: Lock) -> dict[str, Any] | None:
        """Runs the commands that are left; returns what failed."""
        files, commands, started = self._files, self._commands, time.perf_counter()
        if commands.resize is not None:
            failure = self._make_start(commands.resize)
            if failure is not None:
                return failure
        if not files.is_trained(self._config):
            self._tell("goes on training" if files.training.is_dir() else "trains")
            failure = self._call(commands.train, lock)
            if failure is None and not files.is_trained(self._config) and self._children.stopped is None:
                failure = _failure(files, "train", 0, "training ended before its last step")
            if failure is not None or self._children.stopped is not None:
                return failure
        if commands.evaluate is not None:
            self._tell("evaluates")
            failure = self._call(commands.evaluate, lock)
            if failure is not None or self._children.stopped is not None:
                return failure
        lacks = self._lacks()
        if lacks is not None:
            return _failure(files, "evaluate", 0, f"the run {lacks}")
        remove_if_there(files.failed)
        self._tell(f"done ({time.perf_counter() - started:.0f} s)")
        return None

    def _make_start(self, resize: list[str]) -> dict[str, Any] | None:
        """Makes the checkpoint to start from unless another run has made it."""
        assert self._commands.start is not None
        start, stopped = self._commands.start, lambda: self._children.stopped is not None
        with locked(start.parent / f"{start.name}.lock", lambda: None, stopped) as lock:
            if lock is None or start.is_dir():
                return None
            self._tell(f"makes {start}")
            return self._call(resize, lock)

    def _call(self, arguments: list[str], lock: Lock) -> dict[str, Any] | None:
        files = self._files
        with _log(files.log) as log:
            log.write(f"$ owl2 {' '.join(arguments)}\n")
            code = self._children.run(arguments, log.fileno(), lock)
        if code == 0 or self._children.stopped is not None:
            return None
        return _failure(files, arguments[0], code, _last_line(files.log))


@contextmanager
def _log(path: Path) -> Iterator[AppendFile]:
    """The log of a run, which a command can write to; in a bucket it grows when the command has ended."""
    if not in_bucket(path):
        with AppendFile(path) as log:
            yield log
        return
    with tempfile.TemporaryDirectory(prefix="owl2-") as folder:
        local = Path(folder, path.name)
        try:
            with AppendFile(local) as log:
                yield log
        finally:
            with AppendFile(path) as whole:
                whole.write(local.read_bytes())


def _failure(files: RunFolder, command: str, code: int, said: str) -> dict[str, Any]:
    ended = f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
    return {"command": command, "code": code, "error": f"owl2 {command} {ended} ({said}); see {files.log}"}


def _last_line(log: Path) -> str:
    lines = read_bytes(log).decode("utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
