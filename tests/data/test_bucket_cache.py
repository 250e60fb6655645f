from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import IO

import pytest

from owl2_jax.core.buckets import StoreError
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.bucket_cache import BOUND, FOLDER, Cache, cache, piece_name


@pytest.fixture
def small(tmp_path):
    """Room for three pieces of 900 bytes."""
    return Cache(tmp_path / "cache", 3000, keeps_pieces=True)


def pieces(one: Cache) -> dict[str, Path]:
    return {path.name: path for path in (one.folder / "pieces").glob("*/*")}


def never() -> bytes:
    raise AssertionError("it was fetched")


def test_a_piece_is_fetched_once(small):
    name = piece_name("gs://b/a.png", 1)
    assert small.piece(name, lambda: b"content") == b"content"
    assert small.piece(name, never) == b"content"
    assert small.piece(piece_name("gs://b/a.png", 2), lambda: b"other") == b"other"
    assert small.piece(piece_name("empty"), bytes) == b""
    assert small.piece(piece_name("empty"), never) == b""


@pytest.mark.parametrize("change", ["bit", "cut", "empty", "swapped"])
def test_a_damaged_piece_is_fetched_again_and_kept(small, change):
    name, other = piece_name("a"), piece_name("b")
    small.piece(name, lambda: b"content")
    small.piece(other, lambda: b"another")
    path = pieces(small)[name]
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    swapped = pieces(small)[other].read_bytes()
    path.write_bytes({"bit": bytes(data), "cut": bytes(data[:5]), "empty": b"", "swapped": swapped}[change])
    assert small.piece(name, lambda: b"content") == b"content"
    assert small.piece(name, never) == b"content"


def test_pieces_stay_within_the_size_and_those_used_longest_ago_go(small):
    names = [piece_name(number) for number in range(4)]
    for name in names[:3]:
        small.piece(name, lambda: bytes(884))
    for age, name in ((3, names[0]), (1, names[1]), (2, names[2])):
        os.utime(pieces(small)[name], (age, age))
    assert small.piece(names[1], never) == bytes(884), "used now"
    small.piece(names[3], lambda: bytes(884))
    assert pieces(small).keys() == {names[0], names[1], names[3]}
    assert sum(path.stat().st_size for path in pieces(small).values()) <= 3000
    assert Cache(small.folder, 3000, True).piece(names[1], never) == bytes(884)


def test_what_is_larger_than_the_folder_is_not_kept(small):
    assert small.piece(piece_name("a"), lambda: bytes(4000)) == bytes(4000)
    assert pieces(small) == {}


def test_what_is_larger_than_the_folder_drives_nothing_out(small):
    small.piece(piece_name("a"), lambda: b"content")
    small.piece(piece_name("b"), lambda: bytes(4000))
    assert small.piece(piece_name("a"), never) == b"content"


def test_a_copy_is_noted_only_while_nobody_decides_what_to_remove(small):
    small.make_room(0)
    noting = threading.Thread(target=lambda: held.append(small.note(["a/b"])))
    held: list[IO[str]] = []
    with (small.folder / "total").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        noting.start()
        noting.join(0.1)
        assert small.read_by_others() == set()
    noting.join()
    assert small.read_by_others() == {"a/b"}
    held[0].close()


def test_what_a_fetch_raises_is_no_fault_of_the_folder(small):
    def gone() -> bytes:
        raise FileNotFoundError("gs://b/a.png")

    with pytest.raises(FileNotFoundError, match="gs://b/a"):
        small.piece(piece_name("a"), gone)


def test_room_is_shared_with_others_that_use_the_folder(small):
    other = Cache(small.folder, 3000, True)
    for number in range(3):
        (small if number % 2 else other).piece(piece_name(number), lambda: bytes(900))
    small.piece(piece_name("more"), lambda: bytes(900))
    assert sum(path.stat().st_size for path in pieces(small).values()) <= 3000
    (small.folder / "total").unlink()
    other.piece(piece_name("last"), lambda: bytes(900))
    assert sum(path.stat().st_size for path in pieces(small).values()) <= 3000


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    # Of the store's kind: no record is at fault and may be left out for it.
    with pytest.raises(StoreError, match="is a file, not a folder"):
        Cache(tmp_path / "file", 3000, True).piece(piece_name("a"), lambda: b"1")


def test_pieces_are_kept_where_a_size_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.delenv(BOUND, raising=False)
    assert not cache().keeps_pieces
    assert cache().bound == 50 * 2**30
    monkeypatch.setenv(BOUND, "0.5")
    assert cache() == Cache(tmp_path, 2**29, True)
    monkeypatch.setenv(BOUND, "-1")
    with pytest.raises(Owl2Error, match="OWL2_DATA_CACHE_GIB"):
        cache()
