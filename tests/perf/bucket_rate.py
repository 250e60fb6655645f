"""How fast data of a bucket comes beside the same data on a disk, each answer of the store being late.

    python -m tests.perf.bucket_rate --delay 0.02 --turns 5

The store runs in a process of its own. Turns of the disk and the bucket follow each other, so
that a busy moment hits both; the ratio is the middle one of the turns'.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import statistics
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from owl2_jax.core.buckets import upload_folder
from owl2_jax.core.paths import as_path
from owl2_jax.data.config import DatasetConfig
from owl2_jax.data.sources.arrayrecord import encode_example
from owl2_jax.data.sources.base import Style
from owl2_jax.perf.input_bench import bench_data
from tests import bucket_server
from tests.data import corpora
from tests.data.sources import test_arrayrecord, test_webdataset

RECORDS, IMAGE_SIZE, TOKENS_PER_IMAGE = 160, 448, 65


def serve(pipe: Connection, delay: float) -> None:
    """A store until the other end says something."""
    with bucket_server.started() as server:
        server.delay = delay
        pipe.send(server.environment)
        pipe.recv()


def write_sets(folder: Path) -> None:
    """The same images as files of LLaVA dialogues, as WebDataset and as ArrayRecord shards."""
    rng, examples, members, dialogues = np.random.default_rng(0), [], [], []
    for number in range(RECORDS):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
        (folder / f"{number}.jpg").write_bytes(file.getvalue())
        dialogues.append(corpora.dialogue(str(number), "words", [f"{number}.jpg"]))
        members += [(f"{number:09d}.jpg", file.getvalue()), (f"{number:09d}.txt", b"words")]
        examples.append(Style("d").example(str(number), "What?", "It.", [file.getvalue()]))
    corpora.write_set(folder, "data", dialogues)
    test_webdataset.write(folder / "0.tar", members)
    test_arrayrecord.write(folder / "0.array_record", map(encode_example, examples))


def sets_of(folder: object) -> dict[str, DatasetConfig]:
    return {
        "images": DatasetConfig("llava", {"path": f"{folder}/data.json"}),
        "webdataset": DatasetConfig("webdataset", {"paths": f"{folder}/0.tar", "dataset": "d"}),
        "arrayrecord": DatasetConfig("arrayrecord", {"paths": f"{folder}/0.array_record"}),
    }


def rate(dataset: DatasetConfig, batches: int) -> float:
    """Images per second of the whole pipeline, as `owl2 bench data` tells them."""
    config = corpora.config({"x": dataset}, rows=8, row_length=512, images_per_row=4, images=16)
    report = bench_data(config, IMAGE_SIZE, TOKENS_PER_IMAGE, count=0, batches=batches)
    return report["pipeline"][0]["images_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=0.02, help="seconds that each answer is late")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20)
    args = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    store = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, args.delay))
    store.start()
    os.environ.update(ours.recv())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OWL2_DATA_CACHE"] = f"{folder}/cache"
        here, there = Path(folder, "set"), as_path(f"gs://{bucket_server.BUCKET}/set")
        here.mkdir()
        write_sets(here)
        upload_folder(here, there)
        for name in sets_of(here):
            rates = [
                (rate(sets_of(here)[name], args.batches), rate(sets_of(there)[name], args.batches))
                for _ in range(args.turns)
            ]
            ratio = statistics.median(bucket / disk for disk, bucket in rates)
            disk, bucket = (statistics.median(column) for column in zip(*rates, strict=True))
            print(
                f"{name}: {disk:.0f} images/s of the disk, {bucket:.0f} of the bucket, {ratio:.2f} of it",
                flush=True,
            )
    ours.send("end")
    store.join()


if __name__ == "__main__":
    main()
