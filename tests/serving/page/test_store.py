"""A conversation survives a reload; what cannot be kept or understood is never in the way."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.serving.page.driving import (
    add,
    answer_with,
    ask,
    drawn,
    hold,
    image_file,
    sent_messages,
    wait_answer,
)

SAVED = 1000  # milliseconds after which the page has saved what it shows
TEXT = "It is **one**."

READ_ALL = """() => new Promise((done) => {
  const opening = indexedDB.open("owl2", 1);
  opening.onsuccess = () => {
    const all = opening.result.transaction("conversations").objectStore("conversations").getAll();
    all.onsuccess = () => { opening.result.close(); done(all.result); };
  };
})"""

WRITE = """(record) => new Promise((done) => {
  const opening = indexedDB.open("owl2", 1);
  opening.onsuccess = () => {
    const writing = opening.result.transaction("conversations", "readwrite");
    writing.objectStore("conversations").put({ ...record, id: sessionStorage.getItem("owl2-conversation") });
    writing.oncomplete = () => { opening.result.close(); done(); };
  };
})"""


def reload(page: Page) -> None:
    page.wait_for_timeout(SAVED)
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny-owl")


def have_conversation(page: Page) -> None:
    answer_with(page, TEXT)
    add(page, image_file(1))
    ask(page, "First?")
    wait_answer(page)


def test_conversation_its_images_and_what_is_being_written_survive_a_reload(page):
    have_conversation(page)
    add(page, image_file(2))
    page.fill("#text", "Half a quest")
    reload(page)
    expect(page.locator("article.user p")).to_have_text("First?")
    expect(page.locator("article.user img")).to_have_count(1)
    expect(page.locator("article.assistant strong")).to_have_text("one")
    expect(page.locator("article.assistant .retry")).to_have_count(1)
    expect(page.locator("#text")).to_have_value("Half a quest")
    expect(page.locator(".thumb")).to_have_count(1)
    expect(page.locator("#welcome")).to_be_hidden()
    messages = sent_messages(page, "Second?")
    assert messages[0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert messages[1] == {"role": "assistant", "content": TEXT}


def test_answer_that_is_still_coming_at_a_reload_gives_the_question_back(page):
    have_conversation(page)
    page.unroute("**/v1/chat/completions")
    hold(page)
    ask(page, "Second?")
    reload(page)
    expect(page.locator("#text")).to_have_value("Second?")
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("#notice")).to_contain_text("The page was left before an answer came.")
    assert len(sent_messages(page, "Again?")) == 3


def test_new_chat_is_empty_after_a_reload_and_the_last_one_can_be_gone_on_with(page):
    have_conversation(page)
    page.click("#new")
    reload(page)
    expect(page.locator("article")).to_have_count(0)
    page.locator("#go-on button").click()
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("#go-on")).to_be_hidden()
    expect(page.locator("#text")).to_be_focused()
    assert len(sent_messages(page, "Second?")) == 3


def test_what_is_typed_into_a_new_chat_at_once_stays(page):
    have_conversation(page)
    # The last conversation is still being saved.
    page.evaluate(
        """() => {
          document.getElementById("new").click();
          const text = document.getElementById("text");
          text.value = "Typed at once";
          text.dispatchEvent(new Event("input"));
        }"""
    )
    add(page, image_file(2))
    expect(page.locator("article")).to_have_count(0)
    page.locator("#go-on button").click()
    expect(page.locator("article")).to_have_count(2)
    expect(page.locator("#text")).to_have_value("Typed at once")
    expect(page.locator(".thumb")).to_have_count(1)
    assert len(sent_messages(page, "Second?")) == 3


def test_tabs_do_not_write_into_each_other(page):
    have_conversation(page)
    page.wait_for_timeout(SAVED)
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.locator("article")).to_have_count(0)
    other.locator("#go-on button").click()
    answer_with(other, "Two.")
    ask(other, "Second?")
    wait_answer(other)
    reload(other)
    reload(page)
    expect(other.locator("article")).to_have_count(4)
    expect(page.locator("article")).to_have_count(2)


def test_stored_conversations_are_few_and_can_be_deleted(page):
    answer_with(page, TEXT)
    for i in range(7):
        ask(page, f"Question {i}?")
        wait_answer(page)
        page.click("#new")
        expect(page.locator("article")).to_have_count(0)
        expect(page.locator("#go-on")).to_be_visible()
    assert len(page.evaluate(READ_ALL)) == 5
    page.click("#open-settings")
    page.click("#delete-stored")
    expect(page.locator("#delete-stored")).to_have_text("Really delete them?")
    assert len(page.evaluate(READ_ALL)) == 5
    page.click("#delete-stored")
    expect(page.locator("#delete-stored")).to_have_text("Deleted")
    page.click("#done")
    assert page.evaluate(READ_ALL) == []
    reload(page)
    expect(page.locator("#go-on")).to_be_hidden()


TURN = {"role": "user", "text": "x", "images": [], "note": ""}
BROKEN = [
    {},
    {"turns": None, "draft": None},
    {"turns": "text"},
    {"turns": [None]},
    {"turns": [{"role": "user"}]},
    {"turns": [TURN, TURN]},
    {"turns": [TURN | {"role": "assistant"}]},
    {"turns": [TURN | {"role": "system"}]},
    {"turns": [TURN | {"text": 7}]},
    {"turns": [TURN | {"images": "a"}]},
]


@pytest.mark.parametrize("record", BROKEN, ids=range(len(BROKEN)))
def test_broken_stored_conversation_is_ignored_and_replaced(page, record):
    page.evaluate(WRITE, record | {"time": 1})
    page.reload()
    expect(page.locator("#model")).to_have_text("tiny-owl")
    expect(page.locator("article")).to_have_count(0)
    assert page.evaluate(READ_ALL) == []
    answer_with(page, TEXT)
    ask(page, "What?")
    wait_answer(page)
    reload(page)
    expect(page.locator("article")).to_have_count(2)


UNKNOWN = [
    7,
    None,
    "https://evil.example.org/a.png",
    "javascript:alert(1)",
    "data:text/plain;base64,eA==",
    "data:image/png,x",
]


def test_stored_images_that_are_none_are_left_out_and_the_conversation_stays(page):
    have_conversation(page)
    reload(page)
    record = page.evaluate(READ_ALL)[0]
    question = record["turns"][0]
    question["images"] += UNKNOWN
    record["draft"] = {"text": "Half", "images": [*UNKNOWN, question["images"][0]]}
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.evaluate(WRITE, record)
    page.reload()
    expect(page.locator("article.user img")).to_have_count(1)
    expect(page.locator("article.user .unshown")).to_have_text(
        ["This image could not be kept, and is no longer sent."] * len(UNKNOWN)
    )
    expect(page.locator("#text")).to_have_value("Half")
    expect(page.locator(".thumb")).to_have_count(1)
    assert len(sent_messages(page, "Second?")[0]["content"]) == 2
    assert not [url for url in requests if "evil" in url]


@pytest.mark.parametrize(
    "make",
    [
        "indexedDB.open('owl2', 99)",
        "(r => (r.onupgradeneeded = () => r.result.createObjectStore('else'), r))(indexedDB.open('owl2', 1))",
        "(r => (r.onupgradeneeded = () => r.result.createObjectStore('conversations'), r))"
        "(indexedDB.open('owl2', 1))",
    ],
    ids=["newer", "another", "alike"],
)
def test_foreign_database_of_the_same_name_is_replaced(opened, served, make):
    with opened(f"{served.url}/page/icon.svg", connected=False) as page:
        page.evaluate(f"() => new Promise((done) => {{ const r = {make};"
                      "r.onsuccess = () => { r.result.close(); done(); }; })")  # fmt: skip
        page.goto(served.url)
        have_conversation(page)
        reload(page)
        expect(page.locator("article")).to_have_count(2)


def test_images_without_room_are_left_out_and_that_is_said(page):
    line = page.context.new_cdp_session(page)
    origin = page.evaluate("location.origin")
    answer_with(page, TEXT)
    noise = drawn(10, 10)
    page.evaluate(
        """() => {
          const put = IDBObjectStore.prototype.put;
          IDBObjectStore.prototype.put = function (value) {
            const large = JSON.stringify(value).includes("base64");
            if (large) throw new DOMException("full", "QuotaExceededError");
            return put.call(this, value);
          };
        }"""
    )
    add(page, noise)
    ask(page, "First?")
    wait_answer(page)
    expect(page.locator("#unkept")).to_be_visible()
    reload(page)
    expect(page.locator("article.user .unshown")).to_contain_text("could not be kept, and is no longer sent")
    assert sent_messages(page, "Second?")[0]["content"] == [{"type": "text", "text": "First?"}]
    line.send("Storage.overrideQuotaForOrigin", {"origin": origin, "quotaSize": 1})
    wait_answer(page)
    ask(page, "Third?")
    wait_answer(page)  # nothing at all can be kept, and the page goes on
    expect(page.locator("article")).to_have_count(6)
