"""Remote files, by a file system that keeps what is called fake:// in a local folder."""

from __future__ import annotations

import os

import pytest
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem

from owl2_jax.data_tools.prepare import shards, storage


@pytest.fixture
def remote(tmp_path, monkeypatch):
    root = tmp_path / "remote"
    root.mkdir()

    class FakeFileSystem(LocalFileSystem):
        @classmethod
        def scheme(cls):
            return "fake"

        def _local(self, path):
            return str(root / path.removeprefix("fake://"))

        def join(self, base, *parts):
            return "/".join([base.rstrip("/"), *parts])

        def split(self, path):
            return tuple(path.rsplit("/", 1))

        def exists(self, path):
            return super().exists(self._local(path))

        def create(self, path, *args, **options):
            os.makedirs(os.path.dirname(self._local(path)), exist_ok=True)
            return super().create(self._local(path), *args, **options)

        def open(self, path, *args, **options):
            return super().open(self._local(path), *args, **options)

        def rename(self, sources, targets):
            super().rename(list(map(self._local, sources)), list(map(self._local, targets)))

        def delete(self, paths):
            super().delete(list(map(self._local, paths)))

        def match(self, patterns, limits=None):
            found = super().match(list(map(self._local, patterns)), limits)
            for result, pattern in zip(found, patterns, strict=True):
                result.metadata_list = [FileMetadata(pattern, m.size_in_bytes) for m in result.metadata_list]
            return found

    yield root
    # Beam finds file systems among the subclasses that exist.
    FakeFileSystem.scheme = classmethod(lambda cls: "gone")


def test_files_go_through_a_temporary_copy(remote):
    path = "fake://bucket/set/part.array_record"
    with storage.new_file(path) as partial:
        assert "fake" not in partial
        shards.write_records(partial, [b"one", b"two"])
        assert not storage.exists(path)
    assert storage.size(path) == (remote / "bucket/set/part.array_record").stat().st_size
    with storage.local_copy(path) as copy:
        assert list(shards.read_records(copy)) == [b"one", b"two"]
    assert shards.checksum(path)["bytes"] == storage.size(path)


def test_a_file_whose_writing_fails_never_appears(remote, tmp_path):
    for path in ("fake://bucket/a.json", str(tmp_path / "a.json")):
        with pytest.raises(TypeError):
            storage.write_json(path, {"x": object()})
        assert not storage.exists(path)
    assert not list(tmp_path.glob("*.tmp"))


def test_json_moving_and_removing(remote, tmp_path):
    for folder in ("fake://bucket", str(tmp_path)):
        path = storage.join(folder, "a.json")
        storage.write_json(path, {"x": ["ü"]})
        assert storage.read_json(path) == {"x": ["ü"]}
        moved = storage.join(folder, "b.json")
        storage.move(path, moved)
        assert not storage.exists(path)
        assert storage.split(moved) == (folder, "b.json")
        storage.remove(moved)
        storage.remove(moved)
        assert not storage.exists(moved)
