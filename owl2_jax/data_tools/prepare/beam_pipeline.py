"""The Beam pipeline over all shards; the same for every runner.

    shards -> clean ---------------------------------> finish -> notes
                  \\-> keys -> equal -> alike -> removed -/

Images travel nowhere but through files: what is shuffled are keys of a
hundred bytes a record.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from owl2_jax.data.sources import registry
from owl2_jax.data.sources.base import Source
from owl2_jax.data_tools.prepare import deduplication, shards
from owl2_jax.data_tools.prepare.settings import PrepareConfig
from owl2_jax.data_tools.prepare.shards import Shard

# Images of a band are compared with at most so many earlier ones of it.
MOST_COMPARED = 2000


@dataclass(frozen=True, order=True)
class Keyed:
    """A usable record as the search for duplicates sees it; `order` decides which one stays."""

    order: int
    shard: str
    dataset: str
    text: str
    hashes: tuple[bytes, ...]


Removal = tuple[str, tuple[int, str, int]]  # key of the shard, (record, reason, the record that stays)


def build(
    pipeline: beam.Pipeline, plan: Sequence[Shard], config: PrepareConfig, work: str
) -> beam.PCollection:
    """Adds all steps to a pipeline; returns the notes on the finished shards."""
    planned = pipeline | "shards" >> beam.Create(list(plan)) | "spread" >> beam.Reshuffle()
    cleaned = planned | "clean" >> beam.ParDo(_Clean(config, work)).with_outputs("keys", main="done")
    equal = (
        cleaned.keys
        | "group equal" >> beam.GroupByKey()
        | "first of equal" >> beam.ParDo(_FirstOfEqual()).with_outputs("kept", main="removed")
    )
    alike = (
        equal.kept
        | "bands" >> beam.FlatMap(functools.partial(_bands, config=config))
        | "group bands" >> beam.GroupByKey()
        | "compare" >> beam.FlatMap(functools.partial(_alike, most_bits=config.near_bits))
    )
    removed = (equal.removed, alike) | "all removed" >> beam.Flatten()
    return (
        {"done": cleaned.done, "removed": removed}
        | "by shard" >> beam.CoGroupByKey()
        | "finish" >> beam.Map(functools.partial(_finish, work=work))
    )


class _Clean(beam.DoFn):
    """Cleans a shard; yields it when done, and the keys of its records."""

    def __init__(self, config: PrepareConfig, work: str) -> None:
        self._config, self._work = config, work
        self._sources: dict[str, Source] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_sources": {}}

    def process(self, shard: Shard) -> Iterator[Any]:
        note = shards.clean_shard(shard, self._source(shard.dataset), self._config, self._work)
        mode = self._config.datasets[shard.dataset].duplicates
        if mode != "keep":
            for item in note["usable"]:
                yield beam.pvalue.TaggedOutput("keys", _key(shard, item, mode))
        yield shard.key, shard

    def _source(self, dataset: str) -> Source:
        if dataset not in self._sources:
            one = self._config.datasets[dataset]
            self._sources[dataset] = registry.make_source(one.kind, **one.options)
        return self._sources[dataset]


def _key(shard: Shard, item: Mapping[str, Any], mode: str) -> tuple[str, Keyed]:
    """(what equal records share, the record)."""
    hashes = tuple(bytes.fromhex(value) for value in item["hashes"])
    if mode == "exact":
        return f"{shard.dataset} {item['exact']}", Keyed(item["record"], shard.key, shard.dataset, "", ())
    text = item["words"] if mode == "near" or not hashes else ""
    shared = " ".join([shard.dataset, text, *item["hashes"]])
    return shared, Keyed(item["record"], shard.key, shard.dataset, text, hashes)


class _FirstOfEqual(beam.DoFn):
    """Keeps the first of records that share a key."""

    def process(self, group: tuple[str, Iterable[Keyed]]) -> Iterator[Any]:
        first, *others = sorted(group[1])
        yield beam.pvalue.TaggedOutput("kept", first)
        for other in others:
            yield other.shard, (other.order, "duplicate", first.order)


def _bands(record: Keyed, config: PrepareConfig) -> Iterator[tuple[str, Keyed]]:
    """The record under each band of its first image's hash."""
    if record.hashes:
        about = f"{record.dataset} {record.text} {len(record.hashes)}"
        for number, band in enumerate(deduplication.bands(record.hashes[0], config.near_bits + 1)):
            yield f"{about} {number} {band}", record


def _alike(group: tuple[str, Iterable[Keyed]], most_bits: int) -> Iterator[Removal]:
    """Removes every record whose images look like those of an earlier one."""
    records = sorted(group[1])
    for number, record in enumerate(records[1:], start=1):
        earlier = records[: min(number, MOST_COMPARED)]
        close = deduplication.distances(record.hashes[0], [one.hashes[0] for one in earlier]) <= most_bits
        for place in close.nonzero()[0]:
            pairs = zip(record.hashes, earlier[place].hashes, strict=True)
            if all(deduplication.distance(*pair) <= most_bits for pair in pairs):
                yield record.shard, (record.order, "near_duplicate", earlier[place].order)
                break


def _finish(group: tuple[str, Mapping[str, Iterable[Any]]], work: str) -> dict[str, Any]:
    found = group[1]
    shard = next(iter(found["done"]))
    removed: dict[int, dict[str, Any]] = {}
    # A record may be found in several bands; the earliest it is like stays named.
    for record, reason, kept in sorted(found["removed"]):
        removed.setdefault(record, {"reason": reason, "detail": f"like record {kept} of {shard.dataset}"})
    return shards.finish_shard(shard, removed, work)
