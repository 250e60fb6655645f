"""A profiler trace of chosen steps."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final

import jax

from owl2_jax.core.buckets import AwayError, upload_folder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.paths import in_bucket
from owl2_jax.training.step_window import StepMetrics

PROFILE_DIR: Final = "profile"


class Profile:
    """Traces from the first to the last of `steps` into `profile/` of the run, for TensorBoard or xprof.

    Args:
      steps: (first, last), or None for no trace.
    """

    def __init__(self, run: Path, steps: tuple[int, int] | None) -> None:
        self._directory, self._steps = run / PROFILE_DIR, steps
        self._local: Path | None = None  # while a trace of a run in a bucket is under way
        self._running = False

    def __enter__(self) -> Profile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running:
            with contextlib.suppress(Owl2Error) if error else contextlib.nullcontext():
                self._stop()

    def before(self, step: int) -> None:
        """Starts the trace in front of its first step, or of the first one that is left of it."""
        if self._steps is not None and not self._running and self._steps[0] <= step <= self._steps[1]:
            if in_bucket(self._directory):  # the profiler writes to disks alone
                self._local = Path(tempfile.mkdtemp(prefix="owl2-"))
            self._running = True
            jax.profiler.start_trace(str(self._local or self._directory))

    def after(self, step: int, metrics: StepMetrics) -> None:
        """Ends the trace when the device is done with its last step."""
        if self._running and self._steps is not None and step >= self._steps[1]:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        """Writes the trace. Raises `Owl2Error` when the disk is full, or a bucket's store refuses it."""
        self._running = False
        local, self._local = self._local, None
        kept = False
        try:
            jax.profiler.stop_trace()
            if local is not None:
                upload_folder(local, self._directory)
        except AwayError as error:
            kept = True
            print(f"warning: the profile stays in {local}: {error}", file=sys.stderr, flush=True)
        except RuntimeError as error:
            raise Owl2Error(
                f"the profile could not be written in {local or self._directory}: {error}; make room there, "
                "or leave train.profile_steps out, then the same command goes on"
            ) from error
        finally:
            if local is not None and not kept:
                shutil.rmtree(local, ignore_errors=True)
