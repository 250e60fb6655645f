"""Questions and answers on the page: streaming, stopping, asking again, and what happens when none comes."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from owl2_jax.inference.engine import EngineConfig
from tests.serving.page.driving import (
    COMPLETIONS,
    add,
    answer_with,
    ask,
    expect_focus,
    hold,
    image_file,
    sent_messages,
    set_field,
    stream,
    wait_answer,
)
from tests.serving.running import serve

BACK = "Your question is back in the field."


def error_body(message: str, status: int, **headers: str) -> dict:
    body = json.dumps({"error": {"message": message, "code": None}})
    return {"status": status, "body": body, "content_type": "application/json", "headers": headers}


@pytest.fixture
def slow(page):
    """A slow line, so that the answer is still coming when a person would press the button."""
    line = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": 2000, "uploadThroughput": -1}
    line.send("Network.enable")
    line.send("Network.emulateNetworkConditions", slow)
    yield page
    line.send("Network.emulateNetworkConditions", slow | {"downloadThroughput": -1})


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_answer_is_streamed_stopped_and_asked_for_again(slow, served, how):
    page = slow
    ask(page, "What?")
    body = page.locator("article.assistant .body")
    expect(body).not_to_have_text("", timeout=30_000)
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#send")).to_be_hidden()
    if how == "Escape":
        page.keyboard.press("Escape")
    else:
        page.click("#stop")
    answer = wait_answer(page)
    expect_focus(page, "text")
    expect(answer.locator(".note")).to_have_text("Stopped")
    served.wait(served.idle, 5)
    stopped = body.inner_text()

    set_field(page, "max_tokens", 8)
    answer.locator(".retry").click()
    expect(page.locator("#stop")).to_be_hidden(timeout=60_000)
    again = wait_answer(page).locator(".body").inner_text()
    assert page.locator("article.assistant").count() == 1
    # Greedy answers begin alike; either may be the longer one.
    common = max(min(len(again), len(stopped)) // 2, 1)
    assert again[:common] == stopped[:common] != ""


def test_turns_are_sent_with_everything_said_before(page):
    answer_with(page, "It is **one**.", "Two.")
    add(page, image_file(3))
    ask(page, "First?")
    wait_answer(page)
    messages = sent_messages(page, "Second?")
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [part["type"] for part in messages[0]["content"]] == ["image_url", "text"]
    assert messages[1]["content"] == "It is **one**."
    assert messages[2]["content"] == [{"type": "text", "text": "Second?"}]
    expect(page.locator("article.assistant")).to_have_count(2)
    expect(page.locator(".retry")).to_have_count(1)
    page.click("#new")
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("#welcome")).to_be_visible()
    expect_focus(page, "text")


def test_answer_of_the_server_is_the_one_that_is_shown(page, served):
    set_field(page, "max_tokens", 12)
    add(page, image_file(1))
    messages = sent_messages(page, "What is this?")
    answer = wait_answer(page)
    expect(answer.locator(".note")).to_have_text("Cut at the length limit")
    call = {"messages": messages, "max_tokens": 12, "temperature": 0}
    expected = served.post(call).json()["choices"][0]["message"]["content"]
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    answer.locator(".copy").first.click()
    assert page.evaluate("window.copied") == expected


FAILURES = [
    (error_body("the conversation has 9 tokens; the model takes 8", 400), "The conversation has 9 tokens"),
    (error_body("5 requests wait already", 429, **{"Retry-After": "7"}), "It may work in 7 s."),
    (error_body("the engine failed while it answered; try again", 500), "The engine failed"),
    ({"status": 502, "body": "<html>Bad gateway</html>"}, "The server does not answer (status 502)"),
    ({"status": 413, "body": ""}, "too large for what stands before"),
    ({"status": 404, "body": "no"}, "The server answered with status 404."),
    ({"abort": "connectionrefused"}, "The server cannot be reached."),
    ({"body": stream("", whole=False)}, "The connection to the server was lost before"),
    ({"body": 'data: {"error": {"message": "the server stopped"}}\n\n'}, "The server stopped."),
    ({"body": stream("")}, "The model gave an empty answer."),
]  # fmt: skip


@pytest.mark.parametrize(("failure", "words"), FAILURES, ids=[words for _, words in FAILURES])
def test_question_without_an_answer_goes_back_into_the_field_with_its_images(page, failure, words):
    answer_with(page, failure, "At last.")
    add(page, image_file(1), image_file(2))
    ask(page, "What is\nthis?")
    expect(page.locator("#notice")).to_contain_text(words)
    expect(page.locator("#notice")).to_contain_text(BACK)
    expect(page.locator("#text")).to_have_value("What is\nthis?")
    expect(page.locator(".thumb")).to_have_count(2)
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("#send")).to_be_enabled()
    expect_focus(page, "text")

    with page.expect_request(COMPLETIONS) as sent:
        page.keyboard.press("Enter")
    (message,) = json.loads(sent.value.post_data)["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url", "image_url", "text"]
    expect(wait_answer(page).locator(".body")).to_have_text("At last.")
    expect(page.locator("#notice")).to_be_hidden()


def test_failed_second_question_leaves_the_first_and_its_answer(page):
    answer_with(page, "One.", {"abort": "connectionreset"}, "Two.")
    ask(page, "First?")
    wait_answer(page)
    ask(page, "Second?")
    expect(page.locator("#text")).to_have_value("Second?")
    expect(page.locator("article.assistant .retry")).to_have_count(1)
    messages = sent_messages(page, "Second, again?")
    assert [message["content"][0]["text"] for message in messages[::2]] == ["First?", "Second, again?"]


def test_what_was_written_meanwhile_is_not_lost_when_a_question_comes_back(page):
    held = hold(page)
    ask(page, "First?")
    expect(page.locator("#stop")).to_be_visible()
    page.fill("#text", "Second?")
    add(page, image_file(1))
    held[0].abort("connectionreset")
    expect(page.locator("#text")).to_have_value("First?\n\nSecond?")
    expect(page.locator(".thumb")).to_have_count(1)


def test_connection_lost_in_the_middle_keeps_what_has_come(page):
    answer_with(page, {"body": stream("Half of **it**", whole=False)}, "Whole.")
    ask(page, "What?")
    answer = wait_answer(page)
    expect(answer.locator(".body")).to_have_text("Half of it")
    expect(answer.locator(".error")).to_have_text(
        "The connection to the server was lost before the answer was finished"
    )
    expect(page.locator("#text")).to_have_value("")
    answer.locator(".retry").click()
    expect(page.locator("article.assistant .body")).to_have_text("Whole.")


def test_retry_that_fails_leaves_the_answer_that_was_there(page):
    answer_with(page, "One.", {"abort": "connectionreset"})
    ask(page, "First?")
    wait_answer(page).locator(".retry").click()
    expect(page.locator("#notice")).to_contain_text("The server cannot be reached.")
    expect(page.locator("#notice")).not_to_contain_text(BACK)
    expect(wait_answer(page).locator(".body")).to_have_text("One.")
    expect(page.locator("article.user")).to_have_count(1)
    expect(page.locator("#text")).to_have_value("")


def test_question_stopped_before_its_answer_goes_back_without_a_complaint(page):
    page.route(COMPLETIONS, lambda route: None)
    ask(page, "What?")
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#text")).to_have_value("What?")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#announcer")).to_have_text(f"Stopped. {BACK}")
    expect_focus(page, "text")


def test_nothing_is_sent_twice_and_nothing_empty(page):
    calls = []
    page.on("request", lambda request: calls.append(request.url) if "completions" in request.url else None)
    answer_with(page, "One.")
    page.press("#text", "Enter")
    page.fill("#text", " \n ")
    page.press("#text", "Enter")
    expect(page.locator("#send")).to_be_disabled()
    page.fill("#text", "First?")
    page.evaluate("for (let i = 0; i < 3; i++) document.getElementById('composer').requestSubmit()")
    wait_answer(page)
    assert len(calls) == 1


def test_server_that_ends_while_it_answers_is_told_in_words(opened, endless):
    with (
        serve(endless, EngineConfig(sequences=1, decode_steps=1), grace_seconds=0) as running,
        opened(running.url) as page,
    ):
        line = page.context.new_cdp_session(page)
        line.send("Network.enable")
        line.send("Network.emulateNetworkConditions",
                  {"offline": False, "latency": 0, "downloadThroughput": 2000,
                   "uploadThroughput": -1})  # fmt: skip
        ask(page, "What?")
        expect(page.locator("article.assistant .body")).not_to_have_text("", timeout=30_000)
        running.server.stop()
        running.server.stop()
        answer = wait_answer(page)
        expect(answer.locator(".error")).to_contain_text("stopped before the answer was finished")
        expect(page.locator("#banner")).to_contain_text("cannot be reached. Is it running?")
        ask(page, "And now?")
        expect(page.locator("#text")).to_have_value("And now?")
