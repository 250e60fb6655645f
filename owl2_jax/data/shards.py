"""Where shards run: in threads of this process, or in worker processes.

Either way the same parts of batches come out, because a shard's parts depend on
nothing but its number and its state.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import grain
from absl import flags

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.host_memory import keep_freed_memory
from owl2_jax.data.batch import Batch
from owl2_jax.data.packing import Packed, RowLimits, Shard

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class ShardSettings:
    """What all shards have in common.

    Attributes:
      samples, limits, window, num_shards: as `packing.Shard` takes them.
      prefetch: parts made ahead for each shard.
      read_ahead: as `packing.Shard` takes it.
    """

    samples: Any
    limits: RowLimits
    window: int
    num_shards: int
    prefetch: int
    read_ahead: bool = False


class ShardGroup(grain.IterDataset[dict[str, Any]]):
    """The parts of several shards in turn: {"arrays": those of the batch, "about": the rest of `Packed`}.

    Args:
      settings: of all shards.
      states: {shard: where it begins}, in the order of the parts.
    """

    def __init__(self, settings: ShardSettings, states: Mapping[int, Mapping[str, Any]]) -> None:
        super().__init__()
        self.settings, self.states = settings, {shard: dict(state) for shard, state in states.items()}

    def __iter__(self) -> _ShardGroupIterator:
        return _ShardGroupIterator(self.settings, self.states)


class _ShardGroupIterator(grain.DatasetIterator[dict[str, Any]]):
    def __init__(self, settings: ShardSettings, states: Mapping[int, Mapping[str, Any]]) -> None:
        super().__init__()
        self._settings, self._states, self._turn = settings, dict(states), 0
        self._shards: dict[int, Shard] = {}

    def __next__(self) -> dict[str, Any]:
        number = list(self._states)[self._turn]
        if number not in self._shards:
            s = self._settings
            self._shards[number] = Shard(
                s.samples, s.limits, s.window, number, s.num_shards, self._states[number], s.read_ahead
            )
        packed = next(self._shards[number])
        self._states[number] = packed.state
        self._turn = (self._turn + 1) % len(self._states)
        arrays = {field.name: getattr(packed.batch, field.name) for field in fields(Batch)}
        # Grain passes the arrays of a dict through shared memory; in a dataclass they would be pickled.
        return {"arrays": arrays, "about": replace(packed, batch=None)}

    def get_state(self) -> dict[str, Any]:
        return {"states": dict(self._states), "turn": self._turn}

    def set_state(self, state: dict[str, Any]) -> None:
        self._states, self._turn, self._shards = dict(state["states"]), state["turn"], {}


class ShardRunner:
    """Takes the next part of every shard of a host.

    Args:
      settings: of all shards.
      states: {shard: where it begins} of the host's shards.
      workers: worker processes; 0 for a thread per shard.

    Raises:
      Owl2Error: the shards do not divide among the workers, or shared memory is too small.
    """

    def __init__(
        self, settings: ShardSettings, states: Mapping[int, Mapping[str, Any]], workers: int
    ) -> None:
        self._shards = list(states)
        self._next = {shard: state["next"] for shard, state in states.items()}
        groups = workers or len(self._shards)
        check_workers(settings, len(self._shards), workers)
        self._iterators: list[Iterator[dict[str, Any]]] = []
        for group in range(groups):
            mine = {shard: states[shard] for shard in self._shards[group::groups]}
            self._iterators.append(iter(_ahead(ShardGroup(settings, mine), settings.prefetch, bool(workers))))
        for iterator in self._iterators:
            iterator.start_prefetch()

    def take(self) -> list[Packed]:
        """The parts of the next batch, by shard. Raises what a shard raised."""
        turns = itertools.cycle(self._iterators)
        return [self._take(shard, iterator) for shard, iterator in zip(self._shards, turns, strict=False)]

    def close(self) -> None:
        """Ends the threads or processes."""
        for iterator in self._iterators:
            iterator.close()

    def _take(self, shard: int, iterator: Iterator[dict[str, Any]]) -> Packed:
        part = next(iterator)
        packed = replace(part["about"], batch=Batch(**part["arrays"]))
        if (packed.shard, packed.begins) != (shard, self._next[shard]):
            raise RuntimeError(
                f"a part of shard {packed.shard} from place {packed.begins} on came where one of shard "
                f"{shard} from place {self._next[shard]} on belongs: parts of batches were lost or swapped"
            )
        self._next[shard] = packed.state["next"]
        return packed


def check_workers(settings: ShardSettings, shards: int, workers: int) -> None:
    """Raises `Owl2Error` when `shards` cannot be shared by the workers, or shared memory is too small."""
    if not workers:
        return
    if shards % workers:
        raise Owl2Error(
            f"data.workers {workers} do not divide a host's {shards} shards; make data.shards a multiple of "
            "hosts x workers"
        )
    limits = settings.limits
    part = limits.images * limits.image_size**2 * 3 + 5 * 4 * limits.rows * limits.length
    # Beside the parts in the queues, each worker holds one and the training step another.
    needed = part * (shards * (settings.prefetch + 1) + workers)
    free = shutil.disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else needed
    if needed > free:
        raise Owl2Error(
            f"{workers} workers need {needed / 1e6:.0f} MB of shared memory, {_SHARED_MEMORY} has "
            f"{free / 1e6:.0f} MB free; lower data.prefetch or data.images, or give the container more "
            "(docker run --shm-size)"
        )


def _start_worker(number: int, count: int) -> None:
    """Called by Grain in a new worker process."""
    keep_freed_memory()


def _ahead(group: ShardGroup, parts: int, process: bool) -> grain.IterDataset:
    """Makes `parts` parts of every shard ahead, in a thread or in a process of its own."""
    if not process:
        return grain.experimental.ThreadPrefetchIterDataset(group, prefetch_buffer_size=parts)
    # Grain's workers read absl flags, which only programs started by absl have parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    # Each group has a single worker and prefetching comes last, so no part can overtake another.
    # The thread lets all processes start at once; by itself Grain starts one when a part is asked of it.
    buffer = parts * len(group.states)
    options = grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=buffer)
    made = group.mp_prefetch(options, worker_init_fn=_start_worker)
    return grain.experimental.ThreadPrefetchIterDataset(made, prefetch_buffer_size=1)
