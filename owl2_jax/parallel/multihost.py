"""Several processes as one computation: start, agreement, and an end to hangs.

A host is one process. Every wait has a limit, and what goes wrong is said on
every host: a host that is alone, hosts with different settings, a step that
never returns.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

import jax
import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import Json
from owl2_jax.core.tree import flatten
from owl2_jax.parallel.cluster import Cluster, detect

# Exit code of a process that waited in vain; unlike a mistake of the user, a restart may cure it.
EXIT_HANG: Final = 3

# A process that has been silent for so long counts as dead, and ends the others.
_HEARTBEAT_S: Final = 30

_agreements = itertools.count()


def initialize(timeout_s: float = 60, environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Joins the other processes; call it before anything touches a device.

    Does nothing for a single process. Ends the process with a message and exit
    code 3 when the others are not there after `timeout_s` seconds: the library
    underneath would wait longer and then abort with a stack trace.

    Raises:
      Owl2Error: see `cluster.detect`, and a computation that is already running.
    """
    cluster = detect(environment)
    if cluster is None or jax.distributed.is_initialized():
        return cluster
    if "cpu" in environment.get("JAX_PLATFORMS", ""):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    where = "the TPU's other workers" if cluster.source == "tpu" else f"coordinator {cluster.coordinator}"
    me = "" if cluster.process is None else f"process {cluster.process} of {cluster.processes}: "
    failure = (
        f"{me}not all processes met at {where} within {timeout_s:g} s; check that every process "
        "was started and can reach that address"
    )
    with watch(failure, timeout_s, traces=False):
        try:
            jax.distributed.initialize(
                coordinator_address=cluster.coordinator,
                num_processes=cluster.processes,
                process_id=cluster.process,
                local_device_ids=cluster.local_devices,
                cluster_detection_method=None if cluster.source == "tpu" else "deactivate",
                initialization_timeout=int(timeout_s) + 60,
                heartbeat_timeout_seconds=_HEARTBEAT_S,
            )
        except (RuntimeError, ValueError) as error:
            raise Owl2Error(f"{me}cannot join {where}: {error}") from None
    return cluster


def all_gather(values: Json) -> list[Json]:
    """The `values` (JSON types) of every process, in their order; all processes must call it.

    Over the devices, so of any size; `agree` compares small values before devices are touched.
    """
    if jax.process_count() == 1:
        return [values]
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(values).encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.asarray(len(text)))).reshape(-1)
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def any_trouble(trouble: str) -> str:
    """What went wrong on any process, told alike on every one; "" where nothing did. All must call it.

    What one does about its own trouble alone, the others would wait for.

    Args:
      trouble: what went wrong on this process; "" for nothing.
    """
    told = all_gather(trouble)
    if len(set(told)) == 1:
        return trouble
    return _joined(told)


def _joined(told: list[Any]) -> str:
    """One line of what each process told; "" where none told anything."""
    return "; ".join(f"host {n}: {text}" if n else text for n, text in enumerate(told) if text)


def agree(what: str, values: Json, timeout_s: float = 60) -> None:
    """Checks that all processes hold the same values; every process must call it, in the same order.

    Args:
      what: what the values are, for the message.
      values: a nested dict of JSON types, or one such value.

    Raises:
      Owl2Error: on every process, with the fields that differ and who has what;
        also when a process does not answer within `timeout_s` seconds.
    """
    if jax.process_count() == 1:
        return
    client = _client()
    key = f"owl2/agree/{next(_agreements)}/{what}"
    client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(values, sort_keys=True))
    everyone = []
    for process in range(jax.process_count()):
        try:
            everyone.append(
                json.loads(client.blocking_key_value_get(f"{key}/{process}", int(timeout_s * 1000)))
            )
        except jax.errors.JaxRuntimeError:
            raise Owl2Error(
                f"process {process} did not say its {what} within {timeout_s:g} s; look at its log"
            ) from None
    lines = disagreements(everyone)
    if lines:
        # Together, so that the end of one does not cut off the message of another.
        jax.distributed.shutdown()
        raise Owl2Error(
            f"the {len(everyone)} processes disagree about the {what}: {'; '.join(lines)}. "
            "Start all of them with the same command, code and files"
        )


