"""Answers and their code go to the clipboard, also where a page may not ask for it."""

from __future__ import annotations

from playwright.sync_api import expect

from tests.serving.page.driving import answer_with, ask, expect_focus, wait_answer

TEXT = "It is **bold**:\n\n```js\nlet a = 1;\n```"


def answered(page):
    answer_with(page, TEXT)
    ask(page, "What?")
    return wait_answer(page)


def paste(page) -> str:
    page.fill("#text", "")
    page.focus("#text")
    page.keyboard.press("Control+v")
    return page.input_value("#text")


def test_answer_and_code_are_copied(opened):
    with opened(permissions=["clipboard-read", "clipboard-write"]) as page:
        answer = answered(page)
        answer.locator(".actions .copy").click()
        expect(answer.locator(".actions .copy")).to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == TEXT
        answer.locator(".code .copy").click()
        assert page.evaluate("navigator.clipboard.readText()") == "let a = 1;\n"
        expect(answer.locator(".actions .copy")).to_have_text("Copy")


def test_answer_is_copied_with_the_keyboard_where_there_is_no_clipboard_to_ask_for(page):
    # As on plain http from another machine.
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    answer = answered(page)
    answer.locator(".actions .copy").focus()
    page.keyboard.press("Enter")
    expect(answer.locator(".actions .copy")).to_have_text("Copied")
    expect(page.locator("#announcer")).to_have_text("Copied")
    expect_focus(page, "Copy the answer")
    assert paste(page) == TEXT


def test_answer_is_marked_where_nothing_may_be_copied(page):
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.evaluate("document.execCommand = () => false")
    answer = answered(page)
    answer.locator(".actions .copy").click()
    expect(answer.locator(".actions .copy")).to_have_text("Marked: press Ctrl+C")
    assert "let a = 1;" in page.evaluate("getSelection().toString()")
