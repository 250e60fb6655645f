"""Golden models and cases of the original implementation, as inputs of ours."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from owl2_jax.convert.golden_pages import PagedRows
from owl2_jax.convert.to_flax import load_hf_params
from owl2_jax.core.axes import IGNORE_LABEL, IMAGE_TOKEN
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import PagedBatch

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = ("A", "B")
FORWARD_CASES = ("i", "ii", "ii_5d", "ii_edge", "iii", "iv", "iv2", "v", "v_rev")

# Written once: the original differs from itself by 1.6e-5 between thread counts.
ATOL, RTOL = 5e-5, 1e-4
TRAIN_ATOL, TRAIN_LOSS_ATOL = 2e-3, 1e-4


def assert_close(actual: Any, expected: Any, name: str = "") -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, atol=ATOL, rtol=RTOL, err_msg=name)


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of `Owl2.__call__` and the labels of one golden case."""

    tokens: np.ndarray
    positions: np.ndarray
    segment_ids: np.ndarray
    images: np.ndarray
    image_index: np.ndarray
    image_starts: np.ndarray
    labels: np.ndarray

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        return (
            self.tokens, self.positions, self.segment_ids, self.images, self.image_index, self.image_starts,
        )  # fmt: skip


@functools.cache
def load(model: str) -> tuple[Owl2Config, dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    """(config, params, arrays, meta) of a golden model."""
    folder = GOLDEN / model
    config, params = load_hf_params(folder / "hf")
    with np.load(folder / "golden.npz") as file:
        arrays = dict(file)
    return config, params, arrays, json.loads((folder / "meta.json").read_text())


def case(model: str, name: str) -> Case:
    """Expands a golden case: placeholders become Q + 1 positions, rows are padded at the right."""
    config, _, arrays, _ = load(model)
    ids = arrays[f"{name}/input_ids"]
    labels = arrays.get(f"{name}/labels", np.full_like(ids, IGNORE_LABEL))
    mask = arrays.get(f"{name}/attention_mask", np.ones_like(ids, bool))
    images = arrays.get(f"{name}/images")
    images_per_tag = 1
    if images is None:
        images = np.zeros((0, 3, config.vision.image_size, config.vision.image_size), np.float32)
    if images.ndim == 5:  # several images in one placeholder
        images_per_tag, images = images.shape[1], images[0]
    rows, used = [], 0
    for row_ids, row_labels, row_mask in zip(ids, labels, mask, strict=True):
        row = _expand_row(row_ids, row_labels, row_mask, config.tokens_per_image, images_per_tag, used)
        used += max(len(row["index"]), 1)  # the original's text-only samples consume a dummy image
        rows.append(row)
    length = max(len(row["tokens"]) for row in rows)
    slots = max(len(row["index"]) for row in rows)

    def stack(key: str, fill: int, size: int) -> np.ndarray:
        padded = [np.pad(row[key], (0, size - len(row[key])), constant_values=fill) for row in rows]
        return np.stack(padded).astype(np.int32)

    return Case(
        # What the original fills in after a short row is a zero vector, no token: an id of V.
        tokens=stack("tokens", config.decoder.vocab_size, length),
        positions=np.tile(np.arange(length, dtype=np.int32), (len(rows), 1)),
        segment_ids=stack("segments", 0, length),
        images=np.ascontiguousarray(images.transpose(0, 2, 3, 1)),
        image_index=stack("index", -1, slots),
        image_starts=stack("starts", 0, slots),
        labels=stack("labels", IGNORE_LABEL, length),
    )


def padded(inputs: Case, config: Owl2Config, rows: int = 2, length: int = 48, slots: int = 3) -> Case:
    """The case with empty rows, positions and slots added, so that all cases share one compilation."""

    def pad(x: np.ndarray, fill: int, *sizes: int) -> np.ndarray:
        widths = [(0, size - have) for size, have in zip(sizes, x.shape, strict=False)]
        return np.pad(x, widths + [(0, 0)] * (x.ndim - len(widths)), constant_values=fill)

    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    positions[: len(inputs.positions), : inputs.positions.shape[1]] = inputs.positions
    return Case(
        tokens=pad(inputs.tokens, config.decoder.vocab_size, rows, length),
        positions=positions,
        segment_ids=pad(inputs.segment_ids, 0, rows, length),
        images=pad(inputs.images, 0, slots),
        image_index=pad(inputs.image_index, -1, rows, slots),
        image_starts=pad(inputs.image_starts, 0, rows, slots),
        labels=pad(inputs.labels, IGNORE_LABEL, rows, length),
    )


@functools.cache
def apply(config: Owl2Config, method: Callable[..., Any], sow: bool = False) -> Callable[..., Any]:
    """Jitted `Owl2(config).apply(variables, *args, method=method)`, with intermediates on request."""
    mutable = ["intermediates"] if sow else False
    return jax.jit(functools.partial(Owl2(config).apply, method=method, mutable=mutable))


def run_over_pages(
    config: Owl2Config, params: dict[str, Any], inputs: Case, sow: bool = False
) -> tuple[Any, Any, PagedRows, PagedBatch]:
    """A case as a flat batch: what `Owl2.step` returns, in pages with room for three more tokens of each row.

    With `sow`, (states, intermediates) are returned in the states' place.
    """
    rows = PagedRows(inputs.segment_ids, room=3)
    variables = {"params": params}
    features = np.zeros((1, config.tokens_per_image, config.decoder.width), np.float32)
    if len(inputs.images):
        features = apply(config, Owl2.encode_images)(variables, inputs.images)
    tokens, of_features, batch = rows.prompts(
        inputs.tokens, inputs.image_index, inputs.image_starts, config.tokens_per_image
    )
    found = apply(config, Owl2.step, sow)(
        variables, tokens, features, of_features, rows.empty_pages(config), batch
    )
    if sow:
        (hidden, pages), seen = found
        return (hidden, seen["intermediates"]), pages, rows, batch
    return *found, rows, batch


def _expand_row(
    ids: np.ndarray, labels: np.ndarray, mask: np.ndarray, span: int, images_per_tag: int, first: int
) -> dict[str, np.ndarray]:
    tokens, expanded, segments, index, starts = [], [], [], [], []
    for token, label, real in zip(ids, labels, mask, strict=True):
        if token != IMAGE_TOKEN:
            tokens.append(token), expanded.append(label), segments.append(int(real))
            continue
        for _ in range(images_per_tag):
            index.append(first + len(index))
            starts.append(len(tokens))
            tokens += [0] * span
            expanded += [IGNORE_LABEL] * span
            segments += [1] * span
    values = {
        "tokens": tokens, "labels": expanded, "segments": segments, "index": index, "starts": starts,
    }  # fmt: skip
    return {key: np.asarray(value, np.int32) for key, value in values.items()}
