"""Every number of every command has a range, and what lies outside is refused by the argument's name."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

import pytest

from owl2_jax.cli.main import COMMANDS, main

TINY = "configs/tiny/stage2.py"


def arguments_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for chosen in action.choices.values():
                yield from arguments_of(chosen)
        else:
            yield action


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_of_a_command_has_a_range(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"owl2_jax.cli.{command}").add_arguments(parser)
    assert [a.option_strings for a in arguments_of(parser) if a.type in (int, float)] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["generate", "--seed=2**70"],
            "--seed: expected a whole number, from 0 to 9223372036854775807, found '2**70'",
        ),
        (["generate", f"--seed={2**70}"], f"--seed must be from 0 to 9223372036854775807, found {2**70}"),
        (["generate", "--top-p=0"], "--top-p must be above 0 and at most 1, found 0.0"),
        (["generate", "--beams=33"], "--beams must be from 1 to 32, found 33"),
        (["generate", "--length-penalty=-1"], "--length-penalty must be from 0 to 10, found -1.0"),
        (["generate", "--temperature", "1e400"], "--temperature must be finite and at least 0, found inf"),
        (["generate", "--sequences=x"], "--sequences: expected a whole number, at least 1, found 'x'"),
        (
            ["generate", f"--sequences={'9' * 5000}"],
            "--sequences: expected a whole number, at least 1, found '9999999",
        ),
        (["serve", "--queue", "-1"], "--queue must be at least 0, found -1"),
        (["serve", "--port=70000"], "--port must be from 0 to 65535, found 70000"),
        (["serve", "--max-megapixels=3000"], "--max-megapixels must be from 1 to 2000, found 3000"),
        (["bench", "train", "--rows=-1"], "--rows must be at least 1, found -1"),
        (["bench", "data", TINY, "--workers=0,-1"], "--workers must be at least 0, found -1"),
        (
            ["inspect", "--preset=owl2_tiny", "--gpus=h100:\u00b2"],
            "--gpus h100: expected a whole number, at least",
        ),
        (["inspect", f"--config={TINY}", "data=5"], "data: expected a group of fields, found 5"),
        (
            ["fit", f"--config={TINY}", "--topology=v5e:4x4", "--rows=8", "data.rows=0"],
            "data.rows must be at lea",
        ),
        (["sweep", "none.py", "--retries=-1"], "--retries must be at least 0, found -1"),
        (["convert", "resize", "--image-size=0"], "--image-size must be at least 1, found 0"),
    ],
)
def test_a_number_of_the_command_line_is_refused_by_its_name(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
