"""A file of the same name and size is told apart by its content, however large it is."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_identity import (
    BLOCK,
    changes,
    file_identity,
    identities,
    identities_as,
    identities_now,
)


def test_equal_content_has_equal_identity_whatever_the_time_and_place(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    assert file_identity(tmp_path / "a") == file_identity(tmp_path / "b")
    assert file_identity(tmp_path / "a")["bytes"] == 4


@pytest.mark.parametrize("place", [0, 3 * BLOCK + 17, 10 * BLOCK - 1])
def test_one_changed_byte_changes_the_identity_of_a_file_within_its_share(tmp_path, place):
    data = bytearray(10 * BLOCK)
    (tmp_path / "a").write_bytes(data)
    before = file_identity(tmp_path / "a", 10 * BLOCK)
    data[place] = 1
    (tmp_path / "a").write_bytes(data)
    assert file_identity(tmp_path / "a", 10 * BLOCK) != before


def test_of_a_larger_file_blocks_over_its_whole_length_are_read(tmp_path):
    data = bytearray(101 * BLOCK)
    (tmp_path / "a").write_bytes(data)
    before = file_identity(tmp_path / "a", 5 * BLOCK)
    for block in (0, 25, 50, 75, 100):
        changed = bytearray(data)
        changed[block * BLOCK + 5] = 1
        (tmp_path / "b").write_bytes(changed)
        assert file_identity(tmp_path / "b", 5 * BLOCK) != before


def test_changes_are_said_by_file(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    names = [str(path) for path in paths]
    for path in paths:
        path.write_text("12345")
    before = identities(names)
    assert changes(before, identities(names)) == []
    paths[0].write_text("54321")
    paths[1].write_text("1")
    assert changes(before, identities(names[:2])) == [
        f"{names[0]} has the same size and other content",
        f"{names[1]} had 5 bytes and has 1",
        f"{names[2]} is gone",
    ]
    assert changes(identities(names[:2]), identities([*names[:2], __file__]))[0] == f"{__file__} is new"


def test_a_missing_file_is_an_error_of_one_line(tmp_path):
    with pytest.raises(Owl2Error, match="is missing"):
        file_identity(tmp_path / "none")


def test_a_file_that_stands_twice_in_a_set_is_the_same_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr("owl2_jax.core.file_identity.BUDGET", 10 * BLOCK)
    path = tmp_path / "a"
    path.write_bytes(b"".join(bytes([number]) * BLOCK for number in range(9)))
    before = identities([path, str(path), path])
    assert list(before) == [str(path)]
    assert before == identities([path]) == identities_now(before)


def older(path, share: int) -> dict:
    """As versions did that noted no share."""
    return {name: value for name, value in file_identity(path, share).items() if name != "share"}


@pytest.mark.parametrize("share", [10 * BLOCK, 5 * BLOCK])  # by files, or by how often they stand in the set
def test_an_older_note_of_a_doubled_file_is_read_as_it_was_made(tmp_path, monkeypatch, share):
    monkeypatch.setattr("owl2_jax.core.file_identity.BUDGET", 10 * BLOCK)
    path = tmp_path / "a"
    path.write_bytes(b"".join(bytes([number]) * BLOCK for number in range(9)))
    before, files = {str(path): older(path, share)}, [path, path]
    assert [] in (changes(before, identities(files)), changes(before, identities_as(before, files)))
    now = identities_now(before)
    assert changes({name: before[name] for name in now}, now) == [], "left to the set, or the same"
    path.write_bytes(b"x" * 9 * BLOCK)
    assert changes(before, identities(files))
    assert changes(before, identities_as(before, files))
    path.write_bytes(b"x")
    assert "had 589,824 bytes and has 1" in changes(before, identities_now(before))[0]


def test_a_note_is_read_by_its_own_share_when_the_budget_has_changed(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"".join(bytes([number]) * BLOCK for number in range(9)))
    monkeypatch.setattr("owl2_jax.core.file_identity.BUDGET", 4 * BLOCK)
    before = identities([path])
    monkeypatch.setattr("owl2_jax.core.file_identity.BUDGET", 10 * BLOCK)
    assert changes(before, identities([path]))
    assert changes(before, identities_as(before, [path])) == []
    assert changes(before, identities_now(before)) == []
    path.write_bytes(b"x" * 9 * BLOCK)
    assert changes(before, identities_now(before))
