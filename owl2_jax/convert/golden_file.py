"""Golden files: what the original computed, as arguments of our model.

A file is an .npz with keys "<group>/<array>". A group with `input_ids` is a
case: ids with -200 where images go, `images` as the original takes them, and
results after expansion.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Final

import numpy as np

from owl2_jax.core.axes import IGNORE_LABEL, IMAGE_TOKEN
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_readable
from owl2_jax.core.large_objects import opened
from owl2_jax.core.text_files import what_was_downloaded
from owl2_jax.model.config import Owl2Config

# What reading a damaged archive raises.
_DAMAGE: Final = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RecursionError,
    RuntimeError, SyntaxError, TypeError, ValueError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_NOT_OPENED: Final = (FileNotFoundError, IsADirectoryError, PermissionError)
INPUTS: Final = ("input_ids", "images", "labels", "attention_mask", "pixel_values")
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """Arguments of `Owl2.__call__`, labels int32[B, T], and the true sizes before padding."""

    tokens: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    images: np.ndarray
    image_index: np.ndarray
    image_starts: np.ndarray
    labels: np.ndarray
    rows: int
    length: int

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """What the model's call takes, in its order."""
        return tuple(getattr(self, field.name) for field in fields(self)[:6])


def read_golden(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a golden file. Raises `Owl2Error`: missing, damaged, or something else than numbers."""
    try:
        with opened(path) as file:
            wrong = what_was_downloaded(file.read(512))
            if wrong:
                raise Owl2Error(f"golden file {path} is {wrong}")
            file.seek(0)
            with np.load(file) as archive:
                arrays = {name: archive[name] for name in archive.files}
    except _NOT_OPENED as error:
        raise Owl2Error(f"golden file {why_not_readable(path, error)}") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "pickle" in reason:  # numpy's words for what is no archive of its own, with unsafe advice
            reason = "it holds something else than arrays of numbers"
        raise Owl2Error(f"golden file {path} is no readable .npz: {reason}") from None
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
            kind = f"{values.dtype} values" if isinstance(values, np.ndarray) else "no array"
            raise Owl2Error(f"golden file {path}: {name} holds {kind}, expected numbers")
    return arrays


def read_case(arrays: Arrays, name: str, config: Owl2Config) -> Case:
    """Expands case `name`: each placeholder becomes Q + 1 positions, short rows are padded at the right.

    Raises:
      Owl2Error: its inputs are not in the file, or its images are of
        another size than the model's.
    """
    if f"{name}/input_ids" not in arrays:
        raise Owl2Error(f"the golden file has no {name}/input_ids, which its {name} results need")
    ids = arrays[f"{name}/input_ids"]
    labels = arrays.get(f"{name}/labels", np.full(ids.shape, IGNORE_LABEL))
    mask = arrays.get(f"{name}/attention_mask", np.ones(ids.shape, bool))
    _check_rows(ids, labels, mask, name, config)
    images, per_tag = _images(arrays.get(f"{name}/images"), name, config)
    rows, image = [], 0
    for row in zip(ids, labels, mask, strict=True):
        expanded = _expand(*row, config.tokens_per_image, per_tag, image)
        # A text-only row of the original takes one image and looks at none.
        image += max(1, len(expanded["index"]))
        rows.append(expanded)
    length, places = (max(len(row[key]) for row in rows) for key in ("tokens", "index"))
    case = Case(
        tokens=_stack(rows, "tokens", config.decoder.vocab_size, length),
        positions=np.tile(np.arange(length, dtype=np.int32), (len(rows), 1)),
        segment_ids=_stack(rows, "segments", 0, length),
        images=images,
        image_index=_stack(rows, "index", -1, places),
        image_starts=_stack(rows, "starts", 0, places),
        labels=_stack(rows, "labels", IGNORE_LABEL, length),
        rows=len(rows),
        length=length,
    )
    if len(images) <= case.image_index.max(initial=-1):
        raise Owl2Error(f"golden case {name} has more placeholders than images ({len(images)})")
    return case


def _check_rows(ids: np.ndarray, labels: np.ndarray, mask: np.ndarray, name: str, config: Owl2Config) -> None:
    """Raises `Owl2Error` when ids, labels and mask are no rows of a batch for the model."""
    for key, values in (("input_ids", ids), ("labels", labels), ("attention_mask", mask)):
        if values.ndim != 2 or 0 in ids.shape or values.shape != ids.shape or values.dtype.kind not in "biu":
            raise Owl2Error(
                f"golden {name}/{key} is {values.dtype}{list(values.shape)}, expected whole numbers in rows"
                + (f" as input_ids, {list(ids.shape)}" if key != "input_ids" else "")
            )
    vocabulary = config.decoder.vocab_size
    for key, values, other in (("input_ids", ids, IMAGE_TOKEN), ("labels", labels, IGNORE_LABEL)):
        wrong = values[(values != other) & ((values < 0) | (values >= vocabulary))]
        if wrong.size:
            raise Owl2Error(
                f"golden {name}/{key} has {wrong[0]}, the model's ids are 0 to {vocabulary - 1}; "
                "is the golden file of another model?"
            )


def check_pixels(pixels: np.ndarray, name: str, config: Owl2Config) -> None:
    """Raises `Owl2Error` when images [..., 3, H, W] are not of the model's size."""
    size = config.vision.image_size
    if pixels.ndim not in (4, 5) or pixels.shape[-3:] != (3, size, size):
        raise Owl2Error(
            f"golden {name} has shape {list(pixels.shape)}, the model takes images of {size} pixels; "
            "is the golden file of another model?"
        )


def _images(images: np.ndarray | None, name: str, config: Owl2Config) -> tuple[np.ndarray, int]:
    """Images float32[M, H, W, 3], and how many stand for one placeholder."""
    if images is None:
        size = config.vision.image_size
        return np.zeros((0, size, size, 3), np.float32), 1
    check_pixels(images, f"{name}/images", config)
    per_tag = images.shape[1] if images.ndim == 5 else 1
    flat = images.reshape(-1, *images.shape[-3:])
    return np.ascontiguousarray(flat.transpose(0, 2, 3, 1)), per_tag


def _expand(
    ids: np.ndarray, labels: np.ndarray, mask: np.ndarray, span: int, per_tag: int, image: int
) -> dict[str, np.ndarray]:
    """One row, where `image` is the first of its images."""
    repeats = np.where(ids == IMAGE_TOKEN, span * per_tag, 1)
    is_image = np.repeat(ids == IMAGE_TOKEN, repeats)
    firsts = np.flatnonzero(is_image)[::span]  # adjacent images are whole spans, too
    return {
        "tokens": np.where(is_image, 0, np.repeat(ids, repeats)),
        "labels": np.where(is_image, IGNORE_LABEL, np.repeat(labels, repeats)),
        "segments": np.where(is_image, 1, np.repeat(mask.astype(int), repeats)),
        "index": image + np.arange(len(firsts)),
        "starts": firsts,
    }


def _stack(rows: list[dict[str, np.ndarray]], key: str, fill: int, size: int) -> np.ndarray:
    padded = [np.pad(row[key], (0, size - len(row[key])), constant_values=fill) for row in rows]
    return np.stack(padded).astype(np.int32)


def pad_alike(cases: Mapping[str, Case], vocab_size: int) -> dict[str, Case]:
    """Pads all cases to the largest rows, length, places and images, so that one compilation serves all.

    What the original puts after a short row is a zero vector; id `vocab_size`
    embeds as one. Added rows and positions have segment 0.
    """
    rows = max(case.rows for case in cases.values())
    length = max(case.length for case in cases.values())
    places = max(1, *(case.image_index.shape[1] for case in cases.values()))
    images = max(1, *(len(case.images) for case in cases.values()))
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return {
        name: replace(
            case,
            tokens=_fill(case.tokens, vocab_size, rows, length),
            positions=positions,
            segment_ids=_fill(case.segment_ids, 0, rows, length),
            images=_fill(case.images, 0, images),
            image_index=_fill(case.image_index, -1, rows, places),
            image_starts=_fill(case.image_starts, 0, rows, places),
            labels=_fill(case.labels, IGNORE_LABEL, rows, length),
        )
        for name, case in cases.items()
    }


def _fill(values: np.ndarray, fill: int, *sizes: int) -> np.ndarray:
    widths = [(0, size - have) for size, have in zip(sizes, values.shape, strict=False)]
    return np.pad(values, widths + [(0, 0)] * (values.ndim - len(widths)), constant_values=fill)
