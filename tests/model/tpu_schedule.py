"""Cycles of our attention kernels as the TPU compiler schedules them, beside what `owl2 fit` counts.

python -m tests.model.tpu_schedule v5e:1x1

A kernel's final program is a list of bundles, a cycle each but for what is waited for; loops say where they
begin. Needs the extra `fit`.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from owl2_jax.parallel.chips import Chip, compiler_environment, parse_topology

if TYPE_CHECKING:
    from owl2_jax.perf import hlo

LENGTH, HEADS, HEAD_DIM = 2048, 32, 128
PROMPTS, PAGE_SIZE = 4, 16
# Of the loops over four tiles, in their order; a loop of one iteration is none. Of four prompts, 40 tiles of
# keys in 16 visits, while 20 are room for prompts that begin anywhere.
TRIPS = {"flash_forward": (2, 3, 4), "flash_backward": (4, 3, 2), "prompt_attention": (2,)}
# A line of a dumped program: address, labels, a mark for every loop that it stands in, and the bundle.
_BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(?:(LB|LH|LE|PB|PF|CT):)?\s*:?\s*((?:>\s*)*)\{")


def cycles(program: str, trips: tuple[int, ...]) -> int:
    """Bundles that one step of the grid issues.

    Raises:
      ValueError: the program has other loops.
    """
    outside, bodies = 0, []
    for line in program.splitlines():
        found = _BUNDLE.match(line)
        if found is None:
            continue
        depth = found[2].count(">")
        if depth > 1 and found[1] == "LB":
            bodies.append(0)
        if depth > 1 and bodies:
            bodies[-1] += 1
        elif depth == 1:  # the loop over the grid
            outside += 1
    if len(bodies) != len(trips):
        raise ValueError(f"expected {len(trips)} loops, found {len(bodies)}")
    return outside + sum(body * count for body, count in zip(bodies, trips, strict=True))


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        return compare(sys.argv[1], Path(folder))


def compare(slice_: str, folder: Path) -> int:
    """Compiles the kernels for a chip of a slice and prints their times; programs go into a folder."""
    topology = parse_topology(slice_)
    flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_hlo_text=false"
    os.environ.update(compiler_environment(topology), LIBTPU_INIT_ARGS=flags)

    import jax
    import jax.numpy as jnp

    from owl2_jax.model import attention_kernels, prompt_attention
    from owl2_jax.model.pages import PagedBatch, Pages
    from owl2_jax.perf import hlo
    from owl2_jax.perf.tpu_compile import topology_devices

    sharding = jax.sharding.SingleDeviceSharding(topology_devices(topology)[0])
    array = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    integers = lambda *shape: array(shape, jnp.int32)
    x = array((1, LENGTH, HEADS * HEAD_DIM), jnp.bfloat16)
    angle, ids = array((1, LENGTH, HEAD_DIM), jnp.float32), integers(1, LENGTH)

    def both(q, k, v, gradient, angles, ids):
        run = lambda *parts: attention_kernels.flash_turning(*parts, angles, ids, HEAD_DIM)
        context, back = jax.vjp(run, q, k, v)
        return context, back(gradient)

    def prompts(q, angles, keys, batch):
        visited = prompt_attention.visits(batch, len(q))
        return prompt_attention.attend(q, angles, Pages(keys, None), batch, visited, jnp.int32(0), 1)

    tokens, places = PROMPTS * LENGTH, LENGTH // PAGE_SIZE
    batch = PagedBatch(
        integers(tokens), integers(tokens), integers(PROMPTS, places), integers(PROMPTS + 1),
        integers(PROMPTS), integers(1), integers(PROMPTS),
    )  # fmt: skip
    pages = array((PROMPTS * places, PAGE_SIZE, 2 * HEADS, HEAD_DIM), jnp.bfloat16)
    angles = (array((tokens, HEAD_DIM), jnp.float32),) * 2
    queries = array((tokens, HEADS * HEAD_DIM), jnp.bfloat16)
    programs = (both, (x, x, x, x, (angle, angle), ids)), (prompts, (queries, angles, pages, batch))
    for function, arguments in programs:
        text = jax.jit(function).lower(*arguments).compile().as_text()
        if not _compare(hlo.read_module(text), topology.chip, folder):
            return 1
    return 0


def _compare(module: hlo.Module, chip: Chip, folder: Path) -> bool:
    """Prints what the kernels of a module take; whether all of their programs are in the folder."""
    from owl2_jax.perf import kernels

    for computation in module.computations.values():
        for call in computation.values():
            name = next((name for name in TRIPS if name in call.name), None)
            if name is None or call.op != "custom-call":
                continue
            work = kernels.read_kernel(call, kernels.places(call, computation))
            dumps = list(folder.glob(f"*{name}*-final_bundles.txt"))
            if len(dumps) != 1:
                print(f"error: expected a program of {name}, found {len(dumps)}", file=sys.stderr)
                return False
            scheduled = cycles(dumps[0].read_text(), TRIPS[name]) * work.steps / chip.cores
            times = scheduled / chip.clock, work.seconds(chip), work.flops / chip.flops
            words = ("as scheduled", "as counted", "its products at the peak")
            said = (f"{time * 1e3:.3f} ms {word}" for time, word in zip(times, words, strict=True))
            print(f"{name}: {', '.join(said)}")
    return True


if __name__ == "__main__":
    sys.exit(main())
