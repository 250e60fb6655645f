"""What the page says of the server: starting, compiling, stopping, gone, and back again."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from owl2_jax.inference.engine import EngineConfig
from tests.serving.page.driving import HEALTH, answer_with, ask, expect_focus, hold, wait_answer
from tests.serving.running import serve

STATES = {
    "starting": "The server is starting: it compiles its programs",
    "compiling": "The server is compiling a program that this question is the first to need.",
    "stopping": "The server is stopping and takes no new questions.",
    "failed": "The model has stopped working",
}


@pytest.mark.parametrize(("state", "words"), STATES.items())
def test_state_of_the_server_is_said_in_words_until_it_is_ready(page, state, words):
    page.route(HEALTH, lambda route: route.fulfill(body=json.dumps({"state": state})))
    held = hold(page)
    ask(page, "What?")
    expect(page.locator("#banner")).to_contain_text(words)
    page.unroute(HEALTH)
    expect(page.locator("#banner")).to_be_hidden(timeout=10_000)
    held[0].abort("connectionreset")


def test_starting_server_says_so_at_once_and_the_question_waits_for_it(opened, served, monkeypatch):
    monkeypatch.setattr(served.service.runner, "_ready", False)
    with opened() as page:
        expect(page.locator("#banner")).to_contain_text(STATES["starting"])
        expect(page.locator("#send")).to_be_disabled()  # for want of a question alone
        page.fill("#text", "What?")
        expect(page.locator("#send")).to_be_enabled()
        monkeypatch.undo()
        expect(page.locator("#banner")).to_be_hidden(timeout=10_000)


def test_server_that_is_down_is_said_to_be_and_so_is_its_return(page):
    page.route(HEALTH, lambda route: route.abort("connectionrefused"))
    answer_with(page, {"abort": "connectionrefused"}, "Back.")
    ask(page, "What?")
    expect(page.locator("#banner")).to_contain_text(
        "cannot be reached. Is it running? This page keeps trying."
    )
    assert page.evaluate("location.host") in page.locator("#banner").inner_text()
    page.unroute(HEALTH)
    expect(page.locator("#banner")).to_be_hidden(timeout=10_000)
    page.press("#text", "Enter")
    expect(wait_answer(page).locator(".body")).to_have_text("Back.")


def test_model_is_known_as_soon_as_the_server_answers(browser, served):
    page = browser.new_page()
    page.route("**/v1/models", lambda route: route.abort("connectionrefused"))
    page.goto(served.url)
    expect(page.locator("#text")).to_be_focused()
    page.unroute("**/v1/models")
    expect(page.locator("#model")).to_have_text("tiny-owl", timeout=10_000)
    page.close()


def test_key_is_asked_for_where_one_is_needed(opened, endless):
    with (
        serve(endless, EngineConfig(sequences=1), api_key="secret") as running,
        opened(running.url, connected=False) as page,
    ):
        expect(page.locator("#settings")).to_be_visible()
        expect(page.locator("#key-wanted")).to_contain_text("The API key is missing or wrong")
        expect_focus(page, "key")
        page.keyboard.press("Escape")  # without a key the page says why it cannot be used
        expect(page.locator("#banner")).to_have_text("The server wants an API key: enter it in the settings.")
        expect(page.locator("#settings")).to_be_hidden()
        for key in ("schlüssel ✓", "secret"):
            page.click("#open-settings")
            page.fill("#key", key)
            page.click("#done")
            if key != "secret":
                expect(page.locator("#settings")).to_be_visible()  # wrong: asked for again
                page.keyboard.press("Escape")
        expect(page.locator("#model")).to_have_text("tiny-owl")
        expect(page.locator("#banner")).to_be_hidden()