def by_first(what: str, action: Callable[[], object], timeout_s: float = 180) -> None:
    """Process 0 does something for all; every process must call it, in the same order.

    Args:
      what: what is done, for the message.

    Raises:
      Owl2Error: on every process, what `action` raised on process 0; also when
        that does not answer within `timeout_s` seconds.
    """
    if jax.process_count() == 1:
        action()
        return
    client, key = _client(), f"owl2/first/{next(_agreements)}"  # `what` may differ by process
    if jax.process_index() == 0:
        said = "another error; look at the log of process 0"
        try:
            action()
            said = ""
        except Owl2Error as error:
            said = str(error)
            raise
        finally:
            client.key_value_set(key, json.dumps(said))
            if said:
                jax.distributed.shutdown()  # together, so that no end cuts off the message of another
        return
    try:
        said = json.loads(client.blocking_key_value_get(key, int(timeout_s * 1000)))
    except jax.errors.JaxRuntimeError:
        raise Owl2Error(f"process 0 did not say its {what} within {timeout_s:g} s; look at its log") from None
    if said:
        jax.distributed.shutdown()
        raise Owl2Error(said)


def together(
    action: Callable[[], object], look: Callable[[], object] = lambda: None, look_every_s: float = 0.5
) -> None:
    """Runs on every process what waits for the others, and returns once it is done on all.

    All must call it. Where it fails on one, the others are told at once, and what they
    wait for goes on in a thread of theirs.

    Args:
      look: raises what made `action` fail, where that would tell it later only.

    Raises:
      Owl2Error: what either raised on any process, told alike on every one.
    """
    if jax.process_count() == 1:
        action()
        return
    client, key, pause = _client(), f"owl2/together/{next(_agreements)}", 0.01
    failed: list[Exception] = []

    def tell(action: Callable[[], object]) -> str:
        try:
            action()
        except Exception as error:
            failed.append(error)
            return str(error) or type(error).__name__
        return ""

    def say(text: str) -> None:
        client.key_value_set(f"{key}/{jax.process_index()}", json.dumps(text), True)

    def run() -> None:
        text = tell(action)
        with suppress(jax.errors.JaxRuntimeError):  # all have parted since
            say(text)

    threading.Thread(target=run, name="owl2-together", daemon=True).start()
    while True:
        own = tell(look)
        if own:
            say(own)
        found = client.key_value_dir_get(key)
        said = {int(name.rpartition("/")[2]): json.loads(text) for name, text in found}
        trouble = _joined([said.get(process, "") for process in range(jax.process_count())])
        if trouble:
            raise Owl2Error(trouble) from (failed[0] if failed else None)
        if len(said) == jax.process_count():
            return
        time.sleep(pause)
        pause = min(2 * pause, look_every_s)


def disagreements(everyone: list[Json], most: int = 5) -> list[str]:
    """One line per field in which the values of the processes differ: "seed is 0 on 0, 1 and 1 on 2"."""
    fields = [flatten({"": values}) for values in everyone]
    lines = []
    for name in sorted({name for values in fields for name in values}):
        holders: dict[str, list[str]] = {}
        for process, values in enumerate(fields):
            shown = json.dumps(values[name]) if name in values else "absent"
            holders.setdefault(shown, []).append(str(process))
        if len(holders) > 1:
            said = "; ".join(f"{shown} on process {', '.join(who)}" for shown, who in holders.items())
            lines.append(f"{name.strip('/').replace('/', '.')} {said}".strip())
    return lines[:most] + ([f"and {len(lines) - most} more"] if len(lines) > most else [])


def _client() -> Any:
    # JAX has no public door to the store that its coordinator keeps for all processes.
    from jax._src import distributed

    return distributed.global_state.client


def exit_hung(message: str, traces: bool = True) -> NoReturn:
    """Prints the message, then where every thread stands, and ends the process with `EXIT_HANG`."""
    print(message, file=sys.__stderr__, flush=True)
    if traces:
        faulthandler.dump_traceback(file=sys.__stderr__)
    os._exit(EXIT_HANG)


class Alive:
    """Handed out by `watch`: says that things go on."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._done = False

    def feed(self) -> None:
        """Starts the time limit again."""
        self._event.set()

    def _stop(self) -> None:
        self._done = True
        self._event.set()

    def _run_out(self, limit_s: float) -> bool:
        while self._event.wait(limit_s):
            if self._done:
                return False
            self._event.clear()
        return True


@contextmanager
def watch(failure: str, limit_s: float, traces: bool = True) -> Iterator[Alive]:
    """Ends the process when the block is neither left nor fed for `limit_s` seconds.

    A collective that waits for a lost host cannot be interrupted from Python,
    so the process exits at once, after saying so on stderr.

    Args:
      failure: the message.
      traces: print where every thread stands, too.
    """
    alive = Alive()

    def guard() -> None:
        if alive._run_out(limit_s):
            exit_hung(f"error: {failure}", traces)

    thread = threading.Thread(target=guard, name="owl2-watch", daemon=True)
    thread.start()
    try:
        yield alive
    finally:
        alive._stop()
