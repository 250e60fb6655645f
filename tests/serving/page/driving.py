"""What people do on the chat page, and answers that a test chooses."""

from __future__ import annotations

import io
import json
from typing import Any

from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from owl2_jax.testing import tiny
from tests.serving.browser import SCREENSHOTS

PHONE = {"width": 360, "height": 640}
DESKTOP = {"width": 1200, "height": 800}
COMPLETIONS = "**/v1/chat/completions"
HEALTH = "**/healthz/live"


def image_file(seed: int) -> dict[str, Any]:
    return {"name": f"{seed}.png", "mimeType": "image/png", "buffer": tiny.image_file(seed, 200)}


def drawn(width: int, height: int, name: str = "drawn.png") -> dict[str, Any]:
    """A file of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), "orange").save(stream, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": stream.getvalue()}


def add(page: Page, *files: dict[str, Any]) -> None:
    """Adds images that are taken, and waits until all are there."""
    there = page.locator(".thumb").count()
    page.set_input_files("#files", list(files))
    expect(page.locator(".thumb")).to_have_count(there + len(files))


def set_field(page: Page, name: str, value: object) -> None:
    page.click("#open-settings")
    page.fill(f"#{name}", str(value))
    page.click("#done")


def ask(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.click("#send")


def wait_answer(page: Page) -> Locator:
    """The newest answer, once it is finished."""
    answer = page.locator("article.assistant").last
    expect(answer.locator(".retry")).to_be_visible(timeout=60_000)
    return answer


def sent_messages(page: Page, text: str) -> list[dict[str, Any]]:
    """Asks a question and gives the messages that the page sends."""
    with page.expect_request(COMPLETIONS) as sent:
        ask(page, text)
    return json.loads(sent.value.post_data)["messages"]


def stream(text: str, reason: str = "stop", whole: bool = True, piece: int = 7) -> str:
    """The events of an answer; without their end where it is not `whole`."""
    deltas = [text[i : i + piece] for i in range(0, len(text), piece)]
    choices = [{"index": 0, "delta": {"content": delta}, "finish_reason": None} for delta in deltas]
    choices += [{"index": 0, "delta": {}, "finish_reason": reason}] if whole else []
    events = [json.dumps({"choices": [choice]}) for choice in choices] + (["[DONE]"] if whole else [])
    return "".join(f"data: {event}\n\n" for event in events)


def answer_with(page: Page, *answers: str | dict[str, Any]) -> None:
    """The next questions get these answers, the last of them again and again.

    A text is an answer; a dictionary holds the arguments of `Route.fulfill`, or `abort` for none.
    """
    left = list(answers)

    def respond(route: Route) -> None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, str):
            answer = {"body": stream(answer)}
        if "abort" in answer:
            route.abort(answer["abort"])
        else:
            route.fulfill(**{"content_type": "text/event-stream"} | answer)

    page.unroute(COMPLETIONS)
    page.route(COMPLETIONS, respond)


def hold(page: Page) -> list[Route]:
    """The next questions wait; the list fills with what a test is to answer."""
    held: list[Route] = []
    page.route(COMPLETIONS, lambda route: held.append(route))
    return held


def focused(page: Page) -> str:
    """The id of what has the focus, or its label."""
    return page.evaluate("document.activeElement.id || document.activeElement.ariaLabel")


def expect_focus(page: Page, name: str) -> None:
    """Waits until what has this id, or this label, has the focus."""
    page.wait_for_function(
        "name => [document.activeElement.id, document.activeElement.ariaLabel].includes(name)", arg=name
    )


def keep(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
