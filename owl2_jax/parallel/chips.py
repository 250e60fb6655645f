"""Peaks and capacities of accelerators, and the shapes in which TPUs are rented.

Sources: TPU figures from the system architecture pages of the Google Cloud TPU
documentation (v5e, v5p, v6e), but memory as the TPU compiler reports it
available; GPU figures from NVIDIA's data sheets (A100, H100 SXM, H200 SXM; dense
rates, no sparsity). Clocks are the peak over what the matrix units do per cycle:
197e12 = 4 units x 128 x 128 x 2 x 1.5 GHz, 459e12 = 2 cores x 4 x 128 x 128 x 2 x
1.75 GHz, 918e12 = 4 x 256 x 256 x 2 x 1.75 GHz; the TPU compiler's estimates for a
4096 x 4096 x 4096 product are then 97, 96 and 87 % of the peak.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from owl2_jax.core.errors import Owl2Error, unknown_name

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      flops: bfloat16 operations per second.
      memory: bytes of device memory that programs can use.
      bandwidth: bytes per second between memory and chip.
      link: bytes per second that one port receives from its neighbour.
      ports: links per chip: two per dimension of a torus, or the switch's.
      wrap: length from which a dimension of a slice closes to a ring.
      accelerator: name of the machine type that the TPU compiler asks for.
      clock: cycles per second in which the TPU compiler counts; 0 where unknown.
      cores: that share the work of a chip.
      fusion_memory: KiB of fast memory that the TPU compiler should let a fusion take; 0: as many as it
        does by itself. By its own estimates, products run faster with more.
      page_fusion_memory: the same for a step over pages; 0: as for others.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    ports: int
    wrap: int = 1
    accelerator: str = ""
    clock: float = 0.0
    cores: int = 1
    fusion_memory: int = 0
    page_fusion_memory: int = 0

    @property
    def vector_rate(self) -> float:
        """Registers of 8 x 128 numbers that the chip's vector units take per second, four per cycle."""
        return 4.0 * self.clock * self.cores


GB: Final = 1e9
GIB: Final = 2.0**30

CHIPS: Final[dict[str, Chip]] = {
    "v5e": Chip(
        197e12, 15.75 * GIB, 819 * GB, 50 * GB, 4,
        wrap=16, accelerator="v5litepod", clock=1.5e9, fusion_memory=24576,
    ),
    "v5p": Chip(
        459e12, 95.74 * GIB, 2765 * GB, 100 * GB, 6,
        wrap=4, accelerator="v5p", clock=1.75e9, cores=2, fusion_memory=24576,
        page_fusion_memory=32768,
    ),
    "v6e": Chip(
        918e12, 31.25 * GIB, 1638 * GB, 100 * GB, 4,
        wrap=16, accelerator="v6e", clock=1.75e9, page_fusion_memory=49152,
    ),
    "a100-40": Chip(312e12, 40 * GB, 1555 * GB, 25 * GB, 12),
    "a100-80": Chip(312e12, 80 * GB, 2039 * GB, 25 * GB, 12),
    "h100": Chip(989.4e12, 80 * GB, 3350 * GB, 25 * GB, 18),
    "h200": Chip(989.4e12, 141 * GB, 4800 * GB, 25 * GB, 18),
}  # fmt: skip

# What `device.device_kind` says, in the order in which they are looked for.
_KINDS: Final = (
    ("TPU v5 lite", "v5e"),
    ("TPU v5e", "v5e"),
    ("TPU v5", "v5p"),
    ("TPU v6", "v6e"),
    ("H200", "h200"),
    ("H100", "h100"),
    ("A100-SXM4-40", "a100-40"),
    ("A100-PCIE-40", "a100-40"),
    ("A100", "a100-80"),
)


@dataclass(frozen=True)
class Topology:
    """A slice of TPU chips: `name` as the compiler knows it, "v5e:16x16"."""

    name: str
    generation: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """What its chips are."""
        return CHIPS[self.generation]

    @property
    def count(self) -> int:
        """How many chips it has."""
        return math.prod(self.shape)

    @property
    def rings(self) -> tuple[bool, ...]:
        """Of every dimension, whether its ends are linked, so that it is a ring.

        In three dimensions all are, or none: the links leave whole cubes, of which smaller slices are parts.
        """
        rings = tuple(length >= self.chip.wrap for length in self.shape)
        return rings if len(rings) < 3 or all(rings) else (False,) * len(rings)

    def receive_rate(self, group: int) -> float:
        """Bytes per second that a chip takes in during a collective over `group` chips.

        A collective over the whole slice uses every port; one over fewer
        chips runs along one dimension. An open dimension has half the rate.
        """
        long = [ring for length, ring in zip(self.shape, self.rings, strict=True) if length > 1]
        if group < self.count:
            long = long[:1]
        ways = sum(2.0 if ring else 1.0 for ring in long)
        return self.chip.link * max(ways, 1.0)


def parse_topology(name: str) -> Topology:
    """Reads "v5e:16x16".

    Raises:
      Owl2Error: an unknown generation, or a shape that is not 2 (v5e, v6e) or
        3 (v5p) sizes.
    """
    generation, _, shape_text = name.partition(":")
    known = {kind: chip for kind, chip in CHIPS.items() if chip.accelerator}
    if generation not in known:
        raise unknown_name("TPU generation", generation, known)
    dimensions = known[generation].ports // 2
    example = "x".join(["4"] * dimensions)
    try:
        shape = tuple(int(size) for size in shape_text.split("x"))
    except ValueError:
        shape = ()
    if len(shape) != dimensions or min(shape) < 1:
        raise Owl2Error(
            f"topology {name!r}: {generation} has {dimensions} dimensions, for example {generation}:{example}"
        )
    return Topology(name, generation, shape)


def compiler_environment(topology: Topology) -> dict[str, str]:
    """Variables with which the TPU compiler runs quietly on a machine without TPU.

    They must be set before JAX is imported.
    """
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        # Nobody holds a chip here, so two compilers do not disturb each other.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": f"{topology.chip.accelerator}-{topology.count}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def chip_name(device: jax.Device) -> str | None:
    """Name in the table of a JAX device, or None for one that is not in it (a CPU)."""
    kind = device.device_kind
    return next((name for text, name in _KINDS if text in kind), None)


def chip_of(device: jax.Device) -> Chip | None:
    """The table's entry for a JAX device, or None likewise."""
    name = chip_name(device)
    return None if name is None else CHIPS[name]


def fusion_options(device: jax.Device, over_pages: bool = False) -> dict[str, str]:
    """Options of the compiler for the fast memory of a fusion; none where its own choice stays."""
    chip = chip_of(device)
    if chip is None:
        return {}
    memory = (chip.page_fusion_memory if over_pages else 0) or chip.fusion_memory
    return {"xla_tpu_scoped_vmem_limit_kib": str(memory)} if memory else {}
