"""What several commands share: compiled programs are kept by every command that compiles."""

from __future__ import annotations

import inspect
from importlib import import_module

import jax
import pytest

from owl2_jax.cli import common
from owl2_jax.cli.main import COMMANDS, parser_of
from owl2_jax.core import compilation_cache
from owl2_jax.core.errors import Owl2Error

# `fit` compiles for a machine that is not there, and such a compiler loads nothing.
COMPILE_NOTHING = {"completion", "data", "fit", "inspect", "report", "sweep"}


@pytest.fixture
def settings():
    return jax.config.jax_compilation_cache_dir, compilation_cache._Store.of_process


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - COMPILE_NOTHING))
def test_every_command_that_compiles_keeps_its_programs(command):
    source = inspect.getsource(import_module(f"owl2_jax.cli.{command}"))
    assert "keep_compiled_programs()" in source or "load_model(args" in source
    assert "keep_compiled_programs()" in inspect.getsource(common.load_model)


def test_off_changes_nothing(monkeypatch, settings):
    monkeypatch.setenv(compilation_cache.VARIABLE, "off")
    common.keep_compiled_programs()
    assert (jax.config.jax_compilation_cache_dir, compilation_cache._Store.of_process) == settings


def test_a_folder_that_cannot_be_written_is_told_in_one_line_and_the_command_goes_on(
    monkeypatch, capsys, tmp_path, settings
):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv(compilation_cache.VARIABLE, str(file))
    common.keep_compiled_programs()
    assert capsys.readouterr().err == (
        f"warning: the compilation cache {file} cannot be made: {file} is a file, not a folder; "
        "programs are compiled at every start (OWL2_COMPILATION_CACHE names another folder, or off)\n"
    )
    assert (jax.config.jax_compilation_cache_dir, compilation_cache._Store.of_process) == settings


def test_a_variable_that_is_neither_a_folder_nor_off_is_refused(monkeypatch):
    monkeypatch.setenv(compilation_cache.VARIABLE, "no")
    with pytest.raises(Owl2Error, match="OWL2_COMPILATION_CACHE is 'no', expected a folder, or off"):
        common.keep_compiled_programs()


def test_older_names_of_flags_are_read_and_not_shown():
    parser = parser_of("serve")
    args = parser.parse_args(["--checkpoint=x", "--slots=3", "--max-pictures=2", "--remote-pictures"])
    assert (args.sequences, args.max_images, args.remote_images) == (3, 2, True)
    plain = parser.parse_args(["--checkpoint=x"])
    assert (plain.sequences, plain.max_images, plain.remote_images) == (None, None, False)
    assert "pictures" not in parser.format_help()
    assert parser_of("bench").parse_args(["data", "c.py", "--pictures=5"]).images == 5
