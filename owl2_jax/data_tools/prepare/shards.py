"""Files of a run: what a shard's records became, its final file, the manifest.

    WORK/                        hidden beside the output until all is done
      cleaned/coco/00017.*       cleaned records of the 18th shard, and a note on them
      coco/part-00017-of-00123.array_record
      coco/part-00017-of-00123.json        removed when the manifest is written
      rejected.jsonl
      manifest.json

A note is written after its file, both under another name first; a shard with a
note is done and is not made again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from owl2_jax.core import fields
from owl2_jax.core.buckets import StoreError
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import is_no_room
from owl2_jax.data.read_ahead import ahead, waits_for_bucket
from owl2_jax.data.sources.base import Source
from owl2_jax.data_tools.prepare import storage
from owl2_jax.data_tools.prepare.clean import Cleaned, clean
from owl2_jax.data_tools.prepare.settings import PrepareConfig
from owl2_jax.version import __version__

# Records are read one by one in shuffled order, and JPEG does not shrink.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READ_TOGETHER = 64


@dataclass(frozen=True, order=True)
class Shard:
    """Records `first` to `last` - 1 of a set."""

    dataset: str
    number: int
    count: int
    first: int
    last: int

    def cleaned(self, work: str) -> str:
        """Path of its checked records, below the folder of work."""
        return storage.join(work, "cleaned", self.dataset, f"{self.number:05d}.array_record")

    def final(self, work: str) -> str:
        """Path of the shard as it will be, below the folder of work."""
        return storage.join(work, self.dataset, f"{self.name}.array_record")

    @property
    def key(self) -> str:
        """Text that tells shards apart, for runners that group by it."""
        return f"{self.dataset}/{self.number}"

    @property
    def name(self) -> str:
        """Name of its file, without the ending."""
        return f"part-{self.number:05d}-of-{self.count:05d}"


def plan(dataset: str, records: int, per_shard: int) -> list[Shard]:
    """Cuts a set into shards. Raises `Owl2Error` for an empty one."""
    if not records:
        raise Owl2Error(f"the set {dataset} has no records; give it some or leave it out")
    count = -(-records // per_shard)
    return [
        Shard(dataset, number, count, number * per_shard, min((number + 1) * per_shard, records))
        for number in range(count)
    ]


def note_of(path: str) -> str:
    """The file of notes beside a shard."""
    return f"{path.removesuffix('.array_record')}.json"


# ---- cleaning ------------------------------------------------------------------


def clean_shard(shard: Shard, source: Source, config: PrepareConfig, work: str) -> dict[str, Any]:
    """Writes a shard's cleaned records; returns the note on them.

    Returns:
      {"rejected": [{"record", "id", "reason", "detail"}, ...],
       "usable": [{"record", "id", "exact", "words", "hashes"}, ...]}
    """
    path = shard.cleaned(work)
    if storage.exists(note_of(path)):
        return storage.read_json(note_of(path))
    note: dict[str, Any] = {"rejected": [], "usable": []}
    with storage.new_file(path) as partial:
        write_records(partial, _cleaned(shard, source, config, note))
    storage.write_json(note_of(path), note)
    return note


def _cleaned(shard: Shard, source: Source, config: PrepareConfig, note: dict[str, Any]) -> Iterator[bytes]:
    def outcome(record: int) -> tuple[int, str | None, Cleaned | Owl2Error]:
        identity = None
        try:
            example = source[record]
            identity = str(example["id"])
            return record, identity, clean(example, shard.dataset, config)
        except StoreError:
            raise
        except Owl2Error as error:
            return record, identity, error

    records = range(shard.first, shard.last)
    outcomes = ahead(outcome, records) if waits_for_bucket(source) else map(outcome, records)
    for record, identity, done in outcomes:
        if isinstance(done, Owl2Error):
            reason = getattr(done, "reason", "invalid")
            note["rejected"].append({"record": record, "id": identity, "reason": reason, "detail": str(done)})
            continue
        note["usable"].append({"record": record, "id": identity, **_keys(done)})
        yield done.record


def _keys(done: Cleaned) -> dict[str, Any]:
    return {"exact": done.exact, "words": done.words, "hashes": [value.hex() for value in done.hashes]}


# ---- finishing -----------------------------------------------------------------


def finish_shard(shard: Shard, removed: Mapping[int, Mapping[str, Any]], work: str) -> dict[str, Any]:
    """Writes the final file without the removed records; returns the note on it.

    Args:
      removed: {record: {"reason", "detail"}} of duplicates.

    Returns:
      {"file", "records", "bytes", "sha256", "read", "rejected": [...]}
    """
    final, cleaned = shard.final(work), shard.cleaned(work)
    if storage.exists(note_of(final)):
        return storage.read_json(note_of(final))
    note = storage.read_json(note_of(cleaned))
    keep = [item["record"] not in removed for item in note["usable"]]
    # Where the cleaned file is gone, it was moved into place before an interruption.
    if storage.exists(cleaned):
        if all(keep):
            storage.move(cleaned, final)
        else:
            with storage.local_copy(cleaned) as copy, storage.new_file(final) as partial:
                write_records(partial, itertools.compress(read_records(copy), keep))
    doubled = [
        {"record": item["record"], "id": item["id"], **removed[item["record"]]}
        for item, kept in zip(note["usable"], keep, strict=True)
        if not kept
    ]
    done = {
        "file": f"{shard.dataset}/{shard.name}.array_record",
        "records": sum(keep),
        "read": shard.last - shard.first,
        **checksum(final),
        "rejected": sorted([*note["rejected"], *doubled], key=lambda item: item["record"]),
    }
    storage.write_json(note_of(final), done)
    storage.remove(cleaned)
    return done


def checksum(path: str) -> dict[str, Any]:
    """{"bytes", "sha256"} of a file."""
    digest, size = hashlib.sha256(), 0
    with storage.local_copy(path) as copy, open(copy, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def write_records(path: str, records: Iterable[bytes]) -> None:
    """Raises `Owl2Error` when the disk is full."""
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        writer = ArrayRecordWriter(path, _WRITER_OPTIONS)
        try:
            for record in records:
                writer.write(record)
        finally:
            writer.close()
    except RuntimeError as error:
        if not is_no_room(error):
            raise
        raise Owl2Error(f"no space left while writing {path}; make room and run it again") from error


def read_records(path: str) -> Iterator[bytes]:
    """The records of a file, in order; a few at a time, so that memory does not grow with it."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(path)
    try:
        count = reader.num_records()
        for start in range(0, count, _READ_TOGETHER):
            yield from reader.read(list(range(start, min(start + _READ_TOGETHER, count))))
    finally:
        reader.close()


