"""`owl2 chat` with lines from a pipe: turns, images in any of them, errors that do not end it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from owl2_jax.cli.chat import Session, lines
from owl2_jax.cli.main import main
from owl2_jax.inference.chat import Chat
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from tests.environment import environment

CASES = Path(__file__).parents[1] / "data" / "cases" / "images"


@pytest.fixture
def talk(checkpoint, monkeypatch, capsys):
    """Runs a chat over some lines; returns exit code, output and error output."""

    def run(*lines: str, arguments: tuple[str, ...] = ()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
        code = main(["chat", f"--checkpoint={checkpoint}", "--max-new-tokens=5", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_answers_several_turns_with_images_added_later(talk, images):
    code, out, err = talk(
        "What?", f"/image {images}/0.png", "What shape is this?", f"/image {images}/1.png And this?"
    )
    assert (code, err) == (0, "")
    assert out.count("\n") >= 3


def test_a_image_changes_the_answer_and_reset_forgets_it(talk, images):
    _, with_image, _ = talk("What?", arguments=(f"--image={images}/0.png",))
    _, without, _ = talk("What?")
    _, forgotten, _ = talk("What?", "/reset", "What?", arguments=(f"--image={images}/0.png",))
    assert with_image != without
    assert forgotten == with_image + without


def test_names_with_spaces_and_images_that_wait(talk, images, tmp_path):
    (tmp_path / "a b.png").write_bytes((images / "0.png").read_bytes())
    plain = talk(f"/image {images}/0.png", "What?")
    for said in (
        [f"/image {tmp_path}/a b.png", "What?"],
        [f"/image '{tmp_path}/a b.png' What?"],
        [f'/image "{tmp_path}/a b.png"', "What?"],
    ):
        assert talk(*said) == plain
    session = Session(None, [], print)
    assert session.prompt() == "> "
    session.waiting = [tmp_path]
    assert session.prompt() == "[1 image] > "
    session.waiting *= 2
    assert session.prompt() == "[2 images] > "


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(tiny_config, tiny_params, toy_tokenizer):
    chat = Chat(
        Engine(
            LoadedModel(tiny_config, tiny_params, toy_tokenizer), EngineConfig(sequences=1, decode_steps=1)
        )
    )
    shown = []

    def show(piece: str) -> None:
        shown.append(piece)
        if len(shown) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    session = Session(chat, [], show)
    session.run(iter(["What?", "And this?"]))
    assert signal.getsignal(signal.SIGINT) is before
    assert shown[3] == "\n"
    assert len(shown) > 5  # the second question was answered
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[1]["content"] == "".join(shown[:3])


def test_ctrl_c_at_the_prompt_loses_only_the_line(monkeypatch, capsys):
    typed = iter([KeyboardInterrupt, "What?", EOFError])

    def type_line(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", type_line)
    assert list(lines(lambda: "> ")) == ["What?"]


def test_errors_are_told_and_the_chat_goes_on(talk, images):
    code, out, err = talk(
        f"/image {images}/broken.png",
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
    assert "Ctrl-C stops an answer." in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image=nowhere.png",), "cannot read the image nowhere.png: there is no such file"),
        (("--image=/",), "cannot read the image /: Is a directory; it is a folder, expected a file"),
        ((f"--image={CASES / 'heic.heic'}",), "HEIC; save it as JPEG or PNG"),
        ((f"--image={CASES / 'heic.hiec'}",), f"did you mean {CASES / 'heic.heic'}?"),
        (("--temperature=-1",), "--temperature must be at least 0, found -1"),
        (("--checkpoint=/nowhere",), "/nowhere"),
        (("--max-new-tokens=0",), "--max-new-tokens must be at least 1, found 0"),
    ],
)
def test_bad_arguments_end_it_before_anything_is_said(talk, arguments, message):
    code, out, err = talk("What?", arguments=arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_model_on_two_devices_says_the_same(checkpoint, talk, images):
    said = ("What?", f"/image {images}/1.png And this?")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "owl2_jax.cli.main", "chat", f"--checkpoint={checkpoint}"),
            *("--max-new-tokens=5", "--mesh=tensor=2"),
        ],
        env=environment(devices=2),
        input="\n".join(said),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == talk(*said)[1]


def test_as_a_program(checkpoint, images):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "owl2_jax.cli.main", "chat", f"--checkpoint={checkpoint}"),
            *(f"--image={images}/2.png", "--max-new-tokens=3", "--temperature=0.8", "--seed=4"),
        ],
        input="What?\n/image broken\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    assert done.stderr.startswith("error: ")


def test_answers_have_the_form_that_flags_ask_for(talk):
    code, out, err = talk("What?", "And?", arguments=("--choice=yes", "--choice=no", "--max-new-tokens=9"))
    assert (code, err) == (0, "")
    assert set(out.split()) <= {"yes", "no"}
    assert len(out.split()) == 2


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--regex=(", '--regex: invalid regex "("'),
        ("--stop-token-id=300", "stop_token_ids names the token 300"),
        ("--logit-bias=300=1", "logit_bias names the token 300"),
    ],
)
def test_settings_that_the_model_cannot_have_are_told_at_once(talk, flag, words):
    code, out, err = talk("What?", arguments=(flag,))
    assert (code, out) == (2, "")
    assert words in err


def test_an_answer_that_leads_nowhere_is_told_and_the_chat_goes_on(talk, tmp_path):
    (tmp_path / "lark").write_text('start: "a" s\ns: "b" t\nt: t t')
    code, _, err = talk("What?", "/help", arguments=(f"--grammar={tmp_path}/lark",))
    assert code == 0
    assert "leads to an end" in err
