"""Where lanes run: in threads of this process, or in worker processes.

Either way the same parts of batches come out, because a lane's parts depend on
nothing but its number and its state.
"""

from __future__ import annotations

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
from owl2_jax.data.packing import Lane, Packed, RowLimits

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class LaneSettings:
    """What all lanes have in common.

    Attributes:
      samples, limits, window, num_lanes: as `packing.Lane` takes them.
      prefetch: parts made ahead for each lane.
    """

    samples: Any
    limits: RowLimits
    window: int
    num_lanes: int
    prefetch: int


class LaneGroup(grain.IterDataset[dict[str, Any]]):
    """The parts of several lanes in turn: {"arrays": those of the batch, "about": the rest of `Packed`}.

    Args:
      settings: of all lanes.
      states: {lane: where it begins}, in the order of the parts.
    """

    def __init__(self, settings: LaneSettings, states: Mapping[int, Mapping[str, Any]]) -> None:
        super().__init__()
        self.settings, self.states = settings, {lane: dict(state) for lane, state in states.items()}

    def __iter__(self) -> _LaneGroupIterator:
        return _LaneGroupIterator(self.settings, self.states)


class _LaneGroupIterator(grain.DatasetIterator[dict[str, Any]]):
    def __init__(self, settings: LaneSettings, states: Mapping[int, Mapping[str, Any]]) -> None:
        super().__init__()
        self._settings, self._states, self._turn = settings, dict(states), 0
        self._lanes: dict[int, Lane] = {}

    def __next__(self) -> dict[str, Any]:
        number = list(self._states)[self._turn]
        if number not in self._lanes:
            s = self._settings
            self._lanes[number] = Lane(
                s.samples, s.limits, s.window, number, s.num_lanes, self._states[number]
            )
        packed = next(self._lanes[number])
        self._states[number] = packed.state
        self._turn = (self._turn + 1) % len(self._states)
        arrays = {field.name: getattr(packed.batch, field.name) for field in fields(Batch)}
        # Grain passes the arrays of a dict through shared memory; in a dataclass they would be pickled.
        return {"arrays": arrays, "about": replace(packed, batch=None)}

    def get_state(self) -> dict[str, Any]:
        return {"states": dict(self._states), "turn": self._turn}

    def set_state(self, state: dict[str, Any]) -> None:
        self._states, self._turn, self._lanes = dict(state["states"]), state["turn"], {}


class LaneRunner:
    """Takes the next part of every lane of a host.

    Args:
      settings: of all lanes.
      states: {lane: where it begins} of the host's lanes.
      workers: worker processes; 0 for a thread per lane.

    Raises:
      Owl2Error: the lanes do not divide among the workers, or shared memory is too small.
    """

    def __init__(self, settings: LaneSettings, states: Mapping[int, Mapping[str, Any]], workers: int) -> None:
        self._lanes = list(states)
        self._next = {lane: state["next"] for lane, state in states.items()}
        groups = workers or len(self._lanes)
        check_workers(settings, len(self._lanes), workers)
        self._iterators: list[Iterator[dict[str, Any]]] = []
        for group in range(groups):
            mine = {lane: states[lane] for lane in self._lanes[group::groups]}
            self._iterators.append(iter(_ahead(LaneGroup(settings, mine), settings.prefetch, bool(workers))))
        for iterator in self._iterators:
            iterator.start_prefetch()

    def take(self) -> list[Packed]:
        """The parts of the next batch, by lane. Raises what a lane raised."""
        return [
            self._take(lane, self._iterators[i % len(self._iterators)]) for i, lane in enumerate(self._lanes)
        ]

    def close(self) -> None:
        """Ends the threads or processes."""
        for iterator in self._iterators:
            iterator.close()

    def _take(self, lane: int, iterator: Iterator[dict[str, Any]]) -> Packed:
        part = next(iterator)
        packed = replace(part["about"], batch=Batch(**part["arrays"]))
        if (packed.lane, packed.begins) != (lane, self._next[lane]):
            raise RuntimeError(
                f"a part of lane {packed.lane} from place {packed.begins} on came where one of lane {lane} "
                f"from place {self._next[lane]} on belongs: parts of batches were lost or swapped"
            )
        self._next[lane] = packed.state["next"]
        return packed


def check_workers(settings: LaneSettings, lanes: int, workers: int) -> None:
    """Raises `Owl2Error` when `lanes` cannot be shared by the workers, or shared memory is too small."""
    if not workers:
        return
    if lanes % workers:
        raise Owl2Error(
            f"data.workers {workers} do not divide a host's {lanes} lanes; make data.lanes a multiple of "
            "hosts x workers"
        )
    limits = settings.limits
    part = limits.images * limits.image_size**2 * 3 + 5 * 4 * limits.rows * limits.length
    # Beside the parts in the queues, each worker holds one and the training step another.
    needed = part * (lanes * (settings.prefetch + 1) + workers)
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


def _ahead(group: LaneGroup, parts: int, process: bool) -> grain.IterDataset:
    """Makes `parts` parts of every lane ahead, in a thread or in a process of its own."""
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
