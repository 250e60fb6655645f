"""Runs a workload on the devices of this machine and times it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from owl2_jax.model import flops
from owl2_jax.parallel.chips import CHIPS, Chip, Topology, chip_name, chip_of
from owl2_jax.perf.forecast import forecast
from owl2_jax.perf.hlo import read_module
from owl2_jax.perf.serving_workloads import DECODE_WIDTH
from owl2_jax.perf.tpu_compile import bytes_per_device
from owl2_jax.perf.workload import Workload


@dataclass(frozen=True)
class Timing:
    """What a benchmark measured.

    Attributes:
      compile_seconds: tracing, lowering and compiling.
      seconds: of each timed call; for decode, of each token.
      tokens: positions per call, over all devices.
      model_flops: per call, over all devices.
      mfu: share of the devices' peak, or None for a device that is not in the table.
      bandwidth_share: for decode, the time to read weights and cache once over
        the measured time, or None likewise.
      expected: seconds of a call (decode: of a token) that were said beforehand: by
        "forecast" on a TPU, by "bound" (products at the peak, or parameters and
        cache read once) on a GPU; None for a device that is not in the table.
      peak_bytes: most memory in use on a device; what the compiler planned
        where the device does not say.
    """

    compile_seconds: float
    seconds: list[float]
    tokens: int
    model_flops: float
    mfu: float | None
    bandwidth_share: float | None
    peak_bytes: float
    expected: float | None = None
    expected_by: str = ""

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second of the median."""
        return self.tokens / self.median

    @property
    def flops_per_second(self) -> float:
        """Model FLOPs per second of the median."""
        return self.model_flops / self.median

    def spread(self) -> tuple[float, float]:
        """The 10th and the 90th percentile of the seconds."""
        low, high = np.percentile(self.seconds, [10, 90])
        return float(low), float(high)


def measure(workload: Workload, calls: int, warmup: int = 2, trace: str | None = None) -> Timing:
    """Compiles, warms up and times a workload.

    Args:
      calls: timed calls.
      warmup: calls before them.
      trace: directory for a profile of the timed calls.
    """
    start = time.perf_counter()
    compiled = workload.function.lower(*workload.arguments).compile()
    compile_seconds = time.perf_counter() - start
    runs = _calls(compiled, workload)
    for _ in range(warmup):
        next(runs)
    if trace is not None:
        jax.profiler.start_trace(trace)
    seconds = [next(runs) for _ in range(calls)]
    if trace is not None:
        jax.profiler.stop_trace()
    devices = jax.tree.leaves(workload.arguments[workload.carried])[0].sharding.device_set
    return _timing(workload, compiled, compile_seconds, seconds, list(devices))


def _calls(compiled: jax.stages.Compiled, workload: Workload) -> Iterator[float]:
    """Seconds of one call after another, per token for decode; each goes on from the last one's result."""
    arguments = list(workload.materialize())
    steps = DECODE_WIDTH if workload.name == "decode" else 1
    while True:
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        yield (time.perf_counter() - start) / steps
        arguments[workload.carried] = result[0]


def _timing(
    workload: Workload,
    compiled: jax.stages.Compiled,
    compile_seconds: float,
    seconds: list[float],
    devices: list[jax.Device],
) -> Timing:
    chip, model_flops = chip_of(devices[0]), flops.total(workload.flops).model
    median = float(np.median(seconds))
    mfu = bandwidth_share = None
    if chip is not None:
        mfu = model_flops / median / (len(devices) * chip.flops)
        if workload.name == "decode":
            bandwidth_share = _least_read(workload, chip) / median
    return Timing(
        compile_seconds=compile_seconds,
        seconds=seconds,
        tokens=workload.tokens,
        model_flops=model_flops,
        mfu=mfu,
        bandwidth_share=bandwidth_share,
        peak_bytes=_peak_bytes(compiled, devices[0]),
        **_expected(workload, compiled, devices),
    )


def _least_read(workload: Workload, chip: Chip) -> float:
    """Seconds in which a device reads what it holds of parameters and cache once."""
    return sum(bytes_per_device(part) for part in workload.parts.values()) / chip.bandwidth


def _expected(workload: Workload, compiled: jax.stages.Compiled, devices: list[jax.Device]) -> dict[str, Any]:
    """What the compiled program should take, before it ran."""
    chip = chip_of(devices[0])
    if chip is None:
        return {}
    if chip.clock:
        return {"expected": forecast_here(compiled.as_text(), devices), "expected_by": "forecast"}
    executed = flops.total(workload.flops).executed / len(devices)
    bound = max(executed / chip.flops, _least_read(workload, chip))
    return {"expected": bound, "expected_by": "bound"}


def forecast_here(text: str, devices: list[jax.Device]) -> float:
    """Seconds of a program compiled for these TPUs, which lie in a row."""
    generation = chip_name(devices[0])
    shape = (len(devices), *[1] * (CHIPS[generation].ports // 2 - 1))
    topology = Topology(f"{generation}:{'x'.join(map(str, shape))}", generation, shape)
    return forecast(read_module(text), topology).seconds


def _peak_bytes(compiled: jax.stages.Compiled, device: jax.Device) -> float:
    statistics = device.memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return float(statistics["peak_bytes_in_use"])
    analysis = compiled.memory_analysis()
    fresh = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return float(analysis.argument_size_in_bytes + analysis.temp_size_in_bytes + fresh)
