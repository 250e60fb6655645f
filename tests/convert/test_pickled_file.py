from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from owl2_jax.convert.pickled_file import PickledReader
from owl2_jax.core.errors import Owl2Error
from tests.convert.checkpoints import bits


def state() -> dict[str, torch.Tensor]:
    """Every kind of tensor that a checkpoint may hold."""
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    return {
        "plain": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "bfloat16": torch.randn(2, 3).bfloat16(),
        "double": torch.randn(2).double(),
        "long": torch.arange(7),
        "bool": torch.tensor([True, False]),
        "transposed": torch.randn(3, 5).T,
        "strided": base[1:5:2, ::3],
        "shared": base[2],
        "expanded": torch.randn(1, 4).expand(3, 4),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_every_kind_of_tensor_is_read_exactly(tmp_path: Path, zipped: bool, kind: type) -> None:
    expected = state()
    torch.save(kind(expected), tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    reader = PickledReader(tmp_path / "w.bin")
    assert reader.specs.keys() == expected.keys()
    for name, tensor in expected.items():
        values = reader.read(name)
        assert values.shape == tuple(tensor.shape) == reader.specs[name].shape, name
        assert values.dtype == reader.specs[name].dtype
        assert bits(values) == bits(tensor.detach()), name


def test_a_modules_state_with_its_metadata_is_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "w.bin")
    reader = PickledReader(tmp_path / "w.bin")
    np.testing.assert_array_equal(reader.read("0.weight"), module[0].weight.detach().numpy())
    assert reader.specs["1.num_batches_tracked"].shape == ()


class Runs:
    """Pickles to a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


MALICIOUS = [
    (os.system, "touch {marker}"),
    (eval, "open('{marker}', 'w')"),
    (exec, "open('{marker}', 'w')"),
    (getattr, "x"),
    (torch.load, "{marker}"),
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("function", "argument"), MALICIOUS)
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, function, argument, zipped: bool) -> None:
    marker = tmp_path / "marker"
    evil = Runs(function, argument.format(marker=marker))
    for number, value in enumerate(({"w": torch.zeros(2), "x": evil}, {"w": [evil]}, evil)):
        path = tmp_path / f"{number}.bin"
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(Owl2Error, match=r"is refused: it asks for .*which weights do not need"):
            PickledReader(path)
    assert not marker.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "w.bin").write_bytes(pickle.dumps(Runs(os.system, f"touch {marker}")))
    with pytest.raises(Owl2Error, match="is refused"):
        PickledReader(tmp_path / "w.bin")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([torch.zeros(2)], "holds a list, not names and tensors"),
        ({"model": {"w": torch.zeros(2)}}, "entry 'model' is a dict, not a tensor"),
        ({"w": torch.zeros(2), "epoch": 3}, "entry 'epoch' is a number, not a tensor"),
        ({3: torch.zeros(2)}, "an entry is named 3, which is no text"),
    ],
)
def test_only_a_flat_mapping_of_tensors_is_taken(tmp_path: Path, value: Any, message: str) -> None:
    torch.save(value, tmp_path / "w.bin")
    with pytest.raises(Owl2Error, match=message):
        PickledReader(tmp_path / "w.bin")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9])
def test_truncated_files(tmp_path: Path, zipped: bool, share: float) -> None:
    path = tmp_path / "w.bin"
    torch.save({"w": torch.randn(1000)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(Owl2Error, match=r"no whole PyTorch weight file|is refused|truncated|is empty"):
        PickledReader(path).read("w")


DEEP = 300_000
NESTED = {
    "a key": b"})" + b"\x85" * DEEP + b"K\x01s.",
    "a value": b"}K\x01)" + b"\x85" * DEEP + b"s.",
    "tuples of many": b"(" * DEEP + b"t" * DEEP + b".",
    "lists made tuples": b"]" + b"q\x010ctorch\nSize\nq\x000" + b"h\x00](h\x01e\x85Rq\x010" * 200 + b"h\x01.",
}


@pytest.mark.parametrize("kind", NESTED)
def test_values_nested_without_an_end_are_refused_before_they_are_built(tmp_path: Path, kind: str) -> None:
    """As a key, one would end the process: its hash goes down without a bound."""
    path = tmp_path / "w.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02" + NESTED[kind])
    with pytest.raises(Owl2Error, match="is refused: its values are nested more than 100 deep"):
        PickledReader(path)
    path.write_bytes(b"\x80\x02" + NESTED[kind])
    with pytest.raises(Owl2Error, match="is refused: its values are nested more than 100 deep"):
        PickledReader(path)


def test_an_empty_file_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "w.bin").touch()
    with pytest.raises(Owl2Error, match=r"w\.bin is empty; copy the file again"):
        PickledReader(tmp_path / "w.bin")


def rebuild(path: Path, change) -> None:
    """Writes the zip archive again with changed records."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    compression = change(records)
    with zipfile.ZipFile(path, "w", compression or zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def test_archives_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    cases = [
        (lambda r: r.clear(), "zip archive without data.pkl"),
        (lambda r: r.update({next(n for n in r if n.endswith("byteorder")): b"big"}), "big-endian"),
        (lambda r: zipfile.ZIP_DEFLATED, "storages are compressed"),
    ]
    for change, message in cases:
        torch.save({"w": torch.zeros(100)}, path)
        rebuild(path, change)
        with pytest.raises(Owl2Error, match=message):
            PickledReader(path)


def tensor_pickle(offset: int, shape: tuple, strides: tuple) -> bytes:
    """A state dict whose one tensor is described freely; its storage has four values."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if value == "STORAGE" else None

    buffer = io.BytesIO()
    rebuilt = Runs(torch._utils._rebuild_tensor_v2, "STORAGE", offset, shape, strides, False, {})
    Pickler(buffer, 2).dump({"w": rebuilt})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "message"),
    [
        (1, (4,), (1,), "reaches beyond its storage"),
        (0, (2, 2), (4, 1), "reaches beyond its storage"),
        (-1, (2,), (1,), "impossible strides"),
        (2, (2,), (-1,), "impossible strides"),
        (0, (2, 2), (1,), "impossible strides"),
    ],
)
def test_tensors_that_reach_outside_their_storage(tmp_path, offset, shape, strides, message) -> None:
    path = tmp_path / "w.bin"
    torch.save({"w": torch.zeros(4)}, path)

    def change(records: dict) -> None:
        records[next(n for n in records if n.endswith("data.pkl"))] = tensor_pickle(offset, shape, strides)

    rebuild(path, change)
    with pytest.raises(Owl2Error, match=message):
        PickledReader(path)


def test_training_checkpoint_names_the_entry_with_the_weights(tmp_path: Path) -> None:
    saved = {"epoch": 3, "state_dict": {"a": torch.zeros(2)}, "optimizer": {"lr": 0.1}}
    torch.save(saved, tmp_path / "w.bin")
    with pytest.raises(Owl2Error, match="'epoch' is a number, not a tensor; its entry 'state_dict' holds"):
        PickledReader(tmp_path / "w.bin")


def test_a_nested_entry_of_an_older_file_is_one_line(tmp_path: Path) -> None:
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    deep = b")" + b"\x85" * 90
    for entry in (deep + b"K\x01", b"X\x01\0\0\0a" + deep):
        (tmp_path / "w.bin").write_bytes(head + b"\x80\x02}(" + entry + b"u." + pickle.dumps([], 2))
        with pytest.raises(
            Owl2Error, match=r"is refused: (entry .* not a tensor|an entry is named \(.*, which is no text)$"
        ) as error:
            PickledReader(tmp_path / "w.bin")
        assert len(str(error.value)) < 300


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.bin").mkdir()
    with pytest.raises(Owl2Error, match=r"w\.bin is a folder, expected a file"):
        PickledReader(tmp_path / "w.bin")
    with pytest.raises(Owl2Error, match=r"v\.bin is missing"):
        PickledReader(tmp_path / "v.bin")
