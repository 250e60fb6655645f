"""The dispatcher: every command has its module, unknown ones and errors are told in one line."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from owl2_jax import cli
from owl2_jax.cli import main as dispatcher
from owl2_jax.core.errors import Owl2Error
from owl2_jax.version import __version__

HELPERS = {
    "sampling_arguments",
    "convert_lora",
    "convert_notes",
    "help_pages",
    "worker",
    "main",
    "common",
    "parsing",
    "signals",
}


def test_every_module_is_a_command_and_every_command_a_module():
    modules = {module.name for module in pkgutil.iter_modules(cli.__path__)} - HELPERS
    assert modules == set(dispatcher.COMMANDS)


@pytest.mark.parametrize("name", dispatcher.COMMANDS)
def test_help_of_each_command(name, capsys):
    with pytest.raises(SystemExit) as stop:
        dispatcher.main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: owl2 {name}" in capsys.readouterr().out


def test_help_keeps_the_letter_case_of_names(capsys):
    for name, words in (("serve", "HTTP as the OpenAI API"), ("generate", "Answer a JSONL file")):
        with pytest.raises(SystemExit):
            dispatcher.main([name, "--help"])
        assert words in capsys.readouterr().out


def test_version_and_help(capsys):
    assert dispatcher.main(["--version"]) == 0
    assert capsys.readouterr().out == f"owl2 {__version__}\n"
    assert dispatcher.main(["--help"]) == 0
    assert all(name in capsys.readouterr().out for name in ["train"])
    assert dispatcher.main([]) == 2


def test_unknown_command_names_the_nearest(capsys):
    assert dispatcher.main(["evalute"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: unknown command 'evalute'; did you mean 'evaluate'")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (Owl2Error("no such thing"), 2, "error: no such thing\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            MemoryError("Unable to allocate 1.00 EiB for an array"),
            2,
            "error: not enough memory: Unable to allocate 1.00 EiB for an array; choose smaller sizes, "
            "or a larger machine\n",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating\n 7 bytes."),
            2,
            "error: not enough memory: RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.; choose smaller "
            "sizes, or a larger machine\n",
        ),
    ],
    ids=["of the user", "an interrupt", "memory of the host", "memory of a device"],
)
def test_errors_become_a_line_and_an_exit_code(monkeypatch, capsys, raised, code, text):
    def fail(arguments):
        raise raised

    monkeypatch.setattr(dispatcher, "_run", fail)
    assert dispatcher.main(["train"]) == code
    assert capsys.readouterr().err == text


def test_other_faults_keep_their_traceback(monkeypatch):
    def fail(arguments):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(dispatcher, "_run", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        dispatcher.main(["train"])


def test_as_a_program():
    command = [sys.executable, "-m", "owl2_jax.cli.main"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"owl2 {__version__}\n")
    done = subprocess.run([*command, "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'train'" in done.stderr
