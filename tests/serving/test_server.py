"""`owl2 serve` as a process: it starts, answers, and ends without losing an answer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.cli.main import main
from owl2_jax.cli.serve import read_key
from owl2_jax.core.errors import Owl2Error
from owl2_jax.serving.listening import listen, url_of
from owl2_jax.testing import tiny
from tests.environment import environment
from tests.serving.questions import user

LONG = {"messages": [user("What?")], "max_tokens": 1500, "min_tokens": 1500, "temperature": 0, "stream": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_params, toy_tokenizer) -> Path:
    config = tiny.tiny_config(decoder__max_length=2048)
    path = tmp_path_factory.mktemp("serving") / "owl"
    write_model_directory(path, model_json(config.to_dict()), tiny_params, toy_tokenizer.bytes)
    return path


@pytest.fixture
def verbose_checkpoint(tmp_path, tiny_params, toy_tokenizer) -> Path:
    """The same model, free to answer for many seconds."""
    config = tiny.tiny_config(decoder__max_length=32768)
    write_model_directory(tmp_path / "owl", model_json(config.to_dict()), tiny_params, toy_tokenizer.bytes)
    return tmp_path / "owl"


class Process:
    """`owl2 serve` on a free port."""

    def __init__(self, checkpoint: Path, *arguments: str, **environment: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "owl2_jax.cli.main", "serve", "--checkpoint", str(checkpoint), "--port=0",
             "--sequences=2", *arguments],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.first_line = self.process.stdout.readline()
        self.url = self.first_line.partition(" at ")[2].partition(",")[0]

    def wait_ready(self) -> None:
        assert self.process.stdout.readline() == "ready\n"

    def end(self, seconds: float = 20) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, errors


@pytest.fixture
def process(checkpoint) -> Iterator[Process]:
    process = Process(checkpoint)
    yield process
    process.process.kill()
    process.process.communicate()


def test_running_answers_finish_and_new_ones_are_refused_while_it_stops(process):
    assert process.first_line.startswith("owl: chat page at http://127.0.0.1:")
    health = httpx.get(f"{process.url}/healthz/live", timeout=30)
    assert (health.status_code, health.json()["ready"]) == (200, False)
    assert httpx.get(f"{process.url}/healthz/ready", timeout=30).status_code == 503
    process.wait_ready()
    assert httpx.get(f"{process.url}/healthz/ready").status_code == 200

    seen: list[str] = []
    with httpx.stream("POST", f"{process.url}/v1/chat/completions", json=LONG, timeout=60) as answer:
        lines = answer.iter_lines()
        while "content" not in (line := next(lines)) or line.endswith('"content":""}'):
            pass
        process.process.send_signal(signal.SIGTERM)
        while httpx.get(f"{process.url}/healthz/ready").status_code == 200:
            time.sleep(0.01)
        refused = httpx.post(f"{process.url}/v1/chat/completions", json=LONG)
        seen += [line, *lines]
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert "stopping" in refused.json()["error"]["message"]
    assert seen[-2:] == ["data: [DONE]", ""]
    last = json.loads(seen[-4].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] == "length"
    code, errors = process.end()
    assert code == 0
    assert "Traceback" not in errors


def test_answers_that_take_longer_than_the_grace_time_get_an_error(verbose_checkpoint):
    process = Process(verbose_checkpoint, "--grace-seconds=0.2", "--int8")
    process.wait_ready()
    found: list[str] = []
    call = LONG | {"max_tokens": 30_000, "min_tokens": 30_000}

    def read() -> None:
        with httpx.stream("POST", f"{process.url}/v1/chat/completions", json=call, timeout=60) as answer:
            for line in answer.iter_lines():
                found.append(line)

    reader = threading.Thread(target=read)
    reader.start()
    while len(found) < 5:
        time.sleep(0.01)
    process.process.terminate()
    assert process.end()[0] == 0
    reader.join(10)
    error = json.loads(found[-2].removeprefix("data: "))["error"]
    assert "stopped before the answer was finished" in error["message"]


def test_stopped_while_it_compiles_it_ends_at_once_and_in_order(process):
    assert httpx.get(f"{process.url}/healthz/live", timeout=30).json() == {
        "live": True,
        "ready": False,
        "state": "starting",
    }
    process.process.terminate()
    assert process.end(30) == (0, "")


def test_a_model_on_two_devices_answers_alike(checkpoint, process):
    call = {"messages": [user("What?", 1)], "max_tokens": 24, "temperature": 0}
    spread = Process(checkpoint, "--mesh=tensor=2", **environment(devices=2))
    answers = []
    for each in (process, spread):
        each.wait_ready()
        response = httpx.post(f"{each.url}/v1/chat/completions", json=call, timeout=60)
        answers.append(response.json()["choices"][0]["message"]["content"])
    look = {"messages": call["messages"], "answer": answers[1]}
    assert httpx.post(f"{spread.url}/v1/attention", json=look, timeout=60).status_code == 200
    spread.process.terminate()
    assert spread.end()[0] == 0
    assert answers[0] == answers[1] != ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint=/nowhere"], "checkpoint /nowhere"),
        (["--checkpoint=/nowhere", "--port=99999"], "--port must be from 0 to 65535, found 99999"),
        (["--checkpoint=/nowhere", "--api-key-file=/nowhere/key"], "--api-key-file: /nowhere/key is missing"),
        (
            ["--checkpoint=/nowhere", "--model-name= "],
            "serve.model_name: expected text that is not empty, found ' '",
        ),
        (["--checkpoint=/nowhere", "--max-body-mib=0"], "--max-body-mib must be from 1 to 65536, found 0"),
        (["--checkpoint=/nowhere", "--queue=-1"], "--queue must be at least 0, found -1"),
        (["--checkpoint=/nowhere", "--grace-seconds=-1"], "--grace-seconds must be at least 0, found -1"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_code_2(arguments, words, capsys):
    assert main(["serve", "--port=0", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_a_host_that_does_not_exist_is_named():
    with pytest.raises(Owl2Error, match=r"cannot listen at no\.such\.host\.test"):
        listen("no.such.host.test", 0)


def test_empty_key_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("OWL2_API_KEY", " ")
    assert main(["serve", "--checkpoint=/nowhere"]) == 2
    assert "API key is empty" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["sécret", "one\ntwo", "a\tb"])
def test_a_key_that_no_client_could_show_is_refused(monkeypatch, capsys, key):
    monkeypatch.setenv("OWL2_API_KEY", key)
    assert main(["serve", "--checkpoint=/nowhere"]) == 2
    assert "characters that no header of HTTP can carry" in capsys.readouterr().err


def test_a_key_file_may_begin_with_a_byte_order_mark_and_end_in_a_line_break(tmp_path):
    file = tmp_path / "key"
    file.write_bytes(b"\xef\xbb\xbfsecret\r\n")
    assert read_key(file) == "secret"
    file.write_bytes("secret".encode("utf-16"))
    with pytest.raises(Owl2Error, match="UTF-16"):
        read_key(file)


def test_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(Owl2Error, match="choose another"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_addresses_of_both_kinds():
    with listen("127.0.0.1", 0) as four, listen("::1", 0) as six:
        assert url_of(four).startswith("http://127.0.0.1:")
        assert url_of(six).startswith("http://[::1]:")


def test_open_server_without_a_key_warns(capsys):
    from owl2_jax.cli.serve import warn_if_open
    from owl2_jax.serving.settings import ServeConfig

    for host, key, warned in (
        ("0.0.0.0", None, True), ("0.0.0.0", "k", False), ("127.0.0.1", None, False),
        ("::", None, True), ("::1", None, False), ("owl.example", None, True), ("localhost", None, False),
    ):  # fmt: skip
        warn_if_open(host, ServeConfig(api_key=key))
        assert ("warning" in capsys.readouterr().err) == warned
