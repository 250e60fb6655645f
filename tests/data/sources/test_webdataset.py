from __future__ import annotations

import io
import json
import pickle
import tarfile

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources import webdataset
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.webdataset import WebDatasetSource
from tests.data.sources.pictures import picture


def members(first, count):
    """What img2dataset writes for each sample: picture, caption, metadata."""
    for i in range(first, first + count):
        meta = {"key": f"{i:09d}", "caption": f"caption {i}", "status": "success", "width": 4, "height": 4}
        yield f"{i:09d}.jpg", picture(i, "JPEG")
        yield f"{i:09d}.json", json.dumps(meta).encode()
        yield f"{i:09d}.txt", f"caption {i}".encode()


def write(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_samples_of_all_shards_are_read(tmp_path):
    write(tmp_path / "00000.tar", members(0, 4))
    write(tmp_path / "00001.tar", members(4, 3))
    source = WebDatasetSource(str(tmp_path / "{00000..00001}.tar"), dataset="cc12m")
    assert len(source) == 7
    example = source[5]
    assert example["id"] == "00001/000000005"
    assert example["images"] == [picture(5, "JPEG")]
    assert example["messages"] == [
        {"role": "user", "content": "<|image|>"},
        {"role": "assistant", "content": "caption 5"},
    ]
    assert pickle.loads(pickle.dumps(source))[0]["answer"] == "caption 0"


def test_index_is_built_once_and_again_when_a_shard_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "00000.tar", members(0, 2))
    WebDatasetSource(path, dataset="d")
    monkeypatch.setattr(webdataset, "build_index", lambda paths: pytest.fail("the index was built twice"))
    assert len(WebDatasetSource(path, dataset="d")) == 2
    monkeypatch.undo()
    write(path, members(0, 5))
    assert len(WebDatasetSource(path, dataset="d")) == 5


def test_index_goes_to_its_folder_and_nothing_else_is_left(tmp_path):
    shards, index = tmp_path / "shards", tmp_path / "index"
    shards.mkdir(), index.mkdir()
    write(shards / "00000.tar", members(0, 2))
    WebDatasetSource(shards / "*.tar", dataset="d", index_folder=index)
    assert [path.name for path in shards.iterdir()] == ["00000.tar"]
    assert [path.suffix for path in index.iterdir()] == [".npy"]


def test_unwritable_index_folder_says_what_to_set(tmp_path):
    path = write(tmp_path / "00000.tar", members(0, 1))
    with pytest.raises(Owl2Error, match="set index_folder"):
        WebDatasetSource(path, dataset="d", index_folder=tmp_path / "missing")


def test_damaged_index_is_named(tmp_path):
    source = WebDatasetSource(write(tmp_path / "00000.tar", members(0, 2)), dataset="d")
    source.index_path.write_bytes(source.index_path.read_bytes()[:50])
    with pytest.raises(Owl2Error, match="delete it"):
        WebDatasetSource(tmp_path / "00000.tar", dataset="d")


def test_incomplete_samples_are_rejected_and_json_captions_used(tmp_path):
    files = [
        ("a.jpg", picture(1, "JPEG")),
        ("a.json", b'{"caption": "from json"}'),
        ("b.txt", b"no picture"),
        ("c.jpg", picture(2, "JPEG")),
        ("d.png", picture(3)),
        ("d.json", b'{"caption": null}'),
        ("e.webp", picture(4)),
        ("e.txt", b"\xff\xfe"),
        ("f.jpg", picture(5, "JPEG")),
        ("f.json", b"{"),
    ]
    source = WebDatasetSource(write(tmp_path / "0.tar", files), dataset="d")
    assert source[0]["answer"] == "from json"
    reasons = []
    for index in range(1, len(source)):
        with pytest.raises(RecordError) as caught:
            source[index]
        assert caught.value.index == index
        reasons.append(caught.value.reason)
    assert reasons == ["missing", "missing_field", "missing_field", "corrupt_record", "corrupt_record"]


@pytest.mark.parametrize("keep", [300, 700, 3000])
def test_cut_shards_are_refused(tmp_path, keep):
    path = write(tmp_path / "00000.tar", members(0, 4))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(Owl2Error, match=r"00000\.tar"):
        WebDatasetSource(path, dataset="d")


def test_shard_that_shrinks_later_gives_record_errors(tmp_path):
    path = write(tmp_path / "00000.tar", members(0, 4))
    source = WebDatasetSource(path, dataset="d")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RecordError, match="corrupt_record"):
        source[3]
    path.unlink()
    with pytest.raises(RecordError, match="missing"):
        source[0]


def test_folders_and_foreign_files_in_a_shard_are_passed_over(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("part")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in (("part/a.jpg", picture(1, "JPEG")), ("part/a.txt", b"one"), ("part/a.npy", b"zz")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    source = WebDatasetSource(path, dataset="d")
    assert [source[index]["answer"] for index in range(len(source))] == ["one"]
