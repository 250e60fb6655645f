"""The chat page in a real browser, at the size of a phone. Screenshots are kept in build/screenshots."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from owl2_jax.inference.engine import EngineConfig
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.testing import tiny
from tests.serving.browser import SCREENSHOTS, launched
from tests.serving.questions import user
from tests.serving.running import Running, serve

PHONE = {"width": 360, "height": 640}


@pytest.fixture(scope="module")
def endless(tiny_params, toy_tokenizer) -> LoadedModel:
    """A model that hardly ever ends an answer."""
    decoder = dict(tiny_params["decoder"])
    head = np.array(decoder["head"]["kernel"])
    head[:, toy_tokenizer.eos_id] = 0.0
    params = {**tiny_params, "decoder": {**decoder, "head": {"kernel": head}}}
    return LoadedModel(tiny.tiny_config(decoder__max_length=2048), params, toy_tokenizer, name="tiny-owl")


@pytest.fixture(scope="module")
def served(endless) -> Iterator[Running]:
    with serve(endless, EngineConfig(slots=2, decode_steps=1, shortest_cache=2048), pictures=4) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser, served) -> Iterator[Page]:
    """The chat page, open and connected; any error in its scripts fails the test."""
    context = browser.new_context(viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(served.url)
    expect(page.locator("#model")).to_have_text("tiny-owl")
    yield page
    context.close()
    assert [error for error in errors if "status of 4" not in error] == []


def picture_file(seed: int) -> dict:
    return {"name": f"{seed}.png", "mimeType": "image/png", "buffer": tiny.picture_file(seed, 200)}


def shorten(page: Page, tokens: int) -> None:
    page.click("#open-settings")
    page.fill("#max_tokens", str(tokens))
    page.click("#settings button:not([type=button])")


def ask(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.click("#send")


def wait_answer(page: Page):
    """The newest answer, once it is finished."""
    answer = page.locator("article.assistant").last
    expect(answer.locator(".retry")).to_be_visible(timeout=60_000)
    return answer


def keep(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def assert_fits(page: Page) -> None:
    """Nothing is wider than the screen, and what is to be touched is large enough to be."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")
    for selector in ("#send", "label.button", "#new", "#open-settings"):
        box = page.locator(selector).bounding_box()
        assert min(box["width"], box["height"]) >= 44
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


def test_picture_is_uploaded_and_an_answer_read(page, served):
    keep(page, "phone-welcome")
    assert_fits(page)
    page.set_input_files("#files", [picture_file(1), picture_file(2)])
    expect(page.locator(".thumb")).to_have_count(2)
    page.click(".thumb >> nth=1 >> button")
    expect(page.locator(".thumb")).to_have_count(1)
    shorten(page, 12)
    page.fill("#text", "What is this?")
    keep(page, "phone-question")
    assert_fits(page)
    page.press("#text", "Enter")
    answer = wait_answer(page)
    expect(page.locator("article.user img")).to_have_count(1)
    expect(answer.locator(".note")).to_have_text("cut at the length limit")

    url = f"data:image/png;base64,{base64.b64encode(tiny.picture_file(1, 200)).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
    call = {"messages": [{"role": "user", "content": content}], "max_tokens": 12, "temperature": 0}
    expected = served.post(call).json()["choices"][0]["message"]["content"]
    assert answer.locator("p").first.evaluate("element => element.textContent") == expected

    answer.locator(".look").click()
    expect(answer.locator(".looks figure")).to_have_count(1, timeout=60_000)
    assert "% of the answer's attention" in answer.locator("figcaption").inner_text()
    keep(page, "phone-where-it-looked")
    assert_fits(page)
    shades = answer.locator("canvas").evaluate(
        "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set(d).size; }"
    )
    assert shades > 10
    answer.locator(".look").click()
    expect(answer.locator(".looks")).to_have_count(0)


def test_answer_is_streamed_stopped_and_asked_for_again(page, served):
    # A slow line, so that the answer is still coming when a person would press the button.
    line = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": 2000, "uploadThroughput": -1}
    line.send("Network.enable")
    line.send("Network.emulateNetworkConditions", slow)
    ask(page, "What?")
    body = page.locator("article.assistant p").first
    expect(body).not_to_have_text("", timeout=30_000)
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("#send")).to_be_hidden()
    keep(page, "phone-streaming")
    page.click("#stop")
    line.send("Network.emulateNetworkConditions", slow | {"downloadThroughput": -1})
    answer = wait_answer(page)
    expect(answer.locator(".note")).to_have_text("stopped")
    served.wait(served.idle, 5)
    stopped = body.evaluate("element => element.textContent")

    shorten(page, 8)
    answer.locator(".retry").click()
    again = wait_answer(page).locator("p").first.evaluate("element => element.textContent")
    assert page.locator("article.assistant").count() == 1
    # Greedy answers begin alike; either may be the longer one.
    common = min(len(again), len(stopped))
    assert again[:common] == stopped[:common] != ""


