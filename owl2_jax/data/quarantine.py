"""Files of unusable records: one JSON line each, with source and reason.

A record is written down in the first epoch of its set; later epochs meet it
again and only count it. Every shard has its own file, `rejected.jsonl` where
there is one shard and `rejected-00003.jsonl` otherwise, so hosts never write to
the same one. A line carries its place in the shard's order; a run that goes back
to a checkpoint takes back the lines of the records it will read again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from owl2_jax.core.append_file import AppendFile, close_or_warn, json_line, read_whole_lines, write_lines
from owl2_jax.core.paths import in_bucket
from owl2_jax.data.encode import Rejected


class Quarantine:
    """Writes the rejects of a host's shards.

    Args:
      path: the file of the only shard; None writes nothing.
      num_shards: shards over all hosts.
    """

    def __init__(self, path: Path | None, num_shards: int) -> None:
        self._path, self._num_shards = path, num_shards
        self._objects: dict[int, AppendFile] = {}  # of a bucket, where lines may have to wait for the store

    def file(self, shard: int) -> Path | None:
        """The file of a shard, whether it exists or not."""
        if self._path is None or self._num_shards == 1:
            return self._path
        return self._path.with_name(f"{self._path.stem}-{shard:05d}{self._path.suffix}")

    def rewind(self, shard: int, place: int) -> None:
        """Takes back the lines of records at `place` of the shard's order and after it."""
        file = self.file(shard)
        if shard in self._objects:
            self._objects.pop(shard).close()
        if file is None or not file.is_file():
            return
        kept = [line for line in read_whole_lines(file) if line["place"] < place]
        write_lines(file, kept)

    def write(self, shard: int, rejected: Iterable[tuple[int, Rejected]]) -> None:
        """Writes down (place in the shard's order, record) of a set's first epoch. Raises `Owl2Error`."""
        file = self.file(shard)
        lines = [
            json_line({**asdict(item), "shard": shard, "place": place})
            for place, item in rejected
            if item.epoch == 0
        ]
        if file is None or not lines:
            return
        if in_bucket(file):
            if shard not in self._objects:
                self._objects[shard] = AppendFile(file)
            self._objects[shard].write("".join(lines))
            self._objects[shard].flush()
            return
        with AppendFile(file) as out:
            out.write("".join(lines))

    def close(self) -> None:
        """Writes what waits for a bucket's store, or says what is missing there."""
        for file in self._objects.values():
            close_or_warn(file.close)
        self._objects.clear()
