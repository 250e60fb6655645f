"""What the builders hand to the writer, and the files it makes of it.

The corpus is a folder:

    manifest.json                      counts, checksums, seed and package versions
    pictures.array_record              record i is the PNG file of picture i
    <dataset>-<split>.array_record     a record is a block of up to `BLOCK` examples,
                                       one JSON object per line:
                                       {"kind", "question", "answer", "picture"}
    tokenizer.model                    SentencePiece model
    NOTICE                             sources and licences

Examples are stored in blocks because an ArrayRecord file costs about 130
bytes per record, twice the text of a question. A picture is stored once,
however many examples show it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

BLOCK = 1024
PICTURES = "pictures.array_record"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Record:
    """One example; `picture` is an index into the pictures, None for text only."""

    kind: str
    question: str
    answer: str
    picture: int | None = None

    def shifted(self, offset: int) -> Record:
        """The same example with its picture counted from `offset`."""
        return self if self.picture is None else replace(self, picture=self.picture + offset)

    def line(self) -> str:
        """The example as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))


def write_pictures(folder: Path, pictures: Sequence[bytes]) -> dict:
    """Writes the pictures file; returns its manifest entry."""
    path = folder / PICTURES
    # PNG data is compressed already.
    _write(path, pictures, "group_size:1,uncompressed")
    return {"file": path.name, "count": len(pictures), "sha256": sha256(path)}


def write_split(folder: Path, dataset: str, split: str, records: Sequence[Record]) -> dict:
    """Writes one split; returns its manifest entry."""
    path = folder / f"{dataset}-{split}.array_record"
    blocks = (
        "\n".join(record.line() for record in records[start : start + BLOCK]).encode()
        for start in range(0, len(records), BLOCK)
    )
    _write(path, blocks, "group_size:1,brotli:9")
    kinds = dict(sorted(Counter(record.kind for record in records).items()))
    return {"file": path.name, "count": len(records), "kinds": kinds, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, records: Iterable[bytes], options: str) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
