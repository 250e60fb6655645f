from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import images
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.webdataset import WebDatasetSource
from tests.data.sources.images import image


def members(first, count):
    """What img2dataset writes for each sample: image, caption, metadata."""
    for i in range(first, first + count):
        meta = {"key": f"{i:09d}", "caption": f"caption {i}", "status": "success", "width": 4, "height": 4}
        yield f"{i:09d}.jpg", image(i, "JPEG")
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
    assert example["images"] == [image(5, "JPEG")]
    assert example["messages"] == [
        {"role": "user", "content": "<|image|>"},
        {"role": "assistant", "content": "caption 5"},
    ]
    assert pickle.loads(pickle.dumps(source))[0]["answer"] == "caption 0"


def test_incomplete_samples_are_rejected_and_json_captions_used(tmp_path):
    files = [
        ("a.jpg", image(1, "JPEG")),
        ("a.json", b'{"caption": "from json"}'),
        ("b.txt", b"no image"),
        ("c.jpg", image(2, "JPEG")),
        ("d.png", image(3)),
        ("d.json", b'{"caption": null}'),
        ("e.webp", image(4)),
        ("e.txt", b"\xff\xfe"),
        ("f.jpg", image(5, "JPEG")),
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
        for name, data in (("part/a.jpg", image(1, "JPEG")), ("part/a.txt", b"one"), ("part/a.npy", b"zz")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    source = WebDatasetSource(path, dataset="d")
    assert [source[index]["answer"] for index in range(len(source))] == ["one"]


# ---- the shapes that shards come in -------------------------------------------

CASES = Path(__file__).parents[1] / "cases"


def copied(tmp_path, name):
    shutil.copy(CASES / name, tmp_path / name)
    return WebDatasetSource(tmp_path / name, dataset="d")


def test_equal_names_in_two_folders_are_two_samples(tmp_path):
    source = copied(tmp_path, "wd_dirs.tar")
    assert [(one["id"], one["answer"]) for one in source] == [("wd_dirs/d1/1", "c1"), ("wd_dirs/d2/1", "c2")]
    with tarfile.open(CASES / "wd_dirs.tar") as tar:
        images = [tar.extractfile(f"{folder}/1.jpg").read() for folder in ("d1", "d2")]
    assert [one["images"] for one in source] == [[images[0]], [images[1]]]


def test_endings_in_capitals_are_seen(tmp_path):
    source = copied(tmp_path, "wd_up.tar")
    with tarfile.open(CASES / "wd_up.tar") as tar:
        right, text = (tar.extractfile(name).read() for name in ("1.JPG", "1.TXT"))
    assert [one["images"] for one in source] == [[right]]
    assert source[0]["answer"] == text.decode().strip()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "AVIF", "BMP", "PNG", "WEBP"])
@pytest.mark.parametrize("capitals", [False, True])
def test_images_of_every_kind_are_seen(tmp_path, kind, capitals):
    endings = [kind, "LONG.TXT", "JSON"] if capitals else [kind.lower(), "long.txt", "json"]
    data = image(3, kind)
    files = zip(endings, [data, b"not this", b'{"caption": "three"}'], strict=True)
    path = write(tmp_path / "0.tar", [(f"1.{ending}", one) for ending, one in files])
    source = WebDatasetSource(path, dataset="d")
    assert [(one["images"], one["answer"]) for one in source] == [([data], "three")]
    assert images.decode(source[0]["images"][0]).size == (4, 4)


def test_byte_order_marks_are_no_part_of_captions(tmp_path):
    bom = b"\xef\xbb\xbf"
    files = [
        ("1.jpg", b"x"), ("1.txt", bom + b" one \r\n"),
        ("2.jpg", b"x"), ("2.json", bom + b'{"caption": "two"}'),
        ("3.jpg", b"x"), ("3.json", json.dumps({"caption": "\ufeffthree"}).encode()),
        ("4.jpg", b"x"), ("4.txt", "four".encode("utf-16")),
    ]  # fmt: skip
    source = WebDatasetSource(write(tmp_path / "0.tar", files), dataset="d")
    assert [source[index]["answer"] for index in range(3)] == ["one", "two", "three"]
    with pytest.raises(RecordError, match=r"0\.tar\[3\]: corrupt_record: the caption of 4 is UTF-16"):
        source[3]


def test_files_that_macos_leaves_do_not_part_a_sample(tmp_path):
    files = [("._1.jpg", b"x"), ("1.jpg", b"p"), ("._1.txt", b"x"), ("1.txt", b"c"), ("d/.DS_Store", b"x")]
    source = WebDatasetSource(write(tmp_path / "0.tar", files), dataset="d")
    assert [(one["images"], one["answer"]) for one in source] == [([b"p"], "c")]


def test_a_leading_dot_folder_changes_no_name(tmp_path):
    source = WebDatasetSource(write(tmp_path / "0.tar", [("./1.jpg", b"p"), ("./1.txt", b"c")]), dataset="d")
    assert source[0]["id"] == "0/1"


@pytest.mark.parametrize(
    ("files", "kind"), [(("1.jpg", "1.png", "1.txt"), "image"), (("1.jpg", "1.txt", "1.TXT"), "text")]
)
def test_a_sample_with_two_images_or_captions_is_refused_and_not_guessed(tmp_path, files, kind):
    path = write(
        tmp_path / "0.tar", [*((name, name.encode()) for name in files), ("2.jpg", b"p"), ("2.txt", b"c")]
    )
    source = WebDatasetSource(path, dataset="d")
    with pytest.raises(RecordError, match=f"sample 1 has several members that are its {kind}; keep one"):
        source[0]
    assert source[1]["answer"] == "c"


def test_long_and_foreign_names_are_read(tmp_path):
    long = "folder/" * 30 + "x" * 60
    path = write(
        tmp_path / "0.tar",
        [(f"{long}.jpg", b"p"), (f"{long}.txt", b"c"), ("é日.jpg", b"q"), ("é日.txt", b"d")],
    )
    source = WebDatasetSource(path, dataset="d")
    assert [one["id"] for one in source] == [f"0/{long}", "0/é日"]
    again = WebDatasetSource(path, dataset="d")
    assert [one["id"] for one in again] == [f"0/{long}", "0/é日"]


def test_a_name_that_is_no_utf_8_is_no_crash(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name in ("\udcff.jpg", "\udcff.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"c"))
    assert WebDatasetSource(tmp_path / "0.tar", dataset="d")[0]["id"] == "0/\\xff"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"),
        (b"<html>", "web page"),
        (b"", "empty"),
        (b"\x1f\x8b\x08" + bytes(600), "a gzip file; shards are read in place, so unpack it to a plain tar"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "a zstd file"),
        (b"PK\x03\x04" + bytes(600), "a zip file"),
        (
            b'\xef\xbb\xbf [{"id": 1}]' + b" " * 600,
            "JSON text, no tar file; records in JSON are read by the kind",
        ),
        (b'{"id": 1}\n', "JSON text, no tar file"),
        (b"PAR1" + bytes(600), "a Parquet file, no tar file; it is read by the kind 'parquet'"),
    ],
)
def test_what_a_shard_is_instead_is_named(tmp_path, data, words):
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(Owl2Error, match=rf"0\.tar is .*{words}"):
        WebDatasetSource(tmp_path / "0.tar", dataset="d")
