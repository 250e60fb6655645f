from __future__ import annotations

import dataclasses
import io
import json
import struct
import sys

import av
import numpy as np
import pytest

from owl2_jax.core.buckets import AwayError
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import video
from owl2_jax.data.images import ImageError
from owl2_jax.data.pipeline import open_mixture
from owl2_jax.data.sources.arrayrecord import decode_example
from owl2_jax.data.sources.llava import LlavaSource
from owl2_jax.data.video import Frame, decode_frame, frames
from owl2_jax.data_tools.prepare.clean import clean
from owl2_jax.data_tools.prepare.settings import ImageRules, PrepareConfig, PrepareSet
from tests.data import corpora

PREPARED = PrepareConfig(datasets={"videos": PrepareSet("llava", {"path": "videos.jsonl"})})


def write_video(path, count=60, size=(64, 48), rate=10, container_format=None, **options):
    """A video whose frame n is grey level 4 n, with a bright upper left corner."""
    width, height = size
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"qscale": "2", **options})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(count):
            pixels = np.full((height, width, 3), 4 * number, np.uint8)
            pixels[: height // 4, : width // 4] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(images):
    """Which frames of `write_video` these are, by their grey in the middle."""
    return [
        round(float(np.asarray(image)[image.height // 2, image.width // 2].mean()) / 4) for image in images
    ]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_frames_are_those_in_the_middle_of_equal_stretches(tmp_path, count):
    found = numbers(frames(write_video(tmp_path / "a.mp4"), count))
    expected = [(2 * i + 1) * 60 // (2 * count) for i in range(count)]
    # Grey levels come back from the codec's narrower range up to one frame's step darker.
    assert np.abs(np.subtract(found, expected)).max() <= 1


def test_seeking_gives_what_decoding_everything_gives(tmp_path):
    """Key frames lie far apart, so that most frames are reached from an earlier one."""
    path = write_video(tmp_path / "a.mp4", g="50")
    stream = write_video(tmp_path / "a.m4v", container_format="m4v", g="50")
    assert np.abs(np.subtract(numbers(frames(path, 6)), numbers(frames(stream, 6)))).max() <= 1


def test_fewer_frames_than_asked_for_come_several_times(tmp_path):
    found = numbers(frames(write_video(tmp_path / "a.mp4", count=2), 4))
    assert len(found) == 4
    assert found == sorted(found)
    assert set(found) == {0, 1}


def test_a_turned_video_is_set_upright(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)  # shown turned clockwise
    place = data.index(identity, data.index(b"tkhd"))
    data[place : place + len(identity)] = quarter
    path.write_bytes(data)
    image = frames(path, 2)[0]
    assert image.size == (48, 64)
    assert np.asarray(image)[4, 44].mean() > 200


def test_damaged_missing_and_foreign_files_have_their_reasons(tmp_path):
    good = write_video(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(good[: len(good) // 2])
    (tmp_path / "noise.mp4").write_bytes(bytes(1000))
    for name, reason in [("cut.mp4", "corrupt"), ("noise.mp4", "corrupt"), ("none.mp4", "missing")]:
        with pytest.raises(ImageError, match=name) as error:
            frames(tmp_path / name, 2)
        assert error.value.reason == reason
    with pytest.raises(
        ImageError, match=r"a\.mp4 has 64 x 48 pixels, expected at most 1000; shrink"
    ) as error:
        frames(tmp_path / "a.mp4", 2, max_pixels=1000)
    assert error.value.reason == "oversized"


def test_files_that_are_no_videos_are_named(tmp_path):
    for name, data, what in [
        (
            "lfs.mp4",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a git-lfs pointer; run git",
        ),
        ("page.mp4", b"<!doctype html><html></html>", "a web page"),
        ("empty.mp4", b"", "an empty file; fetch it again"),
        ("a.pdf", b"%PDF-1.7", "PDF; give a video file"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=f"{name} is no video but {what}") as error:
            frames(tmp_path / name, 2)
        assert error.value.reason == "unsupported"
    with pytest.raises(
        ImageError, match=r"cannot read the video .*; it is a folder, expected a file"
    ) as error:
        frames(tmp_path, 2)
    assert error.value.reason == "unreadable"


def test_a_frame_larger_than_the_file_says_is_refused(tmp_path, monkeypatch):
    path, checked = write_video(tmp_path / "a.mp4"), video._check_size

    def check_frames(path, seen, *rest):
        if isinstance(seen, av.VideoFrame):
            checked(path, seen, *rest)

    monkeypatch.setattr(video, "_check_size", check_frames)
    with pytest.raises(ImageError, match="expected at most 1000"):
        frames(path, 2, max_pixels=1000)


def test_mutated_videos_give_frames_or_an_image_error_and_print_nothing(tmp_path, capfd):
    good, rng, outcomes = write_video(tmp_path / "a.mp4", count=20).read_bytes(), np.random.default_rng(0), []
    for _ in range(60):
        data = bytearray(good)
        for place in rng.integers(0, len(data), 8):
            data[place] = rng.integers(0, 256)
        (tmp_path / "b.mp4").write_bytes(data)
        try:
            outcomes.append(len(frames(tmp_path / "b.mp4", 3)))
        except ImageError as error:
            outcomes.append(error.reason)
    assert set(outcomes) <= {3, "corrupt", "oversized", "unsupported"}
    assert 3 in outcomes
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("readable", [[0], [4096, 0], [4096, 3000]], ids=["at-once", "as-opened", "amid"])
def test_a_store_that_is_away_is_no_fault_of_the_video(tmp_path, monkeypatch, readable):
    class Away(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= self.until:
                raise AwayError("the store does not answer")
            return super().read(size)

    def opened(path):
        file = Away(content)
        file.until = lengths.pop(0)
        return file

    content, lengths = write_video(tmp_path / "a.avi").read_bytes(), list(readable)
    monkeypatch.setattr(video, "opened", opened)
    with pytest.raises(AwayError, match="does not answer"):
        frames("gs://b/a.avi", 4)


def test_frames_of_a_video_are_decoded_together(tmp_path, monkeypatch):
    path = str(write_video(tmp_path / "a.mp4"))
    calls, original = [], video.frames
    monkeypatch.setattr(video, "frames", lambda *args: calls.append(args) or original(*args))
    found = [decode_frame(Frame(path, number, 4)) for number in range(4)]
    assert len(calls) == 1
    assert numbers(found) == sorted(numbers(found))


def test_without_the_reader_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(Owl2Error, match=r"owl2_jax\[video\]"):
        video.require_reader()


@pytest.fixture
def folder(tmp_path):
    write_video(tmp_path / "a.mp4")
    turns = [
        {"from": "human", "value": "<video>\nWhat happens?"},
        {"from": "gpt", "value": "It gets brighter."},
    ]
    records = [
        {"id": "v", "video": "a.mp4", "conversations": turns},
        {"id": "gone", "video": "b.mp4", "conversations": turns},
        {"id": "both", "video": "a.mp4", "image": "a.png", "conversations": turns},
    ]
    (tmp_path / "videos.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


def test_a_record_with_a_video_becomes_a_sample_of_several_images(folder):
    options = {"path": str(folder / "videos.jsonl"), "num_frames": 3}
    config = corpora.config({"videos": corpora.DatasetConfig("llava", options)}, row_length=64)
    videos = open_mixture(config, 28, 5).sets[0]
    sample, _ = videos.get(0, 0)
    assert len(sample.images) == 3
    greys = [int(image[14, 14].mean()) for image in sample.images]
    assert greys == sorted(greys)
    assert greys[0] < greys[2]
    assert [videos.get(record, 0)[1].reason for record in (1, 2)] == ["missing", "unsupported"]


def test_videos_are_rejected_where_no_frames_are_asked_for(folder):
    config = corpora.config({"videos": corpora.llava(folder / "videos.jsonl")})
    sample, note = open_mixture(config, 28, 5).sets[0].get(0, 0)
    assert sample is None
    assert note.reason == "unsupported"
    assert "num_frames" in note.detail


def test_a_video_that_is_too_large_is_rejected_by_the_name_of_the_limit(folder):
    options = {"path": str(folder / "videos.jsonl"), "num_frames": 3}
    config = corpora.config({"videos": corpora.DatasetConfig("llava", options)}, max_pixels=1000)
    _, note = open_mixture(config, 28, 5).sets[0].get(0, 0)
    assert "expected at most 1000 (data.max_pixels); shrink it" in note.detail
    prepared = dataclasses.replace(PREPARED, images=ImageRules(max_pixels=1000))
    with pytest.raises(ImageError, match=r"expected at most 1000 \(images\.max_pixels\); shrink it"):
        clean(LlavaSource(folder / "videos.jsonl", num_frames=2)[0], "videos", prepared)


def test_prepared_videos_are_images(folder):
    source = LlavaSource(folder / "videos.jsonl", num_frames=2)
    done = clean(source[0], "videos", PREPARED)
    read = decode_example(done.record, "test", 0)
    assert [data[:2] for data in read["images"]] == [b"\xff\xd8"] * 2
    assert read["messages"][0]["content"].count("<|image|>") == 2
