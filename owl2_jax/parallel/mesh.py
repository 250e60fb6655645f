"""Device meshes: four named axes, and the sizes of the machines we know.

  dcn     copies of the model over slices or nodes that a slow network joins
  data    copies of the model inside one slice
  fsdp    batch rows, and parameters stored in pieces (ZeRO-3)
  tensor  heads, hidden units and vocabulary of one layer

All four are always there; an axis that is not used has size 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from owl2_jax.core.axes import MESH_AXES
from owl2_jax.core.errors import Owl2Error, unknown_name

DCN, DATA, FSDP, TENSOR = MESH_AXES
# The axes that split a batch; every one holds different rows.
BATCH_AXES: Final = (DCN, DATA, FSDP)


@dataclass(frozen=True)
class MeshPreset:
    """A machine and the mesh that trains the full model on it.

    Attributes:
      devices: number of chips.
      axes: axis sizes; axes left out are 1.
      topology: name for `owl2 fit`, or None where no compiler for a machine
        that is not there exists (GPUs).
    """

    devices: int
    axes: Mapping[str, int] = field(default_factory=dict)
    topology: str | None = None


# Stage 2 has 256 rows a step, so more than 256 ways need the tensor axis.
PRESETS: Final[dict[str, MeshPreset]] = {
    "v5e-16": MeshPreset(16, {FSDP: 16}, "v5e:4x4"),
    "v5e-256": MeshPreset(256, {FSDP: 256}, "v5e:16x16"),
    "v5p-64": MeshPreset(64, {FSDP: 64}, "v5p:4x4x4"),
    "v5p-512": MeshPreset(512, {FSDP: 256, TENSOR: 2}, "v5p:8x8x8"),
    "v6e-256": MeshPreset(256, {FSDP: 256}, "v6e:16x16"),
    "h100-8": MeshPreset(8, {FSDP: 8}),
    "h200-8": MeshPreset(8, {FSDP: 8}),
}


def preset(name: str) -> MeshPreset:
    """Raises `UnknownNameError` with the nearest names."""
    if name not in PRESETS:
        raise unknown_name("mesh preset", name, PRESETS)
    return PRESETS[name]


def parse_mesh(text: str) -> dict[str, int]:
    """Axis sizes from a preset's name or from "fsdp=4,tensor=2".

    Raises:
      Owl2Error: neither of the two.
    """
    if "=" not in text:
        return dict(preset(text).axes)
    sizes = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name.strip() in sizes:
            raise Owl2Error(f"mesh {text!r} gives {name.strip()} twice; leave one out")
        try:
            sizes[name.strip()] = int(size)
        except ValueError:
            raise Owl2Error(f"mesh {text!r}: {part!r} is not axis=size, for example fsdp=4") from None
    return sizes


def resolve_axes(spec: Mapping[str, int], device_count: int) -> dict[str, int]:
    """Sizes of all four axes; one axis of -1 takes the devices that the others leave.

    Args:
      spec: axis name to size; axes left out are 1.
      device_count: number of devices that the mesh must use up.

    Raises:
      Owl2Error: an unknown axis, a size below 1, two -1, or a product that is
        not the device count; the message holds the arithmetic.
    """
    for name, size in spec.items():
        if name not in MESH_AXES:
            raise unknown_name("mesh axis", name, MESH_AXES)
        if size < 1 and size != -1:
            raise Owl2Error(f"mesh axis {name} has size {size}; sizes are 1 or more, or -1 for the rest")
    sizes = {name: spec.get(name, 1) for name in MESH_AXES}
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise Owl2Error(f"mesh axes {' and '.join(open_axes)} are both -1; only one can take the rest")
    fixed = {name: size for name, size in sizes.items() if size != -1}
    product = math.prod(fixed.values())
    if open_axes:
        if device_count % product:
            raise Owl2Error(
                f"mesh {_product(fixed)} = {product} does not divide {device_count} devices, "
                f"so {open_axes[0]} = -1 has no size; change the other axes"
            )
        sizes[open_axes[0]] = device_count // product
    elif product != device_count:
        raise Owl2Error(
            f"mesh {_product(fixed)} = {product}, but there are {device_count} devices; "
            "change an axis, or set one to -1 to take the rest"
        )
    return sizes


def make_mesh(spec: Mapping[str, int] | str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Builds the mesh; neighbours along an axis are neighbours in the machine where it has a torus.

    Args:
      spec: axis sizes, or what `parse_mesh` reads.
      devices: all devices of all processes by default.

    Returns:
      A mesh with all of `MESH_AXES`.

    Raises:
      Owl2Error: see `resolve_axes`; also when `dcn` is not the number of slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = resolve_axes(parse_mesh(spec) if isinstance(spec, str) else spec, len(devices))
    shape = tuple(sizes.values())
    slices = _slice_count(devices)
    if slices > 1 and sizes[DCN] != slices:
        raise Owl2Error(
            f"mesh axis dcn is {sizes[DCN]}, but the {len(devices)} devices are {slices} slices of "
            f"{len(devices) // slices}; set dcn = {slices}"
        )
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(
            (1, *shape[1:]), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
        )
    elif devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        # Devices come process by process, so batch axes stay whole per process.
        grid = np.asarray(devices).reshape(shape)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def axis_size(mesh: Mesh, names: str | Sequence[str] | None) -> int:
    """Product of the sizes of one or several mesh axes; 1 for None."""
    names = (names,) if isinstance(names, str) else names or ()
    return math.prod(mesh.shape[name] for name in names)


def _slice_count(devices: Sequence[jax.Device]) -> int:
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", 0) for device in devices})


def _product(sizes: Mapping[str, int]) -> str:
    return " * ".join(f"{name} {size}" for name, size in sizes.items())
