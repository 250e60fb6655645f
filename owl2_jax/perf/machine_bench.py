"""What one machine does beside what it was said to do: a training step, prefill and decoding.

The 7B model is cut to as many layers as the memory of one device holds; a
machine without an accelerator takes a small model, to show that all of it runs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jax

from owl2_jax.core import platforms
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import write_json
from owl2_jax.model import attention_kernels
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.presets import preset
from owl2_jax.parallel.chips import chip_of
from owl2_jax.parallel.mesh import DATA, make_mesh
from owl2_jax.perf import timing
from owl2_jax.perf.run_config import load as load_run
from owl2_jax.perf.workload import Shape
from owl2_jax.perf.workloads import build

# Rows and length of a row, per device.
_LARGE: Final[dict[str, tuple[int, int]]] = {"train": (1, 2048), "prefill": (4, 1024), "decode": (32, 2048)}
_SMALL: Final[dict[str, tuple[int, int]]] = {"train": (2, 64), "prefill": (2, 64), "decode": (4, 192)}
_SPLASH_BLOCK: Final = 1024  # as stage 2 asks for
_DEPTHS: Final = (32, 24, 16, 12, 8, 6, 4, 2, 1)
# Bytes per parameter: float32 with its gradient and two moments, or bfloat16 alone.
_BYTES: Final = {"train": 16.0, "prefill": 2.0, "decode": 2.0}
_USED: Final = 0.8  # of the memory, so that activations have room
_FULL: Final = "RESOURCE_EXHAUSTED"


def measure_machine(calls: int, seconds: float, say: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Measures all workloads on one device of this machine.

    Args:
      calls: timed calls of each.
      seconds: after which no further workload is begun.
    """
    device, chip = jax.devices()[0], chip_of(jax.devices()[0])
    started, rows = time.monotonic(), []
    memory = None if chip is None else chip.memory
    others = [("train", name) for name in _other_kernels(memory)]
    for what, attention in [*((what, "auto") for what in _LARGE), *others]:
        if time.monotonic() - started > seconds:
            rows.append({"what": what, "attention": attention, "left_out": f"{seconds:.0f} s were over"})
            continue
        if say is not None:
            say(f"measuring {what}, attention={attention}")
        rows.append(_measure(what, attention, calls, memory))
    return {
        "device": device.device_kind,
        "jax": jax.__version__,
        "seconds": time.monotonic() - started,
        "workloads": rows,
    }


def _other_kernels(memory: float | None) -> list[str]:
    """Fused kernels of attention that a training step could take beside the best one."""
    if memory is None:
        return []
    model, (_, length) = preset("owl2_7b"), _LARGE["train"]
    platform = platforms.current_platform()
    return attention_kernels.fitting(platform, length, model.dtype, model.decoder.head_dim)[1:-1]


def _measure(what: str, attention: str, calls: int, memory: float | None) -> dict[str, Any]:
    """The deepest model that fits."""
    name, shapes = ("owl2_7b", _LARGE) if memory is not None else ("owl2_tiny", _SMALL)
    rows, length = shapes[what]
    values = load_run(None, name, rows, length, [])
    mesh = make_mesh({DATA: 1}, jax.devices()[:1])
    shape = Shape(rows, length, 0 if what == "decode" else rows, 0 if what == "decode" else 1)
    for depth in depths(preset(name), what, memory):
        model = cut(values.model, depth).replace(attention=attention, splash_block=_SPLASH_BLOCK)
        if what != "train":
            model = model.replace(param_dtype=model.dtype, remat="none")
        try:
            found = timing.measure(build(what, model, values.train, shape, mesh), calls)
        except jax.errors.JaxRuntimeError as error:
            if _FULL not in str(error):
                raise
            continue
        return _row(what, name, model, shape, found)
    raise Owl2Error(
        f"not even one layer of {name} fits the memory of {jax.devices()[0].device_kind} for {what}"
    )


def depths(model: Owl2Config, what: str, memory: float | None) -> list[int]:
    """Numbers of layers to try, the most that may fit first."""
    decoder = model.decoder
    if memory is None:
        return [decoder.num_layers]
    layer = 6 * decoder.width**2 + 3 * decoder.width * decoder.mlp_dim
    ends = 2 * decoder.vocab_size * decoder.width
    fitting = [n for n in _DEPTHS if (n * layer + ends) * _BYTES[what] <= _USED * memory]
    return fitting or [_DEPTHS[-1]]


def cut(model: Owl2Config, layers: int) -> Owl2Config:
    """The model with fewer layers, its vision encoder in proportion."""
    share = layers / model.decoder.num_layers
    seeing = max(1, round(model.vision.num_layers * share))
    return model.replace(**{"decoder.num_layers": layers, "vision.num_layers": seeing})


def _row(what: str, name: str, model: Owl2Config, shape: Shape, found: timing.Timing) -> dict[str, Any]:
    low, high = found.spread()
    return {
        "what": what,
        "attention": attention_kernels.resolved(model, shape.length) if what == "train" else None,
        "model": name,
        "layers": model.decoder.num_layers,
        "rows": shape.rows,
        "length": shape.length,
        "seconds": found.median,
        "seconds_10th_percentile": low,
        "seconds_90th_percentile": high,
        "expected_seconds": found.expected,
        "expected_by": found.expected_by,
        "measured_over_expected": found.median / found.expected if found.expected else None,
        "mfu": found.mfu,
        "compile_seconds": found.compile_seconds,
        "peak_memory_bytes": found.peak_bytes,
    }


def table_row(report: Mapping[str, Any]) -> str:
    """One row of the table in docs/pages/reference/measured.md."""
    cells = [report["device"]]
    for row in report["workloads"]:
        cells.append("" if "left_out" in row else _cell(row))
    return f"| {' | '.join(cells)} |"


def _cell(row: Mapping[str, Any]) -> str:
    kernel = f" with {row['attention']} attention" if row["attention"] else ""
    words = f"{row['layers']} layers, {row['rows']} x {row['length']}{kernel}: {row['seconds'] * 1e3:.1f} ms"
    if row["expected_seconds"]:
        words += f" ({row['expected_by']} {row['expected_seconds'] * 1e3:.1f} ms)"
    return words


def run(output: Path, calls: int, seconds: float) -> None:
    """Measures, writes the JSON and prints the table row."""
    report = measure_machine(calls, seconds, lambda words: print(words, file=sys.stderr, flush=True))
    write_json(output, report)
    print(json.dumps(report, indent=2))
    print(table_row(report))
