from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from owl2_jax.checkpoint import array_store
from owl2_jax.checkpoint.array_reader import ParamsReader, restore_params
from owl2_jax.checkpoint.array_store import StreamedLeaf, longest_axis, piece_length, pieces, write_params
from owl2_jax.core.errors import Owl2Error
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


@pytest.mark.parametrize("shape", [(4, 10), (10, 4), (10, 2, 2)])
def test_a_large_array_is_stored_in_pieces_along_its_longest_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(array_store, "PIECE_BYTES", 64)
    values, axis = np.arange(40, dtype=np.float32).reshape(shape), longest_axis(shape)
    cut = np.split(values, [3, 8], axis)  # what makes them cuts them as it likes
    leaf = StreamedLeaf(shape, values.dtype, lambda: iter(cut), stacked=False)
    write_params(tmp_path / "params", {"head": leaf})
    folder = tmp_path / "params" / "head"
    chunks = json.loads((folder / ".zarray").read_text())["chunks"]
    assert chunks == [4 if number == axis else size for number, size in enumerate(shape)]
    names = [".".join(str(piece * (number == axis)) for number in range(len(shape))) for piece in range(3)]
    assert [(folder / name).stat().st_size for name in names] == [64] * 3
    np.testing.assert_array_equal(restore_params(tmp_path / "params")["head"], values)
    restored = ocp.PyTreeCheckpointer().restore(tmp_path / "params")["head"]
    np.testing.assert_array_equal(restored, values)
    read = list(ParamsReader(tmp_path / "params").blocks("head"))
    assert [block.shape[axis] for block in read] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(read, axis), values)


@pytest.mark.parametrize("cuts", [[], [1], [7], [2, 4, 6, 8], [3, 4, 9]])
def test_pieces_are_of_one_length_however_the_blocks_were_cut(cuts: list[int]) -> None:
    values = np.arange(30).reshape(3, 10)
    found = list(pieces(np.split(values, cuts, 1), 1, 4))
    assert [piece.shape for piece in found] == [(3, 4), (3, 4), (3, 2)]
    np.testing.assert_array_equal(np.concatenate(found, 1), values)


def test_embedding_and_head_of_the_full_models_are_the_arrays_that_are_cut() -> None:
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    assert piece_length((151_936, 4096), bfloat16) == piece_length((4096, 32_000), bfloat16) == 4096
    assert piece_length((1024, 4096), bfloat16) == 4096  # the projection of the abstractor
    assert piece_length((), bfloat16) == piece_length((1,), bfloat16) == 1


def test_zeros_are_written_too_so_that_a_missing_chunk_means_damage(tmp_path: Path) -> None:
    write_params(tmp_path / "params", {"bias": np.zeros(3, np.float32)})
    assert (tmp_path / "params" / "bias" / "0").stat().st_size == 12


@pytest.mark.parametrize("lengths", [[2], [2, 2], []])
def test_blocks_that_are_too_few_or_too_many(tmp_path: Path, lengths: list[int]) -> None:
    blocks = [np.zeros((length, 2), np.float32) for length in lengths]
    leaf = StreamedLeaf((3, 2), np.dtype(np.float32), lambda: iter(blocks), stacked=False)
    with pytest.raises(ValueError, match="expected"):
        write_params(tmp_path / "params", {"head": leaf})


@pytest.mark.parametrize(
    "block", [np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float64), np.zeros((2, 2), np.float32)]
)
def test_a_block_that_is_not_what_was_announced(tmp_path: Path, block: np.ndarray) -> None:
    leaf = StreamedLeaf((2, 2), np.dtype(np.float32), lambda: iter([block]), stacked=True)
    with pytest.raises(ValueError, match="expected"):
        write_params(tmp_path / "params", {"layers": {"kernel": leaf}})


def test_what_tensorstore_refuses_in_a_bucket_is_one_line(bucket, bucket_server):
    write_params(bucket / "good", example())
    bucket_server.fail = lambda method, path: 403 if ".zarray" in path else None
    with pytest.raises(Owl2Error, match="the bucket's store refuses: PERMISSION_DENIED") as caught:
        write_params(bucket / "params", example())
    assert "\n" not in str(caught.value)
