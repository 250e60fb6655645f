"""The settings: sent as they are set, kept over a reload, and harmless when what is stored is broken."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.serving.page.driving import COMPLETIONS, answer_with, ask, sent_messages, set_field, wait_answer

DEFAULTS = {"temperature": 0, "top_p": 1}


def sent(page) -> dict:
    with page.expect_request(COMPLETIONS) as sent:
        ask(page, "What?")
    wait_answer(page)
    body = json.loads(sent.value.post_data)
    return {name: value for name, value in body.items() if name not in ("messages", "stream")}


BROKEN = [
    "", "{", "null", "[]", "1", '"text"', "true", "[1,2]", "\u0000", '{"temperature":"hot","top_p":null}',
    '{"temperature":1e9,"top_p":-3,"max_tokens":0,"seed":1e300}', '{"max_tokens":1.5,"seed":"7"}',
    '{"max_tokens":[],"system":{"a":1}}', '{"__proto__":{"temperature":2}}', '{"other":"program"}',
]  # fmt: skip


@pytest.mark.parametrize("stored", BROKEN)
def test_broken_stored_settings_are_ignored_and_replaced(page, stored):
    page.evaluate("stored => localStorage.setItem('owl2-settings', stored)", stored)
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny-owl")
    answer_with(page, "Yes.")
    assert sent(page) == DEFAULTS
    assert json.loads(page.evaluate("localStorage.getItem('owl2-settings')")) == DEFAULTS


def test_one_broken_value_leaves_the_others(page):
    page.evaluate(
        'localStorage.setItem(\'owl2-settings\', \'{"temperature":0.5,"top_p":9,"system":"Be brief."}\')'
    )
    page.reload()
    answer_with(page, "Yes.")
    assert sent(page) == DEFAULTS | {"temperature": 0.5}
    expect(page.locator("#system")).to_have_value("Be brief.")


def test_page_works_where_storage_is_forbidden(browser, served):
    context = browser.new_context()
    context.add_init_script(
        """for (const name of ["localStorage", "sessionStorage", "indexedDB"]) {
             const get = () => { throw new DOMException("no", "SecurityError"); };
             Object.defineProperty(window, name, { get });
           }"""
    )
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(served.url)
    expect(page.locator("#model")).to_have_text("tiny-owl")
    answer_with(page, "Yes.")
    set_field(page, "max_tokens", 5)
    assert sent(page) == DEFAULTS | {"max_tokens": 5}
    page.click("#new")
    expect(page.locator("article")).to_have_count(0)
    assert sent(page) == DEFAULTS | {"max_tokens": 5}
    assert errors == []
    context.close()


def test_settings_are_kept_over_a_reload_and_go_back_to_the_defaults(page):
    set_field(page, "max_tokens", 5)
    set_field(page, "seed", 7)
    set_field(page, "system", "Be brief.")
    set_field(page, "temperature", 0.5)
    page.reload()
    answer_with(page, "Yes.")
    assert sent(page) == {"temperature": 0.5, "top_p": 1, "max_tokens": 5, "seed": 7}
    page.click("#open-settings")
    expect(page.locator("output").first).to_have_text("0.50")
    page.click("#defaults")
    page.click("#done")
    assert sent(page) == DEFAULTS
    expect(page.locator("#system")).to_have_value("")


def test_number_that_is_not_allowed_is_told_at_its_field_and_not_sent(page):
    answer_with(page, "Yes.")
    page.click("#open-settings")
    page.fill("#max_tokens", "0")
    page.click("#done")
    expect(page.locator("#settings")).to_be_visible()
    assert page.evaluate("document.getElementById('max_tokens').validationMessage")
    page.keyboard.press("Escape")
    assert sent(page) == DEFAULTS


def test_system_prompt_is_the_first_message_and_an_empty_one_is_none(page):
    answer_with(page, "Yes.")
    set_field(page, "system", "  Answer in\nFrench. ")
    first = sent_messages(page, "What?")
    assert first[0] == {"role": "system", "content": "Answer in\nFrench."}
    wait_answer(page)
    assert [message["role"] for message in sent_messages(page, "And?")] == [
        "system",
        "user",
        "assistant",
        "user",
    ]
    wait_answer(page)
    set_field(page, "system", " ")
    assert sent_messages(page, "Well?")[0]["role"] == "user"


def test_system_prompt_reaches_the_model(page, served):
    set_field(page, "max_tokens", 8)
    set_field(page, "system", "You are an owl.")
    ask(page, "Who?")
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    wait_answer(page).locator(".copy").first.click()
    messages = [{"role": "system", "content": "You are an owl."}, {"role": "user", "content": "Who?"}]
    call = {"messages": messages, "max_tokens": 8, "temperature": 0}
    assert page.evaluate("window.copied") == served.post(call).json()["choices"][0]["message"]["content"]
