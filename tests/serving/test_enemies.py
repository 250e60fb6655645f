"""Bad requests: each gets its status and an OpenAI-style error body, and the server goes on serving."""

from __future__ import annotations

import socket

import httpx
import pytest

from tests.serving.questions import image_part, user
from tests.serving.running import Running
from tests.serving.test_images import data_url as url_of_bytes
from tests.serving.test_images import png_of_size


def conversation(*parts) -> dict:
    return {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 4}


def image(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def check_error(response: httpx.Response, status: int, words: str) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    (body,) = response.json().values()
    assert set(body) == {"message", "type", "param", "code"}
    assert words in body["message"], body["message"]
    assert "\n" not in body["message"]
    assert "Traceback" not in response.text
    return body


@pytest.fixture(autouse=True)
def still_serves(shared: Running):
    yield
    answer = shared.post({"messages": [user("What?")], "max_tokens": 2, "temperature": 0})
    assert answer.status_code == 200
    shared.wait(shared.idle)
    assert shared.service.bodies.held == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xff\xfe\x00", "the body is UTF-16, not UTF-8"),
        ('{"messages": []}'.encode("utf-16"), "the body is UTF-16, not UTF-8"),
        (b'\xef\xbb\xbf{"messages": []}', "messages is []"),
        (b'{"model": "tiny", "messages": [], "messages": []}', "'messages'"),
        (b'{"user": "\xfc"}', "not UTF-8 text: byte 0xfc"),
        (b"[]", "expected an object"),
        (b'"text"', "expected an object"),
        (b"null", "expected an object"),
        (b"{}", "messages is None"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "UTF-8 form"),
        (b'{"\\ud800\\n": 1}', "unknown field"),
        (b'{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}', "model is '\\ud800'"),
    ],
)
def test_malformed_bodies(shared, body, words):
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{shared.url}/v1/chat/completions", content=body, headers=headers)
    check_error(response, 400, words)


def test_other_content_types(shared):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        response = httpx.post(
            f"{shared.url}/v1/chat/completions", content=b"{}", headers={"Content-Type": kind} if kind else {}
        )
        check_error(response, 415, "expected 'application/json'")


@pytest.mark.parametrize(
    ("call", "status", "code", "words"),
    [
        ({"messages": [user("What?")], "model": "gpt-4o"}, 404, "model_not_found", "'gpt-4o' is not served"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_value", "role is 'robot'"),
        ({"messages": [{"role": "user"}]}, 400, "invalid_value", "content is None"),
        ({"messages": [user("What?")], "max_tokens": 0}, 400, "invalid_value", "max_tokens is 0"),
        ({"messages": [user("What? " * 100)]}, 400, "context_length_exceeded", "takes 128 tokens"),
        ({"messages": [user("x" * 500_000)]}, 400, "context_length_exceeded", "500000 characters"),
        ({"messages": [user("")]}, 400, "invalid_value", "empty"),
        ({"messages": [user("x " * 60, *range(4))]}, 400, "context_length_exceeded", "4 images"),
        (
            {"messages": [user("x") | {"images": ["AAAA"]}]},
            400,
            "invalid_image",
            "image 1",
        ),
        ({"messages": [user("x") | {"image": "AAAA"}]}, 400, "unknown_parameter", "did you mean 'images'"),
        ({"messages": [user("What is <image>?")]}, 400, "invalid_value", "with which no image comes"),
        (
            conversation(*[image("data:,")] * 10_000),
            400,
            "too_many_images",
            "10000 images; expected at most 4",
        ),
        (conversation(image("data:image/png;base64,aGVsbG8=")), 400, "invalid_image", "no image"),
        (conversation(image("data:image/png;base64,###")), 400, "invalid_image_url", "base64"),
        (conversation(image(url_of_bytes(png_of_size(60_000, 60_000)))), 400, "invalid_image", "image 1"),
        (
            conversation(image_part(1), image("data:image/png;base64,AAAA")),
            400,
            "invalid_image",
            "image 2",
        ),
        (conversation(image("file:///etc/passwd")), 400, "invalid_image_url", "data: URLs only"),
        (conversation(image("/etc/passwd")), 400, "invalid_image_url", "data: URLs only"),
        (conversation(image("http://127.0.0.1:1/")), 400, "invalid_image_url", "data: URLs only"),
        (conversation(image("http://169.254.169.254/")), 400, "invalid_image_url", "data: URLs only"),
        (conversation(image("javascript:alert(1)")), 400, "invalid_image_url", "data: URLs only"),
    ],
)
def test_bad_calls(shared, call, status, code, words):
    body = check_error(shared.post(call), status, words)
    assert body["code"] == code
    assert body["param"]
    # A stream that cannot begin is an error like any other.
    check_error(shared.post(call | {"stream": True}), status, words)


def test_large_body_is_refused_by_its_head(shared):
    """Nothing of the 100 MB is sent, and the answer is there."""
    with socket.create_connection(("127.0.0.1", shared.port), 10) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100000000\r\n\r\n"
        )
        assert sock.recv(1000).startswith(b"HTTP/1.1 413")


def test_large_bodies_get_their_error_also_when_they_are_sent(shared):
    def chunks():
        for _ in range(100):
            yield bytes(50_000)

    headers = {"Content-Type": "application/json"}
    url = f"{shared.url}/v1/chat/completions"
    for content in (bytes(5_000_000), chunks()):
        body = check_error(httpx.post(url, content=content, headers=headers, timeout=30), 413, "1 MiB")
        assert body["code"] == "too_large"


@pytest.mark.parametrize(
    "value", [b"7,", b"[1],", b"[", b'{"a":{},'], ids=["ids", "lists", "brackets", "objects"]
)
def test_a_body_of_more_values_than_prompts_can_have_is_not_read(shared, value):
    content = b'{"prompt": [' + value * (1_000_000 // len(value))
    headers = {"Content-Type": "application/json"}
    response = httpx.post(f"{shared.url}/v1/completions", content=content, headers=headers, timeout=30)
    body = check_error(response, 413, "commas and opening brackets; expected at most")
    assert body["code"] == "too_large"


def test_many_large_bodies_at_the_same_time_are_refused(shared):
    shared.service.bodies.held += 600 * 2**20
    try:
        response = shared.post({"messages": [user("What?", 1)]})
    finally:
        shared.service.bodies.held -= 600 * 2**20
    check_error(response, 429, "too many large requests")
    assert response.headers["retry-after"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/page/nothing.js", 404),
        ("GET", "/page/", 404),
    ],
)
def test_paths_and_methods_that_are_not_there(shared, method, path, status):
    check_error(httpx.request(method, shared.url + path), status, path.rstrip("/"))


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n",
        b"\x00" * 1000,
    ],
)
def test_what_is_no_http_is_refused(shared, data):
    with socket.create_connection(("127.0.0.1", shared.port), 10) as sock:
        sock.sendall(data)
        answer = sock.recv(1000)
    assert answer.startswith(b"HTTP/1.1 400") or answer == b""


def test_nothing_of_a_request_is_evaluated_or_written(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("{{7*7}}", "${7*7}", "__import__('os').system('touch owned')", "../../owned", "%s%n{0}"):
        answer = shared.post({"messages": [user(text)], "max_tokens": 2, "user": text, "stop": [text]})
        assert answer.status_code == 200
    assert list(tmp_path.iterdir()) == []