# ---- the whole -----------------------------------------------------------------


def manifest(
    config: PrepareConfig, fingerprint: str, descriptions: Mapping[str, str], notes: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """What the output holds; equal for equal input, so it carries no dates and no places."""
    sets: dict[str, Any] = {}
    for note in sorted(notes, key=lambda note: note["file"]):
        name = note["file"].partition("/")[0]
        about = sets.setdefault(
            name,
            {"source": descriptions[name], "read": 0, "records": 0, "bytes": 0, "rejected": {}, "shards": []},
        )
        for key in ("read", "records", "bytes"):
            about[key] += note[key]
        for item in note["rejected"]:
            about["rejected"][item["reason"]] = about["rejected"].get(item["reason"], 0) + 1
        about["shards"].append({key: note[key] for key in ("file", "records", "bytes", "sha256")})
    for about in sets.values():
        about["rejected"] = dict(sorted(about["rejected"].items()))
    return {
        "format": 1,
        "version": __version__,
        "fingerprint": fingerprint,
        "config": fields.to_dict(config),
        "sets": dict(sorted(sets.items())),
    }


def rejected_lines(notes: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every record that was left out, in order of sets and records."""
    for note in sorted(notes, key=lambda note: note["file"]):
        dataset = note["file"].partition("/")[0]
        for item in note["rejected"]:
            yield {"dataset": dataset, **item}


def damage(folder: str, found: Mapping[str, Any]) -> list[str]:
    """Files of a manifest that are missing or of another size."""
    problems = []
    for about in found["sets"].values():
        for shard in about["shards"]:
            path = storage.join(folder, shard["file"])
            if not storage.exists(path):
                problems.append(f"{shard['file']} is missing")
            elif storage.size(path) != shard["bytes"]:
                problems.append(f"{shard['file']} has {storage.size(path)} of {shard['bytes']} bytes")
    return problems
