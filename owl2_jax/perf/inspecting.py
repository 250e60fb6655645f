"""What a configuration is made of, found from shapes alone: parameters, groups, shardings, memory, FLOPs.

No device is touched and nothing is compiled, so that the largest model takes
seconds. What only a compiler knows (activations, collectives) `owl2 fit` says.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jax.sharding import AbstractMesh

from owl2_jax.config import RunConfig
from owl2_jax.core import tree
from owl2_jax.model import attention_kernels, flops
from owl2_jax.model.owl2 import abstract_params, logical_axes
from owl2_jax.parallel import mesh as meshes
from owl2_jax.parallel.axis_rules import storage_spec
from owl2_jax.parallel.chips import Chip
from owl2_jax.parallel.shardings import check_batch, check_params
from owl2_jax.training import param_groups

# Part of the model: pattern of its leaves. The first that matches takes a leaf.
PARTS: Final = (
    ("vision encoder", "vision/.*"),
    ("visual abstractor", "abstractor/.*"),
    ("token embedding", "decoder/embedding"),
    ("adapters", ".*/lora_[ab]"),
    ("decoder layers, image branch", "decoder/layers/.*_image/.*"),
    ("decoder layers, text branch and shared", "decoder/layers/.*"),
    ("final norm", "decoder/final_norm/.*"),
    ("head", "decoder/head/.*"),
)


@dataclass(frozen=True)
class Machine:
    """What a run is meant for.

    Attributes:
      devices: how many.
      chip: their figures, or None where only the number is known.
      name: for the report.
    """

    devices: int
    chip: Chip | None = None
    name: str = ""


@dataclass(frozen=True)
class Leaf:
    """One parameter: how it is stored, and in what pieces on a mesh.

    Attributes:
      bytes: of the whole. per_device: of a device's piece.
      spec: mesh axes of each dimension, as text.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    per_device: int
    spec: str
    trained: bool


def inspect(config: RunConfig, machine: Machine) -> dict[str, Any]:
    """Everything as JSON types; sizes in bytes, work in FLOPs of a step over all devices.

    Raises:
      Owl2Error: groups that do not cover the parameters, or a mesh that does
        not fit the number of devices, the parameters or the batch.
    """
    sizes = meshes.resolve_axes(config.mesh, machine.devices)
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    shapes, names = abstract_params(config.model), logical_axes(config.model)
    check_params(names, shapes, mesh)
    check_batch(config.data.rows, mesh, "data.rows", config.train.accumulate_steps)
    check_batch(config.data.images, mesh, "data.images", config.train.accumulate_steps)
    specs = param_groups.assign_groups(shapes, config.train)
    leaves = list_leaves(shapes, names, specs, sizes)
    return {
        "machine": {"devices": machine.devices, "name": machine.name, "mesh": sizes},
        "parameters": _parts(leaves),
        "groups": param_groups.table(shapes, specs, config.train),
        "shardings": [dataclasses.asdict(leaf) for leaf in leaves],
        "memory": _memory(config, leaves, sizes),
        "flops": _flops(config, specs, machine),
    }


def list_leaves(
    shapes: tree.Tree, names: tree.Tree, specs: Mapping[str, param_groups.ParamSpec], sizes: Mapping[str, int]
) -> list[Leaf]:
    """All parameters by name, on a mesh of these axis sizes."""
    axes = tree.flatten(names)
    found = []
    for name, leaf in tree.flatten(shapes).items():
        spec = storage_spec(axes[name])
        whole = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        ways = math.prod(_ways(part, sizes) for part in spec)
        text = ", ".join("-" if part is None else "+".join(_axes(part)) for part in spec)
        found.append(
            Leaf(name, tuple(leaf.shape), str(leaf.dtype), whole, whole // ways, text, specs[name].trained)
        )
    return found


def _axes(part: str | Sequence[str] | None) -> tuple[str, ...]:
    return (part,) if isinstance(part, str) else tuple(part or ())


def _ways(part: str | Sequence[str] | None, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[axis] for axis in _axes(part))


def _parts(leaves: Iterable[Leaf]) -> list[dict[str, Any]]:
    """Leaves, parameters and bytes of each part, and of all."""
    leaves = list(leaves)
    by_name = {leaf.name: leaf for leaf in leaves}
    known = [(pattern, part) for part, pattern in PARTS]
    # Patterns that match nothing are refused elsewhere; not every model has every part.
    used = [rule for rule in known if any(_matches(rule[0], name) for name in by_name)]
    of = tree.match_rules(by_name, used)
    rows = [_row(part, [leaf for leaf in leaves if of[leaf.name] == part]) for _, part in used]
    return [*rows, _row("all", leaves)]


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name) is not None


def _row(part: str, leaves: list[Leaf]) -> dict[str, Any]:
    return {
        "part": part,
        "leaves": len(leaves),
        "parameters": sum(math.prod(leaf.shape) for leaf in leaves),
        "bytes": sum(leaf.bytes for leaf in leaves),
        "bytes_per_device": sum(leaf.per_device for leaf in leaves),
    }


def _memory(config: RunConfig, leaves: list[Leaf], sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes that a device holds between steps, and the gradients of a step."""
    trained = [leaf for leaf in leaves if leaf.trained]

    def count(leaf: Leaf) -> int:
        return leaf.per_device // np.dtype(leaf.dtype).itemsize

    data, size = config.data, config.model.vision.image_size
    batch = (
        data.rows * (4 * data.row_length * 4 + 2 * data.images_per_row * 4) + data.images * size * size * 3
    )
    memory = {
        "parameters": sum(leaf.per_device for leaf in leaves),
        "optimiser": sum(count(leaf) * config.train.optimizer.state_bytes for leaf in trained),
        # Accumulated in float32, else in the parameters' own dtype.
        "gradients": sum(
            count(leaf) * 4 if config.train.accumulate_steps > 1 else leaf.per_device for leaf in trained
        ),
        "batch": batch // math.prod(sizes[axis] for axis in meshes.BATCH_AXES),
    }
    return {**memory, "all": sum(memory.values())}


def _flops(
    config: RunConfig, specs: Mapping[str, param_groups.ParamSpec], machine: Machine
) -> dict[str, Any]:
    """Work of a step by part, and the time that the products alone would take at the chips' peak."""
    data, length = config.data, config.data.row_length
    targets = min(data.max_targets or length, length)
    work = flops.batch_work(
        config.model, data.rows, length, data.images, data.images_per_row, data.max_targets
    )
    model = config.model
    if model.attention == "auto" and machine.chip is not None:
        platform, width = "tpu" if machine.chip.accelerator else "gpu", model.decoder.head_dim
        model = model.replace(attention=attention_kernels.best(platform, length, model.dtype, width))
    counted = flops.train_flops(
        model,
        work,
        lambda name: specs[name].trained,
        chunked_head=0 < config.train.loss_chunk < targets,
    )
    rows = {**counted, "all": flops.total(counted)}
    values: dict[str, Any] = {
        "steps": config.train.num_steps,
        "parts": {name: dataclasses.asdict(row) for name, row in rows.items()},
    }
    if machine.chip is not None:
        values["seconds_at_peak"] = rows["all"].model / (machine.devices * machine.chip.flops)
        values["hours_at_peak"] = values["seconds_at_peak"] * config.train.num_steps / 3600
    return values
