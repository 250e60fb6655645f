from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.checkpoint.output_directory import new_directory, write_all
from owl2_jax.core.errors import Owl2Error


def test_directory_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    with new_directory(output) as directory:
        (directory / "file").write_text("content")
        assert not output.exists()
        assert directory.parent == output.parent
    assert (output / "file").read_text() == "content"
    assert [p.name for p in output.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda p: p.symlink_to("nowhere")])
def test_existing_output_is_refused_and_untouched(tmp_path: Path, make) -> None:
    output = tmp_path / "out"
    make(output)
    with pytest.raises(Owl2Error, match="exists; choose another name"), new_directory(output):
        pytest.fail("the block must not start")
    assert list(tmp_path.iterdir()) == [output]


def fail_inside(output: Path, error: BaseException) -> None:
    with new_directory(output) as directory:
        (directory / "file").touch()
        raise error


def test_failed_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_inside(tmp_path / "out", KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError('RESOURCE_EXHAUSTED: Error writing "x": [OS error 28: ENOSPC No space left on device]'),
    ],
)
def test_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(Owl2Error, match=r"no space left while writing .*out; nothing was kept"):
        fail_inside(tmp_path / "out", error)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path) -> None:
    message = r"needs 1000000000\.00 GB, the disk has"
    with pytest.raises(Owl2Error, match=message), new_directory(tmp_path / "out", needed_bytes=10**18):
        pytest.fail("the block must not start")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_other_kinds_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="something else"):
        fail_inside(tmp_path / "out", ValueError("something else"))
    with pytest.raises(Owl2Error, match="cannot write"):
        fail_inside(tmp_path / "out", PermissionError(errno.EACCES, "Permission denied"))


@pytest.mark.parametrize("size", [0, 3, 100_000])
def test_all_bytes_of_an_array_are_written(tmp_path: Path, size: int) -> None:
    values = np.arange(size * 8, dtype=np.float64).reshape(2, -1).T  # not contiguous
    with (tmp_path / "file").open("wb", buffering=0) as file:
        write_all(file, values)
    assert (tmp_path / "file").read_bytes() == values.tobytes()
