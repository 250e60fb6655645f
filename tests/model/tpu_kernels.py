"""Compiles the attention kernels for a TPU that is not there, forward and backward, on a mesh.

python -m tests.model.tpu_kernels v5e:4x4

Needs the extra `fit`; `launch/test_tpu_compile.sh` brings it.
"""

from __future__ import annotations

import os
import sys
import time

from owl2_jax.parallel.chips import compiler_environment, parse_topology

# Kernel, tokens of a row, dtype, heads of queries and of keys, head_dim, and calls: forward and backward, or
# backward for the queries, and for keys and values.
CASES = (
    ("turning", 256, "bfloat16", 32, 32, 128, 2),
    ("turning", 2048, "bfloat16", 32, 32, 128, 2),
    ("turning", 2000, "bfloat16", 32, 8, 128, 2),
    ("turning", 4096, "bfloat16", 32, 32, 128, 2),
    ("turning", 2048, "bfloat16", 8, 8, 256, 2),
    ("turning", 2048, "float32", 32, 32, 128, 2),
    ("everywhere", 257, "bfloat16", 16, 16, 64, 2),
    ("everywhere", 577, "bfloat16", 16, 16, 64, 2),
    ("everywhere", 1025, "float32", 16, 16, 64, 2),
    ("splash", 8192, "bfloat16", 32, 32, 128, 3),
)


def compile_attention(
    topology: str, name: str, length: int, dtype: str, heads: int, kv_heads: int, width: int
) -> tuple[int, float]:
    """(kernels in the compiled program, seconds) of attention on a slice."""
    slice_ = parse_topology(topology)
    os.environ.update(compiler_environment(slice_))

    import jax
    import jax.numpy as jnp

    from owl2_jax.model import attention_kernels
    from owl2_jax.parallel import axis_rules
    from owl2_jax.parallel.mesh import BATCH_AXES, TENSOR, make_mesh
    from owl2_jax.perf.tpu_compile import topology_devices

    mesh = make_mesh({"fsdp": -1, "tensor": 2}, topology_devices(slice_))
    rows = slice_.count // 2

    def array(shape, dtype, *axes):
        sharding = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def run(q, k, v, angles, segments):
        if name == "splash":
            heads_apart = (x.reshape(*x.shape[:2], -1, width) for x in (q, k, v))
            return attention_kernels.splash(*heads_apart, segments)
        if name == "everywhere":
            return attention_kernels.flash_everywhere(q, k, v, width)
        return attention_kernels.flash_turning(q, k, v, angles, segments, width)

    def loss(*arguments):
        return jnp.sum(jnp.square(run(*arguments).astype(jnp.float32)))

    q, k = (array((rows, length, n * width), dtype, BATCH_AXES, None, TENSOR) for n in (heads, kv_heads))
    angle = array((rows, length, width), jnp.float32, BATCH_AXES)
    segments = array((rows, length), jnp.int32, BATCH_AXES)
    gradients = jax.jit(axis_rules.activate(mesh)(jax.grad(loss, argnums=(0, 1, 2))))
    start = time.perf_counter()
    text = gradients.lower(q, k, k, (angle, angle), segments).compile().as_text()
    return text.count('custom_call_target="tpu_custom_call"'), time.perf_counter() - start


def main() -> int:
    for topology in sys.argv[1:]:
        for *case, kernels in CASES:
            found, seconds = compile_attention(topology, *case)
            print(f"{topology}: {case}: {found} kernels, {seconds:.1f} s", flush=True)
            if found < kernels:
                print(f"error: expected at least {kernels} kernels", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
