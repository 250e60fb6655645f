from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from owl2_jax.checkpoint.array_reader import restore_params
from owl2_jax.checkpoint.array_store import StreamedLeaf, write_params
from owl2_jax.core.tree import flatten

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def example(dtype=np.float32) -> dict:
    values = np.arange(48).reshape(4, 4, 3).astype(dtype)
    return {"block": {"layers": {"kernel": values}}, "table": np.arange(8).astype(dtype)}


def assert_equal_trees(actual, expected) -> None:
    actual, expected = flatten(actual), flatten(expected)
    assert actual.keys() == expected.keys()
    for name, leaf in expected.items():
        assert actual[name].dtype == leaf.dtype, name
        np.testing.assert_array_equal(np.asarray(actual[name]), np.asarray(leaf), err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_keeps_bytes_and_dtype(tmp_path: Path, dtype) -> None:
    write_params(tmp_path / "params", example(dtype))
    assert_equal_trees(restore_params(tmp_path / "params"), example(dtype))


def test_what_is_written_is_an_ordinary_orbax_checkpoint(tmp_path: Path) -> None:
    write_params(tmp_path / "params", example())
    restored = ocp.PyTreeCheckpointer().restore(tmp_path / "params")
    assert_equal_trees(restored, example())


def test_a_streamed_leaf_is_written_one_layer_after_the_other(tmp_path: Path) -> None:
    alive = []

    def blocks() -> Iterator[np.ndarray]:
        for layer in range(5):
            alive.append(layer)
            yield np.full((1, 2, 3), layer, np.float32)

    leaf = StreamedLeaf((5, 2, 3), np.dtype(np.float32), blocks, stacked=True)
    write_params(tmp_path / "params", {"layers": {"kernel": leaf}})
    assert alive == [0, 1, 2, 3, 4]
    stored = restore_params(tmp_path / "params")["layers"]["kernel"]
    np.testing.assert_array_equal(stored[:, 0, 0], range(5))
    chunks = json.loads((tmp_path / "params" / "layers.kernel" / ".zarray").read_text())["chunks"]
    assert chunks == [1, 2, 3]


def test_zeros_are_written_too_so_that_a_missing_chunk_means_damage(tmp_path: Path) -> None:
    write_params(tmp_path / "params", {"bias": np.zeros(3, np.float32)})
    assert (tmp_path / "params" / "bias" / "0").stat().st_size == 12


@pytest.mark.parametrize(
    "block", [np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float64), np.zeros((2, 2), np.float32)]
)
def test_a_block_that_is_not_what_was_announced(tmp_path: Path, block: np.ndarray) -> None:
    leaf = StreamedLeaf((2, 2), np.dtype(np.float32), lambda: iter([block]), stacked=True)
    with pytest.raises(ValueError, match="expected"):
        write_params(tmp_path / "params", {"layers": {"kernel": leaf}})
