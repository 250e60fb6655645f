from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from owl2_jax.core import large_objects
from owl2_jax.core.errors import Owl2Error

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(large_objects, "_PIECE", 1000)


@pytest.mark.parametrize(("offset", "count"), [(0, 10240), (3, 1000), (3, 1001), (10000, 240), (5, 1)])
def test_any_part_of_an_object_is_read_in_pieces_into_memory_of_its_own(any_bucket, tmp_path, offset, count):
    for folder in (any_bucket, tmp_path):
        (folder / "a.bin").write_bytes(CONTENT)
        found = large_objects.read_at(folder / "a.bin", offset, count)
        assert found.tobytes() == CONTENT[offset : offset + count]
        found[0] = 0


def test_an_object_that_ends_before_gives_what_is_there(any_bucket):
    (any_bucket / "a.bin").write_bytes(CONTENT)
    assert large_objects.read_at(any_bucket / "a.bin", 10000, 4000).tobytes() == CONTENT[10000:]
    assert large_objects.size_of(any_bucket / "a.bin") == 10240


def test_an_opened_object_is_read_from_any_place(any_bucket):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner", CONTENT)
    (any_bucket / "a.zip").write_bytes(packed.getvalue())
    with large_objects.opened(any_bucket / "a.zip") as file:
        assert zipfile.is_zipfile(file)
        with zipfile.ZipFile(file) as archive:
            assert archive.read("inner") == CONTENT


def test_what_is_written_from_begin_to_end_is_there_at_the_end(any_bucket):
    with large_objects.written(any_bucket / "a.bin") as file:
        file.write(CONTENT)
        file.write(np.arange(700, dtype="<f4"))
        assert not (any_bucket / "a.bin").exists()
    assert (any_bucket / "a.bin").read_bytes() == CONTENT + np.arange(700, dtype="<f4").tobytes()


def write_and_fail(path) -> None:
    with large_objects.written(path) as file:
        file.write(CONTENT)
        raise ZeroDivisionError


def test_an_object_whose_writing_fails_never_appears(any_bucket):
    with pytest.raises(ZeroDivisionError):
        write_and_fail(any_bucket / "a.bin")
    assert not (any_bucket / "a.bin").exists()


def test_what_is_not_there_is_told(bucket, tmp_path):
    for action in (
        large_objects.opened,
        large_objects.size_of,
        lambda path: large_objects.read_at(path, 0, 5),
    ):
        with pytest.raises(Owl2Error, match=r"none.bin is not there"):
            action(bucket / "none.bin")
        with pytest.raises(FileNotFoundError):
            action(tmp_path / "none.bin")
