"""Small sets in LLaVA's format on disk, and configs that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from owl2_jax.data.config import DataConfig, DatasetConfig

# The shape of the tiny model's images in the decoder.
IMAGE_SIZE, TOKENS_PER_IMAGE = 28, 5


def dialogue(identity: str, answer: str, images: list[str], question: str = "What is it?") -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>" * len(images) + question}, {"from": "gpt", "value": answer}]
    return {"id": identity, **({"image": images} if images else {}), "conversations": turns}


def write_images(folder: Path, count: int) -> list[str]:
    """Writes images of different shapes; returns their names."""
    rng, names = np.random.default_rng(0), []
    for number in range(count):
        width, height = rng.integers(8, 40, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        names.append(f"{number}.png")
        Image.fromarray(pixels).save(folder / names[-1])
    return names


def write_set(folder: Path, name: str, records: list[Any]) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records))
    return path


def mixed_sets(folder: Path, records: int = 60) -> dict[str, DatasetConfig]:
    """One set with 0, 1 or 2 images a record and one of text alone; answers tell records apart."""
    names = write_images(folder, 12)
    rng = np.random.default_rng(1)
    imaged = [
        dialogue(
            f"p{i}",
            f"answer {i} " + "word " * int(rng.integers(0, 8)),
            [names[(i + j) % len(names)] for j in range(i % 3)],
        )
        for i in range(records)
    ]
    text = [dialogue(f"t{i}", f"text {i} " + "more " * int(rng.integers(0, 20)), []) for i in range(records)]
    return {
        "imaged": llava(write_set(folder, "imaged", imaged), weight=2.0),
        "text": llava(write_set(folder, "text", text)),
    }


def llava(path: Path, **settings: Any) -> DatasetConfig:
    return DatasetConfig("llava", {"path": str(path)}, **settings)


def config(datasets: dict[str, DatasetConfig], **changes: Any) -> DataConfig:
    """Rows of the tiny model."""
    values = {"rows": 8, "row_length": 96, "images_per_row": 3, "images": 16, "window": 8}
    return DataConfig(datasets=datasets, **{**values, **changes})
