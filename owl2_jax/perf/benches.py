"""What `owl2 bench` runs, and the figures it reports."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp

from owl2_jax.config import RunConfig
from owl2_jax.core import platforms
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import PyTree
from owl2_jax.model import attention_kernels
from owl2_jax.parallel.mesh import DATA, make_mesh
from owl2_jax.perf import timing
from owl2_jax.perf.run_config import load as load_run
from owl2_jax.perf.serving_workloads import DECODE_WIDTH
from owl2_jax.perf.workload import Shape
from owl2_jax.perf.workloads import build

# The shape that the middle-sized preset is compared at: 4 rows, one image and 192 tokens of text each;
# decoding answers one prompt of that length.
_BENCH_ROWS: Final = {"train": 4, "prefill": 4, "decode": 1, "attention": 4}
_BENCH_LENGTH: Final = 257


def load(
    what: str,
    config: str | None,
    preset: str | None,
    rows: int | None,
    length: int | None,
    overrides: Sequence[str],
) -> RunConfig:
    """The configuration of a file or preset; without both, the bench preset at its shape.

    The image of a row of the bench preset gets no logits, as its positions are no targets: `data.max_targets`
    is the rest of the row where it is not given.
    """
    if config is not None or preset not in (None, "owl2_bench"):
        return load_run(config, None if config else preset, rows, length, overrides)
    count = _BENCH_ROWS[what]
    defaults = [f"data.rows={count}", f"data.shards={count}", f"data.images={count}"]
    defaults += [f"data.row_length={_BENCH_LENGTH}", "train.loss_chunk=0"]
    loaded = load_run(None, "owl2_bench", rows, length, [*defaults, *overrides])
    data, given = loaded.data, {word.partition("=")[0].strip() for word in overrides}
    if data.max_targets or "data.max_targets" in given or data.images_per_row != 1:
        return loaded
    text = data.row_length - loaded.model.tokens_per_image
    return dataclasses.replace(loaded, data=dataclasses.replace(data, max_targets=text))


def time_workload(
    what: str, config: RunConfig, mesh: str | None, calls: int, trace: str | None
) -> dict[str, Any]:
    """Times one workload on all devices.

    Raises:
      Owl2Error: sizes that do not divide over the devices.
    """
    spec: str | Mapping[str, int] = {DATA: -1} if mesh is None else mesh
    model, data = config.model, config.data
    shape = Shape(data.rows, data.row_length, data.images, data.images_per_row, data.max_targets, data.shards)
    if what != "train":
        model = model.replace(param_dtype=model.dtype, remat="none")
    if what == "decode":
        shape = Shape(data.rows, _cache_length(data.row_length, model.decoder.max_length), 0, 0)
    workload = build(what, model, config.train, shape, make_mesh(spec))
    found = timing.measure(workload, calls, trace=trace)
    low, high = found.spread()
    return {
        "what": what,
        "rows": shape.rows,
        "length": shape.length,
        "images": shape.images,
        "dtype": model.dtype,
        "remat": model.remat,
        "compile_seconds": found.compile_seconds,
        "seconds_per_token" if what == "decode" else "seconds_per_step": found.median,
        "seconds_10th_percentile": low,
        "seconds_90th_percentile": high,
        "tokens_per_second": found.tokens_per_second,
        "model_tflops_per_second": found.flops_per_second / 1e12,
        "mfu": found.mfu,
        "share_of_bandwidth_bound": found.bandwidth_share,
        "peak_memory_gb": found.peak_bytes / 1e9,
    }


def _cache_length(prompt: int, longest: int) -> int:
    """Room for the prompt and the timed tokens."""
    needed = prompt + DECODE_WIDTH
    if needed > longest:
        raise Owl2Error(
            f"a prompt of {prompt} and {DECODE_WIDTH} timed tokens are {needed}, more than "
            f"decoder.max_length {longest}; shorten --length"
        )
    return needed


def time_attention(config: RunConfig, calls: int) -> dict[str, Any]:
    """Times every attention kernel that runs here, and compares it with the written-out product."""
    decoder, data = config.model.decoder, config.data
    width, dtype = decoder.head_dim, config.model.dtype
    counts = (decoder.num_heads, decoder.num_kv_heads, decoder.num_kv_heads)
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (data.rows, data.row_length, count, width), dtype)
        for key, count in zip(keys, counts, strict=True)
    )
    segments = jnp.ones((data.rows, data.row_length), jnp.int32)
    names = attention_kernels.fitting(platforms.current_platform(), data.row_length, dtype, width)
    exact = _forward_and_gradients(attention_kernels.xla)(
        *(x.astype(jnp.float32) for x in (q, k, v)), segments
    )
    rows = []
    for name in names:
        kernel = attention_kernels.kernel(name, config.model.splash_block)
        run = _forward_and_gradients(kernel)
        error = max(
            float(jnp.max(jnp.abs(got.astype(jnp.float32) - want)) / jnp.max(jnp.abs(want)))
            for got, want in zip(run(q, k, v, segments), exact, strict=True)
        )
        forward = jax.jit(kernel)
        rows.append(
            {
                "kernel": name,
                "forward_seconds": _seconds(forward, (q, k, v, segments), calls),
                "forward_backward_seconds": _seconds(run, (q, k, v, segments), calls),
                "largest_relative_error": error,
            }
        )
    return {
        "what": "attention",
        "rows": data.rows,
        "length": data.row_length,
        "dtype": dtype,
        "kernels": rows,
    }


def _forward_and_gradients(kernel: attention_kernels.Kernel) -> Callable[..., PyTree]:
    def run(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> PyTree:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            context = kernel(q, k, v, segments)
            return jnp.sum(jnp.square(context.astype(jnp.float32))), context

        gradients, context = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
        return (context, *gradients)

    return jax.jit(run)


def _seconds(function: Callable[..., PyTree], arguments: tuple[PyTree, ...], calls: int) -> float:
    """Median seconds of a call."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[calls // 2]
