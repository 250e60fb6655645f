"""Slow clients and clients that vanish: nobody else waits for them, and their row is free again."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import pytest

from owl2_jax.inference.engine import EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.testing import tiny
from tests.serving.questions import user
from tests.serving.running import Running, serve

LONG = 1500  # tokens; takes seconds


@pytest.fixture(scope="module")
def patient(toy_tokenizer, tiny_params) -> Iterator[Running]:
    """A server of two sequences at a time whose answers may be long."""
    model = LoadedModel(tiny.tiny_config(decoder__max_length=2048), tiny_params, toy_tokenizer, name="tiny")
    engine = EngineConfig(sequences=2, decode_steps=4)
    with serve(model, engine, True, queue=2, body_seconds=0.5, head_seconds=0.5) as running:
        short = {"messages": [user("What?")], "max_tokens": 8}
        assert running.post(short).status_code == 200  # compiled
        assert running.post(short | {"temperature": 0}).status_code == 200
        yield running


def long_call(**settings) -> dict:
    return {
        "messages": [user("What?")], "max_tokens": LONG, "min_tokens": LONG, "temperature": 0
    } | settings  # fmt: skip


def connect(running: Running, body: dict | None, size: int | None = None) -> socket.socket:
    """Sends a request (or a part of it, when its `size` is given) and reads nothing."""
    data = json.dumps(body).encode() if body else b""
    sock = socket.create_connection(("127.0.0.1", running.port), 10)
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {size or len(data)}",
    ]
    sock.sendall("\r\n".join([*head, "", ""]).encode() + data)
    return sock


def generated(running: Running) -> float:
    text = running.service.metrics.text().decode()
    return float(text.partition("\nowl2_generated_tokens_total ")[2].split()[0])


@pytest.mark.parametrize("stream", [True, False])
def test_vanished_clients_free_their_rows(patient, stream):
    before = generated(patient)
    socks = [connect(patient, long_call(stream=stream)) for _ in range(4)]  # two of them wait
    patient.wait(lambda: patient.service.runner.running == 2 and patient.service.runner.waiting == 2)
    if stream:
        assert socks[0].recv(100).startswith(b"HTTP/1.1 200")
    for sock in socks:
        sock.close()
    patient.wait(patient.idle, 5)
    assert patient.service.runner.waiting == 0
    assert generated(patient) - before < 2 * LONG
    assert patient.post({"messages": [user("What?")], "max_tokens": 8}).status_code == 200


def test_full_queue_is_told_at_once_and_with_a_time(patient):
    socks = [connect(patient, long_call(stream=True)) for _ in range(4)]
    patient.wait(lambda: patient.service.runner.waiting == 2)
    began = time.perf_counter()
    response = patient.post({"messages": [user("What?")]})
    assert time.perf_counter() - began < 2
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(response.headers["retry-after"]) <= 60
    for sock in socks:
        sock.close()
    patient.wait(patient.idle, 5)


def test_client_that_does_not_read_holds_no_row(patient):
    """Its answer waits in the server's memory; the engine is done with it."""
    sock = connect(patient, long_call(stream=True))
    patient.wait(lambda: patient.service.runner.running == 1)
    patient.wait(patient.idle, 30)
    text = b""
    while not text.endswith(b"0\r\n\r\n"):
        text += sock.recv(65536)
    assert b"data: [DONE]" in text
    sock.close()


def test_slow_body_is_given_up(patient):
    sock = connect(patient, None, size=1000)
    sock.settimeout(5)
    began = time.perf_counter()
    sock.sendall(b"{")
    answer = b""
    while part := sock.recv(2000):  # head and body may come apart
        answer += part
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 0.5 s" in answer
    assert time.perf_counter() - began < 3
    sock.close()


def test_vanishing_in_the_middle_of_a_body_leaves_nothing_behind(patient):
    for _ in range(3):
        sock = connect(patient, None, size=100_000)
        sock.sendall(b"x" * 50_000)
        patient.wait(lambda: patient.service.bodies.held > 0)
        sock.close()
        patient.wait(lambda: patient.service.bodies.held == 0)
    assert patient.idle()


def test_slow_head_is_given_up(patient):
    """A connection that never asks anything is closed; so is one that begins to and stops."""
    for data in (b"", b"GET /healthz HTTP/1.1\r\nHost:"):
        with socket.create_connection(("127.0.0.1", patient.port), 5) as sock:
            sock.sendall(data)
            began = time.perf_counter()
            assert sock.recv(100) == b""
            assert 0.2 < time.perf_counter() - began < 3


def test_second_request_of_a_connection_may_not_be_slow_either(patient):
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", patient.port), 5) as sock:
        for pause in (0.0, 0.7):  # between requests a client may take its time
            time.sleep(pause)
            sock.sendall(whole)
            answer = b""
            while not answer.endswith(b"}"):
                answer += sock.recv(4000)
            assert answer.startswith(b"HTTP/1.1 200")
        sock.sendall(whole[:10])
        assert sock.recv(100) == b""
