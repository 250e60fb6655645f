"""What devices have left for the pages of the cache."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.engine_config import EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.program_sizes import Memory, Sizes
from owl2_jax.model.pages import LANES
from owl2_jax.parallel.mesh import TENSOR, axis_size
from owl2_jax.parallel.shardings import batch_ways


def sizes_of(config: EngineConfig, model: LoadedModel) -> Sizes:
    """The sizes of an engine's programs and of what lies on the device. Raises `Owl2Error`."""
    ways = 1 if model.mesh is None else batch_ways(model.mesh)
    return Sizes.of(config, model.config, ways, memory_left(config, model.mesh))


def memory_left(config: EngineConfig, mesh: Mesh | None) -> Memory | None:
    """What accelerators have left; pages are cut over the tensor axis of a mesh. None for a CPU.

    Raises:
      Owl2Error: a device does not tell, and the configuration does not say how large the cache is.
    """
    devices = jax.local_devices()[:1] if mesh is None else mesh.local_devices
    if devices[0].platform == "cpu":
        return None
    lanes = LANES if devices[0].platform == "tpu" else 1
    statistics = [device.memory_stats() or {} for device in devices]
    if all("bytes_limit" in one for one in statistics):
        left = min(one["bytes_limit"] - one["bytes_in_use"] for one in statistics)
    elif config.cache_bytes is not None:
        left = 0
    else:
        raise Owl2Error(
            f"{devices[0].device_kind} does not tell how much memory it has left; give the size of the "
            "cache (--cache-mib)"
        )
    return Memory(left * (1 if mesh is None else axis_size(mesh, TENSOR)), lanes)
