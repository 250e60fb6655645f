"""What the builders hand to the writer, and the files it makes of it.

The corpus is a folder:

    manifest.json                      counts, checksums, seed and package versions
    pictures.array_record              record i is the PNG file of image i
    <dataset>-<split>.array_record     a record is a block of up to `BLOCK` examples,
                                       one JSON object per line:
                                       {"kind", "question", "answer", "image"}
    tokenizer.model                    SentencePiece model
    NOTICE                             sources and licences

Examples are stored in blocks because an ArrayRecord file costs about 130
bytes per record, twice the text of a question. An image is stored once,
however many examples show it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

BLOCK = 1024
IMAGES = "pictures.array_record"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Record:
    """One example; `image` is an index into the images, None for text only."""

    kind: str
    question: str
    answer: str
    image: int | None = None

    def shifted(self, offset: int) -> Record:
        """The same example with its image counted from `offset`."""
        return self if self.image is None else replace(self, image=self.image + offset)

    def line(self) -> str:
        """The example as one line of JSON."""
        fields = {
            "kind": self.kind, "question": self.question, "answer": self.answer, "picture": self.image,
        }  # fmt: skip
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def write_images(folder: Path, images: Sequence[bytes]) -> dict:
    """Writes the images file; returns its manifest entry."""
    path = folder / IMAGES
    # PNG data is compressed already.
    _write(path, images, "group_size:1,uncompressed")
    return {"file": path.name, "count": len(images), "sha256": sha256(path)}


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
