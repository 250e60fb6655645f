"""Compiled programs are kept where the user says, whole, bounded, and never in the way of a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from owl2_jax.core.compilation_cache import VARIABLE, NoFolderError, _Store, cache_folder, keep_programs_in
from owl2_jax.core.errors import Owl2Error
from tests.environment import environment

PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from owl2_jax.core.compilation_cache import keep_programs_in
used = keep_programs_in(Path(sys.argv[1]), lambda line: print("told:", line))
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rpartition("/")[2]))
y = jax.jit(lambda x: jnp.tanh(x @ x).sum())(jnp.ones((8, 8)))
print("used", used, "loaded", events.count("cache_hits"), "compiled", events.count("cache_misses"))
print("bits", y.tobytes().hex())
from jax._src.lib import xla_client
print("machine", xla_client.get_topology_for_devices(jax.devices()).fingerprint())
"""


@pytest.fixture
def told():
    return []


def store(folder, told, limit=10_000):
    return _Store(folder, told.append, limit)


def programs(folder):
    return sorted(path.stem for path in folder.glob("*.program"))


def start(folder, **variables):
    """The lines of a process that compiles a program with the cache in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        env=environment(1, **variables),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# Which folder


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "/home/anna/.cache/owl2_jax"),
        ({"XDG_CACHE_HOME": "/fast/caches"}, "/fast/caches/owl2_jax"),
        ({"XDG_CACHE_HOME": "relative/is/ignored"}, "/home/anna/.cache/owl2_jax"),
        ({VARIABLE: "/shared/programs", "XDG_CACHE_HOME": "/fast/caches"}, "/shared/programs"),
        ({VARIABLE: "~/programs"}, "/home/anna/programs"),
        ({VARIABLE: "  "}, "/home/anna/.cache/owl2_jax"),
    ],
)
def test_programs_are_kept_in_the_cache_folder_of_the_user_or_where_the_variable_says(
    monkeypatch, variables, folder
):
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder(variables) == Path(folder)


def test_a_relative_folder_is_below_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cache_folder({VARIABLE: "here"}) == tmp_path / "here"


@pytest.mark.parametrize("off", ["off", "OFF", " Off "])
def test_off_keeps_nothing(off):
    assert cache_folder({VARIABLE: off}) is None


@pytest.mark.parametrize("value", ["0", "none", "False", "on"])
def test_a_word_that_is_hardly_a_folder_is_refused(value):
    with pytest.raises(Owl2Error, match=rf"{VARIABLE} is '{value}', expected a folder, or off"):
        cache_folder({VARIABLE: value})


def test_a_user_without_a_home_is_told_so(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(NoFolderError, match="there is no home folder to keep compiled programs in"):
        cache_folder({})


# What is in it


def test_programs_come_back_as_they_were_and_in_another_process_too(tmp_path, told):
    first = store(tmp_path / "new" / "folder", told)
    assert first.get("a") is None
    first.put("a", b"content")
    assert first.get("a") == store(first.folder, told).get("a") == b"content"
    assert (first.folder.stat().st_mode & 0o777, told) == (0o700, [])


@pytest.mark.parametrize("damage", [b"", b"half", b"\0" * 50])
def test_a_damaged_file_is_compiled_and_written_again(tmp_path, told, damage):
    kept = store(tmp_path, told)
    kept.put("a", b"content")
    (tmp_path / "a.program").write_bytes(damage)
    assert kept.get("a") is None
    assert programs(tmp_path) == []
    kept.put("a", b"content")
    assert (kept.get("a"), told) == (b"content", [])


def test_what_was_used_longest_ago_makes_room(tmp_path, told):
    kept = store(tmp_path, told, limit=1000)
    for number, key in enumerate("abcd"):
        kept.put(key, bytes(168))  # and 32 of its hash
        os.utime(tmp_path / f"{key}.program", (number, number))
    assert kept.get("a") is not None
    kept.put("e", bytes(168))
    assert programs(tmp_path) == ["a", "b", "c", "d", "e"]
    kept.put("f", bytes(168))
    assert programs(tmp_path) == ["a", "d", "e", "f"]
    kept.put("too large", bytes(1000))
    assert programs(tmp_path) == ["a", "d", "e", "f"]


def test_a_folder_that_others_filled_is_brought_below_the_limit_at_the_next_start(tmp_path, told):
    store(tmp_path, told, limit=10_000).put("a", bytes(4000))
    (tmp_path / "notes.txt").write_text("not ours")
    store(tmp_path, told, limit=1000)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_a_killed_writer_left_is_removed_when_nobody_can_be_writing_it(tmp_path, told):
    for name, age in ((".dead.tmp", 7200), (".alive.tmp", 0)):
        (tmp_path / name).write_bytes(b"half")
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    store(tmp_path, told)
    assert [path.name for path in tmp_path.iterdir()] == [".alive.tmp"]


# When it fails


def test_a_folder_that_cannot_be_made_is_named(tmp_path, told):
    (tmp_path / "file").touch()
    with pytest.raises(
        NoFolderError, match=f"cache {tmp_path}/file/folder cannot be made: {tmp_path}/file is a file"
    ):
        store(tmp_path / "file" / "folder", told)


def test_a_disk_that_is_full_is_told_once(tmp_path, told, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    kept = store(tmp_path, told)
    kept.put("a", b"content")
    monkeypatch.setattr(Path, "write_bytes", full)
    kept.put("b", b"content")
    kept.put("c", b"content")
    assert told == [
        f"no space left while writing {tmp_path}; make room and run it again; "
        f"programs are compiled at every start ({VARIABLE} names another folder, or off)"
    ]
    assert kept.get("a") is None
    assert os.listdir(tmp_path) == ["a.program"]


def test_a_program_that_was_loaded_and_compiled_all_the_same_ends_the_use_of_the_folder(tmp_path, told):
    kept = store(tmp_path, told)
    kept.put("a", b"of another machine")
    assert kept.get("a") == b"of another machine"
    kept.put("a", b"of this one")
    assert len(told) == 1
    assert "cannot be used on this machine" in told[0]
    assert kept.get("a") is None
    assert store(tmp_path, told).get("a") == b"of this one"


# With JAX


def test_a_second_process_loads_what_the_first_compiled_unless_its_processor_is_another(tmp_path):
    (count, bits, machine), again = start(tmp_path), start(tmp_path)
    assert count == "used True loaded 0 compiled 3"
    assert again == ["used True loaded 3 compiled 0", bits, machine]
    assert len(programs(tmp_path)) == 3
    smaller = start(tmp_path, XLA_FLAGS="--xla_cpu_max_isa=SSE4_2")
    assert smaller[0] == "used True loaded 0 compiled 3"
    # Not for the flag alone: what JAX hashes of the device is another number.
    assert smaller[2] != machine


def test_a_folder_that_was_given_to_jax_stays_its_own(tmp_path, told):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    try:
        assert not keep_programs_in(tmp_path / "ours", told.append)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert not (tmp_path / "ours").exists()
