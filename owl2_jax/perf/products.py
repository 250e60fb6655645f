"""Operations of the matrix products in a compiled module.

The TPU compiler writes every product as a convolution, batches as dilated
windows; taps that meet padding or holes are not counted.
"""

from __future__ import annotations

import math
import re
from typing import Final

import numpy as np

from owl2_jax.perf.hlo import Computation, Instruction, Module

_LABELS: Final = re.compile(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)")
_WINDOW: Final = re.compile(r"window=\{([^}]*)\}")
_CONTRACTED: Final = re.compile(r"lhs_contracting_dims=\{([0-9,]*)\}")


def flops(instruction: Instruction, computation: Computation, module: Module) -> float:
    """Of the products in an instruction, those inside a fusion included; one execution."""
    if instruction.op == "convolution":
        return _convolution(instruction, computation)
    if instruction.op == "dot":
        return _dot(instruction, computation)
    if instruction.op == "fusion":
        body = module.body(instruction)
        return sum(flops(inner, body, module) for inner in body.values())
    return 0.0


def _dot(instruction: Instruction, computation: Computation) -> float:
    left = computation[instruction.operands[0]].arrays[0].dims
    axes = _CONTRACTED.search(instruction.attributes)
    contracted = math.prod(left[int(axis)] for axis in axes[1].split(",") if axis) if axes else 1
    return 2.0 * math.prod(instruction.arrays[0].dims) * contracted


def _convolution(instruction: Instruction, computation: Computation) -> float:
    labels = _LABELS.search(instruction.attributes)
    if labels is None:
        return 0.0
    left, right = (computation[name].arrays[0].dims for name in instruction.operands[:2])
    sizes = [
        dict(zip(names, dims, strict=True))
        for names, dims in zip(labels.groups(), (left, right, instruction.arrays[0].dims), strict=True)
    ]
    window = _window(instruction.attributes)
    taps = 1.0
    for number, axis in enumerate(sorted(name for name in sizes[2] if name.isdigit())):
        taps *= _taps(sizes[0][axis], sizes[2][axis], {key: values[number] for key, values in window.items()})
    return 2.0 * sizes[2]["b"] * sizes[2]["f"] * sizes[1]["i"] * taps


def _window(attributes: str) -> dict[str, list[str]]:
    """`window={size=16x3 pad=15_15x2_2}` by key, one entry per spatial axis."""
    found = _WINDOW.search(attributes)
    pairs = (item.split("=") for item in found[1].split()) if found else ()
    return {key: value.split("x") for key, value in pairs}


def _taps(size: int, outputs: int, window: dict[str, str]) -> int:
    """Pairs of an output position and a window position that meet a number of the input."""
    before = int(window.get("pad", "0_0").split("_")[0])
    holes = int(window.get("lhs_dilate", 1))
    starts = np.arange(outputs)[:, None] * int(window.get("stride", 1)) - before
    places = starts + np.arange(int(window.get("size", 1))) * int(window.get("rhs_dilate", 1))
    inside = (places >= 0) & (places <= (size - 1) * holes) & (places % holes == 0)
    return int(inside.sum())
