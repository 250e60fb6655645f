"""What fails in one host's save ends all hosts, with the same line and at once."""

from __future__ import annotations

import pytest

from tests.multidevice.processes import finish, start_processes

# The second process fails; the first waits for it in Orbax's own thread, which has a limit of minutes.
SAVES = """
import dataclasses, os, sys
from pathlib import Path
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint._src.checkpointers import async_checkpointer
from owl2_jax.checkpoint.run_checkpoints import Checkpoints
from owl2_jax.cli.signals import end
from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel import multihost

wait = async_checkpointer._background_wait_for_commit_futures
def wait_or_fail(directory, *rest, **options):
    if jax.process_index() == 1:
        raise OSError("the disk of this host is gone")
    return wait(directory, *rest, **options)
async_checkpointer._background_wait_for_commit_futures = wait_or_fail

@dataclasses.dataclass
class State:
    step: jax.Array
    params: dict

multihost.initialize()
both = NamedSharding(Mesh(np.asarray(jax.devices()), ("x",)), PartitionSpec("x"))
parts = jax.make_array_from_callback((2,), both, lambda place: np.arange(2.0, dtype=np.float32)[place])
state = State(np.int32(1), {"a": parts})
try:
    with Checkpoints(Path(sys.argv[1]), 1, may_fail=1) as checkpoints:
        saves = int(sys.argv[2])
        for step in range(saves):
            checkpoints.save(dataclasses.replace(state, step=np.int32(step)), {}, last=step + 1 == saves)
except Owl2Error as error:
    print(f"error: {error}", file=sys.stderr)
    end(2)
"""


@pytest.mark.parametrize("saves", ["1", "2"])
def test_a_save_that_fails_on_one_host_ends_all_of_them_alike(tmp_path, saves):
    """The last one, and one before it, which no `may_fail` excuses among several hosts."""
    for code, _, errors in finish(start_processes(SAVES, 2, 1, (str(tmp_path), saves)), timeout_s=90):
        assert code == 2, errors
        (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: host 1: a checkpoint could not be saved in {tmp_path}")
        assert "the disk of this host is gone. Whole ones: none" in line
        assert "Traceback" not in errors


TOGETHER = """
import threading, jax
from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel import multihost

multihost.initialize()
done = []
multihost.together(lambda: done.append(1))
def action():
    if jax.process_index() == 0:
        raise Owl2Error("no room")
    threading.Event().wait(600)
try:
    multihost.together(action)
except Owl2Error as error:
    print("told:", done, error)
jax.distributed.shutdown()
"""


def test_what_is_done_together_ends_on_all_processes_when_it_fails_on_one():
    for code, output, errors in finish(start_processes(TOGETHER, 2, 1), timeout_s=90):
        assert code == 0, errors
        assert "told: [1] no room" in output
