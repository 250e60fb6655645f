"""`owl2 completion`: what bash is offered after the words that somebody typed."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from owl2_jax.cli.completion import script
from owl2_jax.cli.main import COMMANDS, main, parser_of
from owl2_jax.core.recipes import recipe_names


@pytest.fixture(scope="module")
def of_bash() -> str:
    return script("bash", {name: parser_of(name) for name in COMMANDS})


def offered(text: str, *words: str) -> list[str]:
    """What the function of the script offers for the last of the words, in one start of bash."""
    typed = " ".join(map(shlex.quote, words))
    call = f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _owl2; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{text}\n{call}"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["con"], ["convert"]),
        (["convert", "to-"], ["to-jax", "to-torch"]),
        (["convert", "to-jax", "--so"], ["--source"]),
        (["train", "--con"], ["--config"]),
        (["train", "--config", "instr"], ["instruct_7b"]),
        (["train", "--config", "=", "instr"], ["instruct_7b"]),  # as bash cuts "--config=instr"
        (["train", "--config=instr"], ["--config=instruct_7b"]),  # as zsh does
        (["train", "--config", "="], recipe_names()),
        (["sweep", "sweeps/query_c"], ["sweeps/query_count"]),
        (["chat", "--dtype", ""], ["float32", "bfloat16"]),
        (["train", "--workdir", ""], []),  # files, which bash completes by itself
        (["nothing", "--"], []),
    ],
    ids=" ".join,
)
def test_bash_is_offered(of_bash, words, expected):
    assert offered(of_bash, "owl2", *words) == expected


def test_every_command_is_offered(of_bash):
    assert offered(of_bash, "owl2", "") == list(COMMANDS)


def test_hidden_flags_are_not_offered(of_bash):
    assert "--max-images" in offered(of_bash, "owl2", "serve", "--max-")
    assert "--max-pictures" not in offered(of_bash, "owl2", "serve", "--max-")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_command_prints_a_script_for_its_shell(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert ("bashcompinit" in text) == (shell == "zsh")
    assert text.endswith("complete -o default -F _owl2 owl2\n")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_another_shell_is_refused(capsys):
    assert main(["completion", "fish"]) == 2
    assert "unknown value of shell 'fish'" in capsys.readouterr().err
