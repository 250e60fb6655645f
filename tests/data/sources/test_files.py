from __future__ import annotations

import json
import random

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources import files
from owl2_jax.data.sources.base import RecordError


def random_value(rng: random.Random, depth: int = 0):
    kind = rng.randrange(6 if depth < 3 else 3)
    if kind < 3:
        text = "".join(rng.choice('ab"\\{}[],\n \u00e9') for _ in range(rng.randrange(12)))
        return (rng.randrange(1000), None, text)[kind]
    if kind == 3:
        return [random_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {
        f"{i}{rng.choice(chr(34) + chr(92))}": random_value(rng, depth + 1) for i in range(rng.randrange(4))
    }


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_records_of_an_array_are_found_whatever_they_hold(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(files, "CHUNK", chunk)
    rng, path = random.Random(chunk), tmp_path / "a.json"
    for _ in range(40):
        records = [random_value(rng) for _ in range(rng.randrange(8))]
        text = (
            rng.choice(["", "\n "])
            + json.dumps(records, indent=rng.choice([None, 1]))
            + rng.choice(["", "\n"])
        )
        path.write_text(text)
        data = text.encode()
        assert [json.loads(data[start:end]) for start, end in files.index_json(path)] == records


@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_lines_are_found_and_blank_ones_left_out(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(files, "CHUNK", chunk)
    path, data = tmp_path / "a.jsonl", b'{"a": 1}\n\n{"a": "x\\\\"}\r\n\r\n{"a": 3}'
    path.write_bytes(data)
    found = [json.loads(data[start:end]) for start, end in files.index_json(path)]
    assert found == [{"a": 1}, {"a": "x\\"}, {"a": 3}]


def test_a_line_of_one_byte_is_a_record_however_bad(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{\n\r\n\n{"a": 2}\n}')
    assert len(files.index_json(path)) == 4


@pytest.mark.parametrize("text", ["[1, 2", '[{"a": "b', "[1]]", "[1] x", "[1][2]", "", " \n"])
def test_broken_arrays_are_refused_by_name(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(Owl2Error, match=r"broken\.json"):
        files.index_json(path)


def test_missing_file_is_one_line(tmp_path):
    with pytest.raises(Owl2Error, match="No such file"):
        files.index_json(tmp_path / "none.json")
    with pytest.raises(Owl2Error, match="No such file"):
        files.read_json(tmp_path / "none.json")


def test_needles_are_found_across_chunks(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"xx<image>yy")
    for chunk in range(1, 12):
        monkeypatch.setattr(files, "CHUNK", chunk)
        assert files.contains(path, [b"<|image|>", b"<image>", b"yy"]) == [False, True, True]


def test_paths_come_from_names_patterns_and_ranges(tmp_path):
    for name in ("b-00.tar", "b-01.tar", "b-02.tar", "a.tar"):
        (tmp_path / name).write_bytes(b"x")
    names = [
        path.rsplit("/", 1)[1]
        for path in files.expand_paths(
            [tmp_path / "a.tar", str(tmp_path / "b-{01..02}.tar"), tmp_path / "b-0[01]*"]
        )
    ]
    assert names == ["a.tar", "b-01.tar", "b-02.tar", "b-00.tar", "b-01.tar"]
    with pytest.raises(Owl2Error, match="b-03"):
        files.expand_paths(str(tmp_path / "b-{02..03}.tar"))
    with pytest.raises(Owl2Error, match="empty list"):
        files.expand_paths([])


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b'"a"', b"[" * 100_000])
def test_records_that_are_no_object_are_corrupt(data):
    with pytest.raises(RecordError) as caught:
        files.parse_record(data, "s", 3)
    assert (caught.value.reason, caught.value.index) == ("corrupt_record", 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("no.jpg", "missing"), ("", "corrupt_record"), (3, "corrupt_record"), ("../a.jpg", "corrupt_record"),
     ("/etc/hostname", "corrupt_record"), ("a\0.jpg", "missing"), ("x" * 5000, "missing"), (".", "missing")],
)  # fmt: skip
def test_pictures_must_be_files_in_the_folder(tmp_path, name, reason):
    with pytest.raises(RecordError) as caught:
        files.picture_path(tmp_path, name, "s", 0)
    assert caught.value.reason == reason
