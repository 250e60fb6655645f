"""From sources to batches: mix, shuffle, encode, pack, prefetch; resumable on any number of hosts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_identity import identities
from owl2_jax.core.kept import keeps, kept
from owl2_jax.data.batch import Batch, concatenate
from owl2_jax.data.bucket_reads import of_host
from owl2_jax.data.config import DataConfig
from owl2_jax.data.encode import EncodedMixture, EncodedSet, Encoder
from owl2_jax.data.mixture import Mixture, round_shares
from owl2_jax.data.packing import RowLimits, empty_state
from owl2_jax.data.quarantine import Quarantine
from owl2_jax.data.read_ahead import waits_for_bucket
from owl2_jax.data.record_counts import RecordCounts
from owl2_jax.data.shards import ShardRunner, ShardSettings, check_workers
from owl2_jax.data.sources import registry
from owl2_jax.data.sources.embedded import TOKENIZER
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.data.tokenizers import open_tokenizer


def load_tokenizer(config: DataConfig) -> Tokenizer:
    """The tokenizer a config names. Raises `Owl2Error` when there is none."""
    if config.tokenizer == "embedded":
        return open_tokenizer(TOKENIZER)
    return open_tokenizer(config.tokenizer)


class Pipeline:
    """An endless, deterministic stream of batches; iterate over it, save and restore its state.

    Args:
      config: what to read and in what shape.
      image_size: pixels of an image's side.
      tokens_per_image: Q + 1.
      host: (number, count), which part of the shards this host reads; the
        batches it yields hold that part of the rows.
      quarantine: file that unusable records are written to; with several
        shards a file for each beside it, see `quarantine.Quarantine`.

    Attributes:
      counts: records read, unusable and cut so far, of this host's shards.

    Raises:
      Owl2Error: an unknown name, a missing file, shards that do not divide
        among hosts and workers.
    """

    def __init__(
        self,
        config: DataConfig,
        image_size: int,
        tokens_per_image: int,
        host: tuple[int, int] = (0, 1),
        quarantine: Path | None = None,
    ) -> None:
        number, count = host
        if config.shards % count:
            raise Owl2Error(
                f"data.shards {config.shards} do not divide among {count} hosts; "
                f"make shards a multiple of {count}"
            )
        per_host = config.shards // count
        self._config = config
        with of_host(number, count):
            self._mixture = open_mixture(config, image_size, tokens_per_image)
        self._settings = ShardSettings(
            samples=self._mixture.samples,
            limits=row_limits(config, image_size),
            window=config.window,
            num_shards=config.shards,
            prefetch=config.prefetch,
            read_ahead=any(waits_for_bucket(one.source) for one in self._mixture.sets),
        )
        check_workers(self._settings, per_host, config.workers)
        self._quarantine = Quarantine(quarantine, config.shards)
        self._where = str(quarantine or "the counts")
        self._begin({shard: empty_state() for shard in range(number * per_host, (number + 1) * per_host)})

    @property
    def files(self) -> dict[str, list[str]]:
        """{set: the files its records are in}."""
        return self._mixture.files

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """This host's rows of the next batch. Raises `RejectedShareError`."""
        if self._runner is None:
            self._start()
        assert self._runner is not None
        parts = self._runner.take()
        for part in parts:
            self._states[part.shard] = part.state
            self.counts.update(part.shard, part.state)
            self._quarantine.write(part.shard, part.rejected)
        self.counts.check()
        return concatenate([part.batch for part in parts])

    def get_state(self) -> dict[str, Any]:
        """Where this host's shards stand, as JSON types; `merge_states` joins those of all hosts."""
        return {
            "records": self._mixture.lengths,
            "shards": {str(shard): state for shard, state in self._states.items()},
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues after the batch that `get_state` followed, on any number of hosts and workers.

        Raises:
          Owl2Error: the state is of other shards, or the sets have changed in size.
        """
        check_lengths(state["records"], self._mixture.lengths)
        shards = _shards(state)
        missing = [shard for shard in self._states if str(shard) not in shards]
        if missing or len(shards) > self._config.shards:
            raise Owl2Error(
                f"the saved data state has shards {', '.join(sorted(shards, key=int))}; this host "
                f"needs {', '.join(map(str, self._states))} of {self._config.shards}: data.shards must be "
                "what it was, and the states of all hosts be merged"
            )
        self.close()
        self._begin({shard: shards[str(shard)] for shard in self._states})

    def close(self) -> None:
        """Ends the threads or processes that make batches ahead, and the files of unusable records."""
        self._quarantine.close()
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _begin(self, states: Mapping[int, Mapping[str, Any]]) -> None:
        self._states, self._runner = dict(states), None
        self.counts = RecordCounts(self._config.max_rejected_share, self._where)
        for shard, state in states.items():
            self.counts.update(shard, state)

    def _start(self) -> None:
        for shard, state in self._states.items():
            self._quarantine.rewind(shard, state["next"])
        self._runner = ShardRunner(self._settings, self._states, self._config.workers)


def _shards(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """{shard: its state}; older versions saved them as "lanes"."""
    return state["shards"] if "shards" in state else state["lanes"]


def merge_states(states: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Joins the states of all hosts after the same batch into one that any number of hosts resumes from."""
    merged: dict[str, Any] = {}
    for state in states:
        if merged:
            check_lengths(merged["records"], state["records"])
        merged = {"records": state["records"], "shards": {**merged.get("shards", {}), **_shards(state)}}
    return merged


def check_lengths(saved: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Raises `Owl2Error` when a set has more or fewer records than it had."""
    for name in {**saved, **found}:
        if saved.get(name) != found.get(name):
            raise Owl2Error(
                f"data.datasets.{name} had {saved.get(name, 'no')} records when the state was saved and has "
                f"{found.get(name, 'none')} now; resume with the same files, or start again"
            )


class OpenMixture:
    """The sets of a config, opened.

    Attributes:
      lengths: {set: records}.
      files: {set: the files its records are in}.
      shares: {set: records of it in a round of the mixture}.
      sets: the encoded sets, by number.
      addresses: endless dataset of where each sample comes from.
      samples: endless dataset of (sample or None, what was wrong or None).
    """

    def __init__(self, config: DataConfig, sets: list[EncodedSet]) -> None:
        names, chosen = list(config.datasets), list(config.datasets.values())
        lengths = [len(one.source) for one in sets]
        shares = round_shares(names, lengths, [d.weight for d in chosen], [d.epochs for d in chosen])
        self.lengths = dict(zip(names, lengths, strict=True))
        self.files = {name: one.source.files for name, one in zip(names, sets, strict=True)}
        self.shares = dict(zip(names, shares, strict=True))
        self.sets = sets
        self.addresses = Mixture(lengths, shares, config.seed)
        self.samples = self.addresses.map(EncodedMixture(sets))


def open_mixture(config: DataConfig, image_size: int, tokens_per_image: int) -> OpenMixture:
    """Opens the sources and mixes them. Raises `Owl2Error`."""
    tokenizer = load_tokenizer(config)
    images = _images_kept(config, image_size) if config.cache_samples else None
    sets = []
    for number, (name, dataset) in enumerate(config.datasets.items()):
        options = registry.read_as(dataset.kind, dataset.options, config.reading)
        source = registry.make_source(dataset.kind, **options)
        encoder = Encoder(config, number, tokenizer, image_size, tokens_per_image, images)
        seed = None if config.augment is None else config.seed
        samples = None
        if config.cache_samples:
            samples = _samples_kept(config, name, source.files, (number, image_size, tokens_per_image))
        sets.append(EncodedSet(name, number, source, encoder, samples, seed))
    return OpenMixture(config, sets)


def _images_kept(config: DataConfig, image_size: int) -> dict[str, Any]:
    """Decoded images by their keys; those of an earlier run of this process where it had the same."""
    sets = {name: (dataset.kind, dataset.options) for name, dataset in config.datasets.items()}
    how = (config.image_mode, config.augment, config.max_pixels, image_size)
    return kept(("images", repr(sets), repr(how)), dict)


def _samples_kept(
    config: DataConfig, name: str, files: Sequence[str], sizes: tuple[int, int, int]
) -> dict[int, Any]:
    """Encoded samples by record; those of an earlier run of this process where it encoded the same files.

    Args:
      sizes: the set's number, pixels of an image's side, tokens per image.
    """
    if not keeps():
        return {}
    alike = dataclasses.replace(
        config,
        datasets={name: dataclasses.replace(config.datasets[name], weight=1.0, epochs=None)},
        seed=config.seed if config.augment else 0,
    )
    return kept(("samples", repr(alike), repr(identities(files)), sizes), dict)


def row_limits(config: DataConfig, image_size: int) -> RowLimits:
    """What the rows of one shard can hold."""
    return RowLimits(
        rows=config.rows // config.shards,
        length=config.row_length,
        images_per_row=config.images_per_row,
        images=config.images // config.shards,
        image_size=image_size,
        targets=config.max_targets,
        samples=0 if config.pack else 1,
    )
