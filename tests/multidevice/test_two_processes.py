"""Two real processes with four fake devices each are one computation over eight."""

from __future__ import annotations

import time

from tests.multidevice.processes import finish, start_processes

START = """
from owl2_jax.parallel import multihost
multihost.initialize(60)
import sys, jax, jax.numpy as jnp, numpy as np
from pathlib import Path
from owl2_jax.core.compilation_cache import keep_programs_in
from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel import placement
from owl2_jax.parallel.mesh import make_mesh
"""


def test_two_processes_make_one_mesh_and_one_batch(tmp_path):
    results = finish(
        start_processes(
            START
            + """
keep_programs_in(Path(sys.argv[1], "programs"), print)
mesh = make_mesh({"fsdp": 4, "tensor": 2})
index, count = placement.data_shard(mesh)
rows = np.arange(16, dtype=np.int32).reshape(8, 2)[index * 4 : index * 4 + 4]
placed = placement.place(rows, mesh)
images = placement.global_image_index(np.array([[0, -1], [3, 1]]), 4, mesh)
total = jax.jit(lambda x: (x * jnp.arange(8)[:, None]).sum())(placed)
# On every device: one that still looks for its peers when the process ends waits for minutes.
jax.block_until_ready(total)
found = [len(jax.devices()), jax.process_count(), index, count, *placed.shape, int(total), images.tolist()]
with open(f"{sys.argv[1]}/{jax.process_index()}", "w") as file:  # Gloo writes to stdout
    file.write(repr(found))
""",
            2,
            4,
            (str(tmp_path),),
        )
    )
    total = sum(row * (4 * row + 1) for row in range(8))
    for process, (code, _, err) in enumerate(results):
        assert code == 0, err
        first = 4 * process
        images = [[first, -1], [first + 3, first + 1]]
        assert (tmp_path / str(process)).read_text() == repr([8, 2, process, 2, 8, 2, total, images])
    kept = list((tmp_path / "programs").glob("jit__lambda-*.program"))
    assert len(kept) == 2, "each process finds its own at the next start"


def test_processes_that_disagree_all_say_so_within_a_minute():
    started = time.monotonic()
    results = finish(
        start_processes(
            START
            + """
multihost.agree("step", 7)
try:
    multihost.agree("config", {"train": {"seed": jax.process_index(), "steps": 10}})
except Owl2Error as error:
    print(error)
    sys.exit(2)
""",
            2,
            1,
        )
    )
    for code, out, err in results:
        assert code == 2, err
        assert "the 2 processes disagree about the config: train.seed 0 on process 0; 1 on process 1" in out
    assert time.monotonic() - started < 60


def test_process_that_never_answers_is_named():
    results = finish(
        start_processes(
            START
            + """
if jax.process_index() == 0:
    try:
        multihost.agree("step", 7, timeout_s=2)
    except Owl2Error as error:
        print(error)
    jax.distributed.shutdown()
else:
    import time; time.sleep(4)
    jax.distributed.shutdown()
""",
            2,
            1,
        )
    )
    assert results[0][1] == "process 1 did not say its step within 2 s; look at its log\n"
