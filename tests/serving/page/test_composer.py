"""The field and its images: what is taken, and what is refused at once and why."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image
from playwright.sync_api import expect

from owl2_jax.inference.engine import EngineConfig
from tests.serving.page.driving import (
    COMPLETIONS,
    add,
    answer_with,
    ask,
    drawn,
    expect_focus,
    image_file,
    sent_messages,
    wait_answer,
)
from tests.serving.running import serve


def file_of(name: str, kind: str, data: bytes) -> dict:
    return {"name": name, "mimeType": kind, "buffer": data}


REFUSED = [
    (file_of("notes.txt", "text/plain", b"hello"), "those of no image (text/plain); expected JPEG, PNG"),
    (file_of("a.png", "image/png", b"no image"), "a.png is not an image that can be used"),
    (file_of("a.pdf", "application/pdf", b"%PDF-1.7"), "it is of the kind PDF"),
    (file_of("a.heic", "image/heic", b"\0\0\0\x18ftypheic\0\0\0\0"), "kind HEIC; save it as JPEG or PNG."),
    (file_of("a.svg", "image/svg+xml", b"<svg width='9'/>"), "kind SVG; save it as JPEG or PNG"),
    (file_of("a.mp4", "video/mp4", b"\0\0\0\x18ftypisom\0\0\0\0"), "it is of the kind video"),
    (file_of("a.jpg", "image/jpeg", b"<!DOCTYPE html><html>"), "it is of the kind HTML"),
    (file_of("a.jpg", "image/jpeg", b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs pointer"),
    (file_of("empty.png", "image/png", b""), "empty.png is empty."),
    (file_of("cut.png", "image/png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40), "cut.png is a damaged PNG image"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_no_image_is_refused_at_once_and_the_rest_is_taken(page, file, words):
    page.set_input_files("#files", [image_file(1), file])
    expect(page.locator("#refused")).to_contain_text(words)
    expect(page.locator(".thumb")).to_have_count(1)
    expect_focus(page, "text")
    answer_with(page, "Yes.")
    ask(page, "Well?")
    wait_answer(page)
    expect(page.locator("#refused")).to_be_empty()


def test_one_image_too_many_is_refused_with_the_limit_of_the_server(page, served):
    assert served.service.config.limits.images == 4
    answer_with(page, "Yes.")
    add(page, image_file(1), image_file(2))
    ask(page, "Two?")
    wait_answer(page)
    page.set_input_files("#files", [image_file(3), image_file(4), drawn(9, 9, "cat.png")])
    expect(page.locator("#refused")).to_have_text(
        "The server takes at most 4 images in one conversation: cat.png was left out."
    )
    expect(page.locator(".thumb")).to_have_count(2)
    page.click("#new")
    add(page, *map(image_file, range(4)))  # a new chat has room again
    expect(page.locator("#refused")).to_be_empty()


def test_images_and_bytes_are_limited_as_this_server_says(opened, endless):
    with (
        serve(endless, EngineConfig(sequences=1), images=0, body_bytes=2**20, pixels=10_000) as running,
        opened(running.url) as page,
    ):
        expect(page.locator("#add")).to_be_hidden()
        page.set_input_files("#files", [image_file(1)])
        expect(page.locator("#refused")).to_contain_text("This server takes no images: 1.png was left out.")

    with (
        serve(endless, EngineConfig(sequences=1), images=9, body_bytes=300_000, pixels=10_000) as running,
        opened(running.url) as page,
    ):
        add(page, drawn(2000, 500))
        answer_with(page, "Yes.")
        with page.expect_request(COMPLETIONS) as sent:
            ask(page, "Well?")
        assert size_of_first(sent.value.post_data) == (200, 50)
        noise = io.BytesIO()
        Image.effect_noise((100, 100), 90).convert("RGB").save(noise, "BMP")
        page.set_input_files("#files", [file_of(f"{i}.bmp", "image/bmp", noise.getvalue()) for i in range(9)])
        expect(page.locator("#refused")).to_contain_text("and the server takes 0.3 MiB at a time: 8.bmp")


def size_of_first(body: str) -> tuple[int, int]:
    kind, _, data = json.loads(body)["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).size


def test_large_image_is_made_smaller_before_it_is_sent(page):
    add(page, drawn(3000, 1500))
    answer_with(page, "Yes.")
    with page.expect_request(COMPLETIONS) as sent:
        ask(page, "Large?")
    assert size_of_first(sent.value.post_data) == (2048, 1024)


@pytest.mark.parametrize(
    ("name", "said"), [("a.txt", "text/plain"), ("a.jpg", "image/jpeg"), ("a", ""), ("a.png", "image/png")]
)
def test_the_type_that_is_sent_is_that_of_the_bytes_whatever_the_name_says(page, name, said):
    data = image_file(6)["buffer"]
    add(page, file_of(name, said, data))
    answer_with(page, "Yes.")
    (part, _) = sent_messages(page, "What?")[0]["content"]
    assert part["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(data).decode()}"
    wait_answer(page)
    expect(page.locator("article.user img")).to_have_count(1)


@pytest.mark.parametrize(("kind", "ending"), [("TIFF", "tif"), ("PPM", "ppm"), ("JPEG2000", "jp2")])
def test_kinds_that_only_the_server_reads_are_sent_and_answered(page, kind, ending):
    stream = io.BytesIO()
    Image.new("RGB", (30, 20), "green").save(stream, kind)
    page.set_input_files("#files", [file_of(f"a.{ending}", "", stream.getvalue())])
    expect(page.locator(".thumb .unshown")).to_have_text("no preview")
    page.evaluate("document.getElementById('max_tokens').value = 4")
    ask(page, "What?")
    wait_answer(page)
    expect(page.locator("#notice")).to_be_hidden()


@pytest.mark.parametrize(("event", "holder"), [("paste", "clipboardData"), ("drop", "dataTransfer")])
def test_images_are_pasted_and_dropped_and_others_named(page, event, holder):
    data = base64.b64encode(image_file(4)["buffer"]).decode()
    page.evaluate(
        """([event, holder, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "a.png", { type: "image/png" }));
          transfer.items.add(new File(["x"], "a.txt", { type: "text/plain" }));
          const Kind = event === "paste" ? ClipboardEvent : DragEvent;
          document.dispatchEvent(new Kind(event, { [holder]: transfer, bubbles: true, cancelable: true }));
        }""",
        [event, holder, data],
    )
    expect(page.locator(".thumb")).to_have_count(1)
    expect(page.locator("#refused")).to_contain_text("a.txt is not an image")


def test_image_is_removed_and_the_focus_stays_among_them(page):
    add(page, image_file(1), image_file(2))
    page.locator(".remove").nth(0).focus()
    page.keyboard.press("Enter")
    expect(page.locator(".thumb")).to_have_count(1)
    expect_focus(page, "Remove image 1")
    page.keyboard.press("Enter")
    expect(page.locator(".thumb")).to_have_count(0)
    expect_focus(page, "text")


def test_question_sent_while_its_image_is_still_read_has_it(page):
    answer_with(page, "Yes.")
    page.fill("#text", "What?")
    with page.expect_request(COMPLETIONS) as sent:
        page.set_input_files("#files", [drawn(4000, 4000)])
        page.press("#text", "Enter")
    assert size_of_first(sent.value.post_data) == (2048, 2048)


def test_example_question_is_one_touch_away(page):
    answer_with(page, "A square.")
    add(page, image_file(5))
    page.locator("#examples button").first.click()
    wait_answer(page)
    expect(page.locator("article.user p")).to_have_text("What is in this image?")


def test_example_with_a_published_wording_is_asked_in_it(page):
    page.locator("#examples button", has_text="Caption").click()
    expect(page.locator("#text")).to_have_value("Provide a one-sentence caption for the provided image.")
