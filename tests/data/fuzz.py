"""Mutated images and records through the encoder: each becomes a sample, or is counted with a reason.

python -m tests.data.fuzz --records 10000
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from owl2_jax.data.config import DatasetConfig
from owl2_jax.data.pipeline import open_mixture
from owl2_jax.data.reasons import REASONS
from tests.data import corpora

_NEWLINE = 0x0A


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Changed, cut, doubled or inserted bytes; never a new line."""
    result = bytearray(data)
    where = int(rng.integers(len(result)))
    kind = rng.integers(5)
    if kind == 0:
        for place in rng.integers(0, len(result), rng.integers(1, 20)):
            result[place] = rng.integers(256)
    elif kind == 1:
        del result[where:]
    elif kind == 2:
        del result[where : where + int(rng.integers(1, 30))]
    elif kind == 3:
        result[where:where] = rng.bytes(int(rng.integers(1, 30)))
    else:
        result[where:where] = result[: int(rng.integers(1, 200))]
    return bytes(result)


_VALUES = (
    None,
    True,
    0,
    -1,
    1e308,
    "",
    "<image>",
    "<|image|>",
    "\ud800",
    "a" * 3000,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
)


def restructured(node: Any, rng: np.random.Generator) -> Any:
    """A JSON value in which one part has been replaced, removed or doubled; it stays JSON."""
    if isinstance(node, dict | list) and node and rng.integers(4):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key, result = keys[rng.integers(len(keys))], copy.copy(node)
        kind = rng.integers(6)
        if kind == 0:
            del result[key]
        elif kind == 1 and isinstance(result, list):
            result.append(result[key])
        else:
            result[key] = restructured(result[key], rng)
        return result
    return _VALUES[rng.integers(len(_VALUES))]


def originals() -> list[bytes]:
    """An image in every common format and colour mode."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (33, 47, 3), dtype=np.uint8))
    kinds = [(image, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")]
    kinds += [(image.convert(mode), "PNG") for mode in ("P", "RGBA", "L", "LA", "1")]
    files = []
    for one, kind in [*kinds, (image.convert("CMYK"), "JPEG")]:
        stream = io.BytesIO()
        one.save(stream, kind)
        files.append(stream.getvalue())
    return files


def image_set(folder: Path, count: int, seed: int = 0) -> DatasetConfig:
    """Whole records, each with a mutated image of its own."""
    rng, files, records = np.random.default_rng(seed), originals(), []
    for number in range(count):
        (folder / f"{number}.img").write_bytes(mutated(files[number % len(files)], rng))
        records.append(corpora.dialogue(f"{number}", "yes", [f"{number}.img"]))
    return corpora.llava(corpora.write_set(folder, "images", records))


def record_set(folder: Path, count: int, seed: int = 0) -> DatasetConfig:
    """JSON lines with mutated bytes, and others with mutated structure; the images are whole."""
    rng, names = np.random.default_rng(seed), corpora.write_images(folder, 3)
    lines = []
    for number in range(count):
        record = corpora.dialogue(f"{number}", f"answer {number} é 你", [names[number % 3]] * (number % 3))
        if number % 2:
            line = json.dumps(restructured(record, rng)).encode()
        else:
            whole = json.dumps(record, ensure_ascii=bool(number % 4)).encode()
            line = mutated(whole, rng).replace(bytes([_NEWLINE]), b" ")
        # An empty line is no record at all.
        lines.append(line if line.strip() else b"{")
    (folder / "records.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return corpora.llava(folder / "records.jsonl")


def run(dataset: DatasetConfig) -> tuple[Counter[str], float]:
    """({"usable" or reason: records}, seconds of the slowest record)."""
    config = corpora.config({"fuzz": dataset}, max_pixels=10**7)
    records = open_mixture(config, corpora.IMAGE_SIZE, corpora.TOKENS_PER_IMAGE).sets[0]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for record in range(len(records.source)):
        start = time.perf_counter()
        sample, note = records.get(record, 0)
        slowest = max(slowest, time.perf_counter() - start)
        assert (sample is None) != (note is None)
        assert note is None or note.reason in REASONS
        outcomes["usable" if note is None else note.reason] += 1
    return outcomes, slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for make in (image_set, record_set):
        with tempfile.TemporaryDirectory() as folder:
            outcomes, slowest = run(make(Path(folder), args.records, args.seed))
        print(f"{make.__name__}: {outcomes.total()} records, slowest {slowest:.2f} s: {dict(outcomes)}")


if __name__ == "__main__":
    main()
