"""The matrix products of a training step in JAX and in PyTorch, in GFLOP/s of one thread's CPU time.

    python -m tests.parity.torch_products [--calls 40] [--rows 1028]

A layer's `x @ w` and the gradients of both, at the widths of the preset `owl2_bench`, in float32. For
other instructions than the processor's newest: `XLA_FLAGS=--xla_cpu_max_isa=AVX2` for JAX, and
`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2` for PyTorch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import torch

from owl2_jax.model.presets import preset

WIDTHS = (("width", "width"), ("width", "mlp_dim"), ("mlp_dim", "width"), ("width", "vocab_size"))


def products(rows: int, inner: int, outer: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{product: its two factors}, float32, of x [rows, inner] @ w [inner, outer] and its gradients."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    x, w, g = draw(rows, inner), draw(inner, outer), draw(rows, outer)
    return {"x @ w": (x, w), "g @ w.T": (g, w.T), "x.T @ g": (x.T, g)}


def in_jax(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    """A call that ends when the compiled product is there."""
    product = jax.jit(jax.numpy.matmul).lower(a, b).compile()
    left, right = jax.device_put(a), jax.device_put(b)
    return lambda: product(left, right).block_until_ready()


def in_torch(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    """The same of PyTorch; a transposed factor is a view, as in its backward pass."""
    left, right = torch.from_numpy(a), torch.from_numpy(b)
    return lambda: left @ right


def speed(call: Callable[[], object], flops: float, calls: int) -> float:
    """GFLOP/s of the median call, by the CPU time of the process: other work on the core does not count."""
    call()
    seconds = []
    for _ in range(calls):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return flops / statistics.median(seconds) / 1e9


def main(arguments: list[str] | None = None) -> int:
    """Prints a line per product; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.torch_products")
    parser.add_argument("--calls", type=int, default=40, help="timed calls (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1028, help="rows of x (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.calls < 1:
        parser.error(f"--calls {options.calls}: at least one call is timed")
    torch.set_num_threads(1)
    decoder = preset("owl2_bench").decoder
    for first, second in WIDTHS:
        inner, outer = getattr(decoder, first), getattr(decoder, second)
        flops = 2.0 * options.rows * inner * outer
        for name, factors in products(options.rows, inner, outer).items():
            found = [speed(make(*factors), flops, options.calls) for make in (in_jax, in_torch)]
            print(f"{inner} to {outer}  {name:8}  JAX {found[0]:.0f}  PyTorch {found[1]:.0f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
