"""`owl2 chat` with lines from a pipe: turns, pictures in any of them, errors that do not end it."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from owl2_jax.cli.main import main


@pytest.fixture
def talk(checkpoint, monkeypatch, capsys):
    """Runs a chat over some lines; returns exit code, output and error output."""

    def run(*lines: str, arguments: tuple[str, ...] = ()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
        code = main(["chat", f"--checkpoint={checkpoint}", "--max-new-tokens=5", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_answers_several_turns_with_pictures_added_later(talk, pictures):
    code, out, err = talk(
        "What?", f"/image {pictures}/0.png", "What shape is this?", f"/image {pictures}/1.png And this?"
    )
    assert (code, err) == (0, "")
    assert out.count("\n") >= 3


def test_a_picture_changes_the_answer_and_reset_forgets_it(talk, pictures):
    _, with_picture, _ = talk("What?", arguments=(f"--image={pictures}/0.png",))
    _, without, _ = talk("What?")
    _, forgotten, _ = talk("What?", "/reset", "What?", arguments=(f"--image={pictures}/0.png",))
    assert with_picture != without
    assert forgotten == with_picture + without


def test_errors_are_told_and_the_chat_goes_on(talk, pictures):
    code, out, err = talk(
        f"/image {pictures}/broken.png",
        "/image nowhere.png",
        "/imge x",
        "two <|image|> tags <|image|>",
        "word " * 200,
        "",
        "What?",
    )
    assert code == 0
    assert [line.split(":")[0] for line in err.splitlines()] == ["error"] * 5
    assert "'/image'" in err
    assert out == talk("What?")[1]


def test_commands(talk):
    code, out, err = talk("/help", "/quit", "never asked")
    assert (code, err) == (0, "")
    assert out.startswith("/image FILE")
    assert out.endswith("stops an answer.\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image=nowhere.png",), "nowhere.png"),
        (("--temperature=-1",), "temperature"),
        (("--checkpoint=/nowhere",), "/nowhere"),
        (("--max-new-tokens=0",), "max_new_tokens"),
    ],
)
def test_bad_arguments_end_it_before_anything_is_said(talk, arguments, message):
    code, out, err = talk("What?", arguments=arguments)
    if "max_new_tokens" in message:  # told at the first question, as any bad request
        assert (code, out) == (0, "")
    else:
        assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_model_on_two_devices_says_the_same(checkpoint, talk, pictures):
    lines = ("What?", f"/image {pictures}/1.png And this?")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "owl2_jax.cli.main", "chat", f"--checkpoint={checkpoint}"),
            *("--max-new-tokens=5", "--mesh=tensor=2"),
        ],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == talk(*lines)[1]


def test_as_a_program(checkpoint, pictures):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "owl2_jax.cli.main", "chat", f"--checkpoint={checkpoint}"),
            *(f"--image={pictures}/2.png", "--max-new-tokens=3", "--temperature=0.8", "--seed=4"),
        ],
        input="What?\n/image broken\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    assert done.stderr.startswith("error: ")
