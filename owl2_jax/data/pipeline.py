"""From sources to batches: shuffle, mix, encode, pack, prefetch; resumable on any number of hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grain

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import images, sources
from owl2_jax.data.accounting import Accounting
from owl2_jax.data.batch import Batch, concatenate
from owl2_jax.data.config import DataConfig
from owl2_jax.data.encode import EncodedSource, Encoder
from owl2_jax.data.packing import Packed, PackedLane, RowLimits
from owl2_jax.data.templates import get_template
from owl2_jax.data.tokenizer import Tokenizer

# Batches made ahead of the step that takes them.
_PREFETCH = 4


def load_tokenizer(config: DataConfig) -> Tokenizer:
    """The tokenizer a config names. Raises `Owl2Error` when there is none."""
    if config.tokenizer == "embedded":
        return Tokenizer(sources.embedded.TOKENIZER)
    return Tokenizer(config.tokenizer)


class Pipeline:
    """An endless, deterministic stream of batches; iterate over it, save and restore its state.

    Args:
      config: what to read and in what shape.
      image_size: pixels of a picture's side.
      tokens_per_image: Q + 1.
      shard: (number, count), which part of the lanes this host reads; the
        batches it yields hold that part of the rows.
      quarantine: file that unusable records are written to.

    Raises:
      Owl2Error: an unknown name, a missing file, lanes that do not divide
        among the hosts.
    """

    def __init__(
        self,
        config: DataConfig,
        image_size: int,
        tokens_per_image: int,
        shard: tuple[int, int] = (0, 1),
        quarantine: Path | None = None,
    ) -> None:
        self._number, count = shard
        if config.lanes % count:
            raise Owl2Error(
                f"data.lanes {config.lanes} do not divide among {count} hosts; make lanes a multiple of {count}"
            )
        self._per_host = config.lanes // count
        self.accounting = Accounting(list(config.datasets), config.max_rejected_share, quarantine)
        mixture = build_mixture(config, image_size, tokens_per_image)
        limits = row_limits(config, image_size)
        first = self._number * self._per_host
        self._lanes = [
            iter(_prefetched(PackedLane(mixture, limits, config.window, lane, config.lanes)))
            for lane in range(first, first + self._per_host)
        ]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """This host's rows of the next batch. Raises `RejectedShareError`."""
        parts: list[Packed] = [next(lane) for lane in self._lanes]
        for part in parts:
            self.accounting.add(part.read, part.rejected)
        return concatenate([part.batch for part in parts])

    def get_state(self) -> dict[str, Any]:
        """State as JSON types; lanes are named by their number over all hosts."""
        first = self._number * self._per_host
        lanes = {str(first + i): lane.get_state() for i, lane in enumerate(self._lanes)}
        return {"lanes": lanes, "accounting": self.accounting.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues behind the batch that `get_state` followed. Raises `Owl2Error` for other lanes."""
        first = self._number * self._per_host
        for i, lane in enumerate(self._lanes):
            if str(first + i) not in state["lanes"]:
                raise Owl2Error(
                    f"the saved data state has lanes {sorted(state['lanes'], key=int)}, this host needs lane "
                    f"{first + i}; data.lanes must be what it was"
                )
            lane.set_state(state["lanes"][str(first + i)])
        self.accounting.set_state(state["accounting"])

    def close(self) -> None:
        """Stops the threads that make batches ahead."""
        for lane in self._lanes:
            lane.close()


def build_mixture(config: DataConfig, image_size: int, tokens_per_image: int) -> grain.MapDataset:
    """Every set shuffled anew in each epoch, mixed by weight: an endless dataset of samples."""
    if config.image_mode not in images.MODES:
        images.load(b"", config.image_mode, image_size)  # raises with the nearest names
    get_template(config.template)
    tokenizer = load_tokenizer(config)
    sets = []
    for number, dataset in enumerate(config.datasets.values()):
        encoder = Encoder(
            dataset=number,
            tokenizer=tokenizer,
            template=config.template,
            image_tag=config.image_tag,
            image_mode=config.image_mode,
            image_size=image_size,
            tokens_per_image=tokens_per_image,
            max_length=config.row_length,
            max_images=config.image_slots,
            max_targets=config.max_targets,
        )
        source = sources.make_source(dataset.kind, **dataset.options)
        encoded = EncodedSource(source, encoder, config.cache_samples)
        sets.append(grain.MapDataset.source(encoded).seed(config.seed + number).shuffle().repeat())
    weights = [dataset.weight for dataset in config.datasets.values()]
    return grain.MapDataset.mix(sets, weights)


def row_limits(config: DataConfig, image_size: int) -> RowLimits:
    """What the rows of one lane can hold."""
    return RowLimits(
        rows=config.rows // config.lanes,
        length=config.row_length,
        image_slots=config.image_slots,
        images=config.images // config.lanes,
        image_size=image_size,
        targets=config.max_targets,
        samples=0 if config.pack else 1,
    )


def _prefetched(lane: PackedLane) -> grain.IterDataset:
    return grain.experimental.ThreadPrefetchIterDataset(lane, prefetch_buffer_size=_PREFETCH)
