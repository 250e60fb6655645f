from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources import files
from owl2_jax.data.sources.base import RecordError

CASES = Path(__file__).parents[1] / "cases"


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
    with pytest.raises(Owl2Error, match=r"none\.json is missing"):
        files.index_json(tmp_path / "none.json")


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


@pytest.mark.parametrize("chunk", [1, 2, 5, 1 << 20])
def test_lines_of_blanks_are_no_records_wherever_they_stand(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(files, "CHUNK", chunk)
    rng, path = random.Random(chunk), tmp_path / "a.jsonl"
    for _ in range(60):
        lines = [
            rng.choice([b"", b" ", b"\t \t", b"\r", b'{"a": 1}', b' {"b": 2}', b"{", b"  x"])
            for _ in range(8)
        ]
        start = rng.choice([b"", b"\xef\xbb\xbf"])
        data = start + b"\n".join([*lines, b"{}"]) + rng.choice([b"", b"\n", b"\n  ", b"\n\n"])
        path.write_bytes(data)
        found = [data[begin:end].removeprefix(start) for begin, end in files.index_json(path)]
        assert found == [line for line in [*lines, b"{}"] if line.strip()]


def test_the_handed_file_with_blank_lines_has_two_records():
    assert len(files.index_json(CASES / "sp.jsonl")) == 2


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "data",
    [BOM + b'[{"a": 1}, {"a": 2}]', BOM + b'{"a": 1}\n{"a": 2}', BOM + b'\n \n{"a": 1}\r\n{"a": 2}\r\n'],
)
def test_a_byte_order_mark_is_skipped(tmp_path, data):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    ranges = files.index_json(path)
    assert [files.parse_record(data[start:end], "s", 0) for start, end in ranges] == [{"a": 1}, {"a": 2}]


def test_separators_of_other_alphabets_do_not_end_a_line(tmp_path):
    path, text = tmp_path / "a.jsonl", '{"a": "x\u2028y\u2029z\u0085w"}\n{"a": "b"}\n'
    path.write_text(text, encoding="utf-8")
    assert len(files.index_json(path)) == 2


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ((CASES / "u16.json").read_bytes(), "UTF-16"),
        ('[{"a": 1}]'.encode("utf-16-be"), "UTF-16"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PK\x03\x04\x14\x00", "zip"),
    ],
)
def test_what_a_file_is_instead_of_json_is_named(tmp_path, data, named):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(Owl2Error, match=rf"a\.json is .*{named}"):
        files.index_json(path)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(Owl2Error, match="is a folder"):
        files.index_json(tmp_path)


def test_a_key_that_stands_twice_is_refused_and_not_half_read():
    with pytest.raises(RecordError, match="the key 'image' stands twice"):
        files.parse_record(b'{"image": "a.png", "image": "b.png"}', "s", 0)
