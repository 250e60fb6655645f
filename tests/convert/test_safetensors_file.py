from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from owl2_jax.convert.safetensors_file import SafetensorsReader, SafetensorsWriter, TensorSpec
from owl2_jax.core.errors import Owl2Error
from tests.convert.checkpoints import bits

VALUES = {
    "a.float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.float16": np.arange(5, dtype=np.float16),
    "c.bfloat16": np.linspace(-1, 1, 8).astype(ml_dtypes.bfloat16).reshape(4, 1, 2),
    "d.int64": np.arange(3),
    "e.empty": np.zeros((0, 4), np.float32),
    "f.scalar": np.asarray(7.0, np.float32),
}


def write(path: Path) -> Path:
    writer = SafetensorsWriter(path, {name: TensorSpec(v.shape, v.dtype) for name, v in VALUES.items()})
    for name in reversed(VALUES):  # any order will do
        writer.write(name, VALUES[name])
    return path


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    loaded = load_file(write(tmp_path / "x.safetensors"))
    assert loaded.keys() == VALUES.keys()
    for name, tensor in loaded.items():
        assert tuple(tensor.shape) == VALUES[name].shape
        assert str(tensor.dtype).removeprefix("torch.") == VALUES[name].dtype.name
        assert bits(tensor) == bits(VALUES[name])
    with safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {"x": torch.randn(3, 4).bfloat16(), "y": torch.arange(4), "z": torch.randn(2).half()}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"note": "kept out of the tensors"})
    reader = SafetensorsReader(tmp_path / "x.safetensors")
    assert reader.specs.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert reader.read(name).shape == tuple(tensor.shape)
        assert bits(reader.read(name)) == bits(tensor)


def test_data_is_aligned(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors")
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_values_of_another_shape_are_refused(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path / "x", {"a": TensorSpec((2,), np.dtype(np.float32))})
    with pytest.raises(ValueError, match="announced"):
        writer.write("a", np.zeros(3, np.float32))


def header(entry: Any) -> bytes:
    return with_length(json.dumps({"t": entry}).encode())


def with_length(raw: bytes) -> bytes:
    return len(raw).to_bytes(8, "little") + raw


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = [
    (b"", "is empty; copy the file again"),
    (b"123", "no whole safetensors file"),
    (b"\xff" * 16, "no whole safetensors file"),
    (b"\x04" + b"\0" * 7 + b"{{{{", "header is damaged"),
    (b"\x02" + b"\0" * 7 + b"[]", "header is damaged"),
    (header(GOOD) + b"\0" * 7, "is truncated: .* bytes found"),
    (header(GOOD) + b"\0" * 9, "longer than its header says"),
    (header({**GOOD, "dtype": "F8"}), "has dtype F8; readable are"),
    (header({**GOOD, "shape": [3]}) + b"\0" * 8, "has 8 bytes, F32 .3. needs 12"),
    (header({**GOOD, "shape": [-2]}) + b"\0" * 8, "entry of 't' is damaged"),
    (header({**GOOD, "shape": [2.5]}) + b"\0" * 8, "entry of 't' is damaged"),
    (header({**GOOD, "shape": [True, 2]}) + b"\0" * 8, "entry of 't' is damaged"),
    (header({**GOOD, "shape": ["2"]}) + b"\0" * 8, "entry of 't' is damaged"),
    (header({**GOOD, "dtype": ["F32"]}) + b"\0" * 8, "entry of 't' is damaged"),
    (header({**GOOD, "data_offsets": [0, 8, 9]}) + b"\0" * 8, "entry of 't' is damaged"),
    (header({**GOOD, "data_offsets": [4, 12]}) + b"\0" * 12, "bytes 0 to 4 of the data belong to no tensor"),
    (header([]), "entry of 't' is damaged"),
    (with_length(b'{"t": {}, "t": {}}'), "header is damaged: .*'t'"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs pointer.*git lfs pull"),
    (b"<!DOCTYPE html><html>no such file</html>", "a web page; the download"),
    (header({"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}), "entry of 't' is damaged"),
    (header({"dtype": "F32"}), "entry of 't' is damaged"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(Owl2Error, match=message):
        SafetensorsReader(tmp_path / "x.safetensors")


def test_tensors_that_share_bytes_are_named(tmp_path: Path) -> None:
    first = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    for second in ({**first}, {**first, "data_offsets": [4, 12]}, {**first, "shape": [1, 2]}):
        raw = json.dumps({"__metadata__": {"format": "pt"}, "first": first, "second": second}).encode()
        (tmp_path / "x.safetensors").write_bytes(with_length(raw) + b"\0" * second["data_offsets"][1])
        with pytest.raises(Owl2Error, match=r"'first' and 'second' share bytes .* save the file again"):
            SafetensorsReader(tmp_path / "x.safetensors")


def test_a_header_nested_100_000_deep_is_one_line(tmp_path: Path) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        raw = b'{"t":' + opening * 100_000 + b"0" * (opening != b"[") + closing * 100_000 + b"}"
        (tmp_path / "x.safetensors").write_bytes(with_length(raw))
        with pytest.raises(Owl2Error, match="header is damaged: it is nested too deep"):
            SafetensorsReader(tmp_path / "x.safetensors")


def test_a_folder_and_a_missing_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(Owl2Error, match=r"x\.safetensors is a folder, expected a file"):
        SafetensorsReader(tmp_path / "x.safetensors")
    with pytest.raises(Owl2Error, match=r"y\.safetensors is missing; there is x\.safetensors"):
        SafetensorsReader(tmp_path / "y.safetensors")


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors")
    reader = SafetensorsReader(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(Owl2Error, match="truncated"):
        reader.read("a.float32")
