"""Compiles the attention kernels for a TPU that is not there, forward and backward, on a mesh.

python -m tests.model.tpu_kernels v5e:4x4

Needs the extra `fit`; `launch/test_tpu_compile.sh` brings it.
"""

from __future__ import annotations

import os
import sys
import time

from owl2_jax.parallel.chips import compiler_environment, parse_topology

# Kernel, tokens of a row, dtype, and calls: forward and backward, or backward for the queries, and for keys
# and values.
CASES = (
    ("flash", 256, "bfloat16", 2),
    ("flash", 2000, "bfloat16", 2),
    ("flash", 4096, "bfloat16", 2),
    ("flash", 2048, "float32", 2),
    ("flash_everywhere", 257, "bfloat16", 2),
    ("flash_everywhere", 1025, "float32", 2),
    ("splash", 8192, "bfloat16", 3),
)


def compile_attention(topology: str, name: str, length: int, dtype: str) -> tuple[int, float]:
    """(kernels in the compiled program, seconds) of the full model's attention on a slice."""
    slice_ = parse_topology(topology)
    os.environ.update(compiler_environment(slice_))

    import jax
    import jax.numpy as jnp

    from owl2_jax.model import attention_kernels
    from owl2_jax.parallel import axis_rules
    from owl2_jax.parallel.mesh import BATCH_AXES, TENSOR, make_mesh
    from owl2_jax.perf.tpu_compile import topology_devices

    mesh = make_mesh({"fsdp": -1, "tensor": 2}, topology_devices(slice_))

    def array(shape, dtype, *axes):
        sharding = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    sees_all = name == "flash_everywhere"
    heads, width = (16, 64) if sees_all else (32, 128)
    kernel = getattr(attention_kernels, name)
    rows = slice_.count // 2
    if sees_all:
        q = array((rows, length, heads * width), dtype, BATCH_AXES, None, TENSOR)
        run = lambda q, k, v, segments: kernel(q, k, v, width)
    else:
        q, run = array((rows, length, heads, width), dtype, BATCH_AXES, None, TENSOR), kernel
    segments = array((rows, length), jnp.int32, BATCH_AXES)

    def loss(q, k, v, segments):
        return jnp.sum(jnp.square(run(q, k, v, segments).astype(jnp.float32)))

    gradients = jax.jit(axis_rules.activate(mesh)(jax.grad(loss, argnums=(0, 1, 2))))
    start = time.perf_counter()
    text = gradients.lower(q, q, q, segments).compile().as_text()
    return text.count('custom_call_target="tpu_custom_call"'), time.perf_counter() - start


def main() -> int:
    for topology in sys.argv[1:]:
        for name, length, dtype, kernels in CASES:
            found, seconds = compile_attention(topology, name, length, dtype)
            print(f"{topology}: {name} of {length} in {dtype}: {found} kernels, {seconds:.1f} s", flush=True)
            if found < kernels:
                print(f"error: expected at least {kernels} kernels", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
