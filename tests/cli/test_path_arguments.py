"""A URL is never taken for a local folder: not by a flag of a command, and not by a field of a config."""

from __future__ import annotations

import argparse
import importlib
import typing
from pathlib import Path

import pytest

from owl2_jax.cli.main import COMMANDS, main
from owl2_jax.core.texts import text_of
from owl2_jax.data.sources.registry import SOURCES
from tests.cli.test_numbers import arguments_of
from tests.test_config_ranges import CONFIGS, leaves

# Metavars of arguments that name a file or folder; config and sweep files are read as Python.
PLACES = ("DIR", "FILE", "HF_DIR", "PEFT_DIR", "FILE.jsonl", "FILE.html", "FILE.npz")


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"owl2_jax.cli.{command}").add_arguments(parser)
    return parser


def is_path(hint: object) -> bool:
    kind = text_of(typing.get_args(hint)[1:])
    return kind is not None and kind.path is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_that_names_a_place_is_checked_as_a_path(command):
    named = [
        a for a in arguments_of(parser_of(command)) if a.metavar in PLACES or "path" in str(a.type).lower()
    ]
    assert [a.option_strings for a in named if not is_path(a.type)] == []


def test_most_commands_take_paths():
    with_paths = [
        command
        for command in COMMANDS
        if any(is_path(argument.type) for argument in arguments_of(parser_of(command)))
    ]
    assert set(COMMANDS) - set(with_paths) == {"completion", "inspect"}


def test_every_field_of_a_config_that_names_a_place_is_checked_as_a_path():
    words = ("path", "file", "folder", "dir", "root", "tokenizer", "start_from", "annotations", "questions")
    found = {where: hint for config in CONFIGS for where, hint in leaves(config, config.__name__)}
    for kind, source in SOURCES.items():
        for name, hint in typing.get_type_hints(source.__init__, include_extras=True).items():
            found |= dict(leaves(hint, f"{kind}.{name}"))
    texts = {where: hint for where, hint in found.items() if (typing.get_args(hint) or (hint,))[0] is str}
    places = {
        where: hint for where, hint in texts.items() if any(w in where.rpartition(".")[2] for w in words)
    }
    assert len(places) > 15
    assert [where for where, hint in places.items() if not is_path(hint)] == []


TINY = "--config=configs/tiny/stage2.py"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["train", TINY, "--workdir=hdfs://b/run"], "--workdir"),
        (["train", TINY, "--workdir=gs:/b/run"], "--workdir"),
        (["train", TINY, "--workdir=new", "train.start_from=hdfs://b"], "train.start_from"),
        (["train", TINY, "--workdir=new", "data.tokenizer=hdfs://b/t"], "data.tokenizer"),
        (["train", "--config=hdfs://b/c.py", "--workdir=new"], "config file"),
        (["evaluate", "--checkpoint=hdfs://b"], "--checkpoint"),
        (["evaluate", "--checkpoint=c", "--output=hdfs://b"], "--output"),
        (["chat", "--checkpoint=hdfs://b"], "--checkpoint"),
        (["chat", "--checkpoint=c", "--image=hdfs://b/i.png"], "--image"),
        (["generate", "--checkpoint=c", "--input=i", "--output=hdfs://b/o"], "--output"),
        (["data", "prepare", "c.py", "--output=hdfs://b"], "--output"),
        (["convert", "to-jax", "--source=hdfs://b", "--output=o"], "--source"),
        (["convert", "to-jax", "--source=s", "--output=hdfs://b"], "--output"),
        (["fit", TINY, "--topology=v5e:2x2", "--html=hdfs://b/p.html"], "--html"),
        (["bench", "train", "--trace=hdfs://b"], "--trace"),
        (["serve", "--checkpoint=hdfs://b"], "--checkpoint"),
        (["look", "--checkpoint=c", "--question=q", "--image=i", "--output=hdfs://b/l.html"], "--output"),
        (["sweep", "s.py", "--workdir=hdfs://b"], "--workdir"),
        (["sweep", "hdfs://b/s.py"], "config file"),
        (["report", "--run=hdfs://b"], "--run"),
        (["inspect", "--config=hdfs://b/c.py"], "config file"),
    ],
)
def test_a_url_is_refused_by_name_and_leaves_no_folder(arguments, name, capsys, monkeypatch, tmp_path):
    (tmp_path / "configs").symlink_to(Path("configs").absolute())
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {name}: expected ")
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]
