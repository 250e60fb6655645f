"""Compiles the attention kernel for a TPU that is not there, forward and backward, on a mesh.

python -m tests.model.tpu_kernels v5e:4x4

Needs the extra `fit`; `launch/test_tpu_compile.sh` brings it.
"""

from __future__ import annotations

import os
import sys
import time

from owl2_jax.parallel.chips import compiler_environment, parse_topology

# Forward; backward for the queries, and for keys and values.
KERNELS = 3


def compile_attention(name: str, length: int = 2048, heads: int = 32, width: int = 128) -> tuple[int, float]:
    """(kernels in the compiled program, seconds) of the full model's attention on a slice."""
    topology = parse_topology(name)
    os.environ.update(compiler_environment(topology))

    import jax
    import jax.numpy as jnp

    from owl2_jax.model import attention_kernels
    from owl2_jax.parallel import axis_rules
    from owl2_jax.parallel.mesh import BATCH_AXES, TENSOR, make_mesh
    from owl2_jax.perf.tpu_compile import topology_devices

    mesh = make_mesh({"fsdp": -1, "tensor": 2}, topology_devices(topology))

    def array(shape, dtype, *axes):
        sharding = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    rows = topology.count // 2
    q = array((rows, length, heads, width), jnp.bfloat16, BATCH_AXES, None, TENSOR)
    segments = array((rows, length), jnp.int32, BATCH_AXES)

    def loss(q, k, v, segments):
        return jnp.sum(jnp.square(attention_kernels.splash(q, k, v, segments).astype(jnp.float32)))

    gradients = jax.jit(axis_rules.activate(mesh)(jax.grad(loss, argnums=(0, 1, 2))))
    start = time.perf_counter()
    text = gradients.lower(q, q, q, segments).compile().as_text()
    return text.count('custom_call_target="tpu_custom_call"'), time.perf_counter() - start


def main() -> int:
    for name in sys.argv[1:]:
        found, seconds = compile_attention(name)
        print(f"{name}: {found} attention_kernels, {seconds:.1f} s")
        if found < KERNELS:
            print(f"error: expected at least {KERNELS} kernels", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
