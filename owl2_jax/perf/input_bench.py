"""How fast a config's data comes: per core beside a bare Pillow loop, and by number of workers."""

from __future__ import annotations

import dataclasses
import io
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from owl2_jax.data import images
from owl2_jax.data.config import DataConfig
from owl2_jax.data.packing import Shard
from owl2_jax.data.pipeline import OpenMixture, Pipeline, open_mixture, row_limits

# Turns of the pipeline and the bare loops follow each other, so that a busy moment hits all of them.
_TURNS = 8


def bench_data(
    config: DataConfig,
    image_size: int,
    tokens_per_image: int,
    count: int = 400,
    batches: int = 30,
    workers: Sequence[int] = (),
    step_seconds: float = 0.0,
) -> dict[str, Any]:
    """Times the input pipeline of a config.

    "share_of_bare" is the rate of images that one core reads, tokenises, fits
    and packs, over the rate at which it decodes and fits the same files in a
    loop of Pillow calls; in processor time, so that other programs do not
    count. "stretched" is a loop that fits by a plain resize, whatever the mode.

    Args:
      count: images read in one thread for the shares; 0 leaves them out.
      batches: taken for the rates of the whole pipeline.
      workers: numbers of worker processes to try; the config's own by default.
      step_seconds: rest after each batch, in the place of a training step;
        "data_wait" is then the share of the time that is spent waiting for data.

    Returns:
      One report: numbers, with the unit in their names, and lists of rows.

    Raises:
      Owl2Error: as `Pipeline`, before anything is timed.
    """
    tried = [dataclasses.replace(config, workers=count) for count in workers or (config.workers,)]
    for each in tried:
        Pipeline(each, image_size, tokens_per_image)  # refuses what cannot run before anything is timed
    report: dict[str, Any] = {}
    if count and config.images_per_row:
        report |= _core(config, image_size, tokens_per_image, count)
    report["pipeline"] = [_whole(each, image_size, tokens_per_image, batches, step_seconds) for each in tried]
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return report


def _core(config: DataConfig, image_size: int, tokens_per_image: int, count: int) -> dict[str, Any]:
    """Rates of one core, in processor time."""
    mixture = open_mixture(dataclasses.replace(config, cache_samples=False), image_size, tokens_per_image)
    shard = iter(Shard(mixture.samples, row_limits(config, image_size), config.window, 0, config.shards))
    files = _files(mixture, max(1, count // _TURNS))
    next(shard)
    seconds: dict[str, list[float]] = {"pipeline": [], "bare": [], "stretched": []}
    for _ in range(_TURNS):
        seconds["pipeline"].append(_pipeline_turn(shard, len(files)))
        seconds["bare"].append(_timed(lambda: _fit_all(files, config.image_mode, image_size)) / len(files))
        seconds["stretched"].append(_timed(lambda: _stretch_all(files, image_size)) / len(files))
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "images_per_core_second": 1 / middle["pipeline"],
        "bare_images_per_core_second": 1 / middle["bare"],
        "stretched_images_per_core_second": 1 / middle["stretched"],
        "share_of_bare": middle["bare"] / middle["pipeline"],
        "share_of_stretched": middle["stretched"] / middle["pipeline"],
    }


def _pipeline_turn(shard: Iterator[object], count: int) -> float:
    """Processor seconds per image over at least so many images."""
    start, taken = time.process_time(), 0
    while taken < count:
        taken += next(shard).batch.num_images
    return (time.process_time() - start) / taken


def _files(mixture: OpenMixture, count: int) -> list[bytes]:
    """Image files of the mixture, in memory; those that cannot be used are left out, as in training."""
    sources = (
        image
        for address in map(mixture.addresses.__getitem__, range(10 * count + 100))
        for image in mixture.sets[address.dataset].source[address.record]["images"]
    )
    return list(islice(filter(None, map(_usable, sources)), count))


def _usable(source: Any) -> bytes | None:
    """The image as a file that bare Pillow calls read too; None for frames of videos, and damaged files."""
    if not isinstance(source, bytes | str):
        return None
    try:
        data = source if isinstance(source, bytes) else images.read_file(source)
        images.decode(data)
        Image.open(io.BytesIO(data)).convert("RGB")
    except Exception:  # bare Pillow raises many types
        return None
    return data


def _fit_all(files: Sequence[bytes], mode: str, size: int) -> None:
    """What someone would write who needs these pixels and nothing else."""
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if mode == "pad":
            edge = max(image.size)
            canvas = Image.new("RGB", (edge, edge), images.PAD_COLOUR)
            canvas.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
            image = canvas
        np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _stretch_all(files: Sequence[bytes], size: int) -> None:
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _timed(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _whole(
    config: DataConfig, image_size: int, tokens_per_image: int, batches: int, step_seconds: float
) -> dict[str, Any]:
    """Rates of the whole pipeline in wall time, once its workers have started."""
    start = time.perf_counter()
    pipeline = Pipeline(config, image_size, tokens_per_image)
    try:
        next(pipeline)
        first = time.perf_counter() - start
        # What was made ahead while the workers started must not count.
        for _ in range(config.prefetch + 1):
            next(pipeline)
        start, waited, taken = time.perf_counter(), 0.0, []
        for _ in range(batches):
            asked = time.perf_counter()
            taken.append(next(pipeline))
            waited += time.perf_counter() - asked
            time.sleep(step_seconds)
        seconds = time.perf_counter() - start
    finally:
        pipeline.close()
    return {
        "workers": config.workers,
        "first_batch_s": first,
        "batches_per_second": batches / seconds,
        "samples_per_second": sum(batch.num_samples for batch in taken) / seconds,
        "images_per_second": sum(batch.num_images for batch in taken) / seconds,
        "tokens_per_second": sum(batch.num_tokens for batch in taken) / seconds,
        "data_wait": waited / seconds,
        "packing_efficiency": float(np.mean([batch.efficiency for batch in taken])),
    }