def test_turns_are_sent_with_everything_said_before(page):
    shorten(page, 4)
    page.set_input_files("#files", [picture_file(3)])
    ask(page, "First?")
    first = wait_answer(page).locator("p").first.evaluate("element => element.textContent")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Second?")
    messages = json.loads(sent.value.post_data)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [part["type"] for part in messages[0]["content"]] == ["image_url", "text"]
    assert messages[1]["content"] == first
    assert messages[2]["content"] == [{"type": "text", "text": "Second?"}]
    wait_answer(page)
    expect(page.locator("article.assistant")).to_have_count(2)
    page.click("#new")
    expect(page.locator("article")).to_have_count(0)
    expect(page.locator("#welcome")).to_be_visible()


@pytest.mark.parametrize(("event", "holder"), [("paste", "clipboardData"), ("drop", "dataTransfer")])
def test_pictures_are_pasted_and_dropped(page, event, holder):
    page.evaluate(
        """([event, holder, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "a.png", { type: "image/png" }));
          transfer.items.add(new File(["x"], "a.txt", { type: "text/plain" }));
          const Kind = event === "paste" ? ClipboardEvent : DragEvent;
          document.dispatchEvent(new Kind(event, { [holder]: transfer, bubbles: true, cancelable: true }));
        }""",
        [event, holder, base64.b64encode(tiny.picture_file(4)).decode()],
    )
    expect(page.locator(".thumb")).to_have_count(1)


def test_example_question_is_one_touch_away(page):
    shorten(page, 4)
    page.set_input_files("#files", [picture_file(5)])
    expect(page.locator(".thumb")).to_have_count(1)
    page.locator("#examples button").first.click()
    wait_answer(page)
    expect(page.locator("article.user p")).to_have_text("What is in this picture?")


def test_example_with_a_published_wording_is_asked_in_it(page):
    page.locator("#examples button", has_text="Caption").click()
    expect(page.locator("#text")).to_have_value("Provide a one-sentence caption for the provided image.")


def test_large_picture_is_made_smaller_before_it_is_sent(page):
    shorten(page, 4)
    stream = io.BytesIO()
    Image.new("RGB", (3000, 1500), "orange").save(stream, "PNG")
    page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": stream.getvalue()}])
    expect(page.locator(".thumb")).to_have_count(1)
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Large?")
    url = json.loads(sent.value.post_data)["messages"][0]["content"][0]["image_url"]["url"]
    kind, _, data = url.partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (2048, 1024)
    assert wait_answer(page).locator(".error").count() == 0


def test_errors_are_told_and_leave_the_conversation_as_it_was(page):
    shorten(page, 4)
    page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}])
    ask(page, "What?")
    answer = wait_answer(page)
    expect(answer.locator(".error")).to_contain_text("no picture of a known kind")
    keep(page, "phone-error")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Well?")
    assert len(json.loads(sent.value.post_data)["messages"]) == 1
    assert wait_answer(page).locator(".error").count() == 0


def test_text_of_anyone_is_only_text(page):
    shorten(page, 4)
    ask(page, "<img src=x onerror=alert(1)><b>bold</b>")
    wait_answer(page)
    assert page.locator("article.user b, article.user img").count() == 0
    expect(page.locator("article.user p")).to_have_text("<img src=x onerror=alert(1)><b>bold</b>")


def test_key_is_asked_for_where_one_is_needed(browser, endless):
    with serve(endless, EngineConfig(slots=1), api_key="secret") as running:
        page = browser.new_page(viewport=PHONE)
        page.goto(running.url)
        expect(page.locator("#settings")).to_be_visible()
        page.fill("#key", "secret")
        page.click("#settings button:not([type=button])")
        expect(page.locator("#model")).to_have_text("tiny-owl")
        page.close()


def test_desktop_size(browser, served):
    page = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="dark")
    page.goto(served.url)
    expect(page.locator("#model")).to_have_text("tiny-owl")
    shorten(page, 30)
    ask(page, user("What is this?")["content"])
    wait_answer(page)
    keep(page, "desktop-dark")
    page.close()
