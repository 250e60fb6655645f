"""How the page looks and is used: at every size, in both colours, and with the keyboard alone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, TimeoutError, expect

from tests.serving.page.driving import (
    DESKTOP,
    PHONE,
    add,
    answer_with,
    ask,
    drawn,
    expect_focus,
    focused,
    hold,
    image_file,
    keep,
    set_field,
    wait_answer,
)

WIDE = "| a wide table | with | many | columns | that | do | not | f |\n" + "|---" * 8 + "|\n" + "| cell " * 8
LINES = "\n\n".join(f"Line {i} of an answer, with **some** words." for i in range(40))
LONG = f"## What it shows\n\n{LINES}\n\n{WIDE}|\n\n```python\n{'x' * 200}\n```\n\nThe end."


@pytest.fixture(params=["desktop-light", "desktop-dark", "phone-light", "phone-dark"])
def sized(request, opened):
    size, _, scheme = request.param.partition("-")
    phone = {"viewport": PHONE, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    options = phone if size == "phone" else {"viewport": DESKTOP}
    with opened(color_scheme=scheme, **options) as page:
        yield page, request.param


def assert_fits(page: Page) -> None:
    """Nothing is wider or higher than the screen, and what is to be touched is large enough to be."""
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= window.innerHeight")
    assert page.evaluate(
        "document.getElementById('log').scrollWidth <= document.getElementById('log').clientWidth"
    )
    for selector in ("#send", "#add", "#new", "#open-settings"):
        box = page.locator(selector).bounding_box()
        assert min(box["width"], box["height"]) >= 44
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def at_end(page: Page) -> bool:
    return page.evaluate(
        "(log => log.scrollHeight - log.scrollTop - log.clientHeight < 2)(document.getElementById('log'))"
    )


def test_page_fits_and_the_newest_is_seen(sized):
    page, name = sized
    keep(page, f"{name}-welcome")
    assert_fits(page)
    answer_with(page, LONG)
    add(page, drawn(640, 480), drawn(7200, 400), drawn(1080, 9600))
    page.fill("#text", "What is this?\nAnd that?")
    assert_fits(page)
    keep(page, f"{name}-tray")
    page.press("#text", "Enter")
    wait_answer(page)
    page.wait_for_timeout(200)
    assert at_end(page)
    assert_fits(page)
    keep(page, f"{name}-answer")

    add(page, image_file(1))  # the tray takes room, and the newest line stays in sight
    page.fill("#text", "\n".join("abcdefgh"))
    page.wait_for_timeout(100)
    assert at_end(page)
    last = page.locator("article.assistant .actions").last.bounding_box()
    footer = page.locator("footer").bounding_box()
    assert last["y"] + last["height"] <= footer["y"]
    assert_fits(page)
    keep(page, f"{name}-tray-below-answer")

    page.evaluate("document.getElementById('log').scrollTop = 0")
    expect(page.locator("#newest")).to_be_visible()
    keep(page, f"{name}-scrolled")
    page.click("#newest")
    expect(page.locator("#newest")).to_be_hidden()
    assert at_end(page)
    page.click("#open-settings")
    page.wait_for_timeout(100)
    box = page.locator("#settings").bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= page.viewport_size["height"]
    expect(page.locator("#done")).to_be_in_viewport()
    keep(page, f"{name}-settings")


def test_reader_who_has_scrolled_up_is_left_where_he_is(page):
    answer_with(page, LONG)
    ask(page, "What?")
    wait_answer(page)
    page.evaluate("document.getElementById('log').scrollTop = 100")
    expect(page.locator("#newest")).to_be_visible()
    add(page, image_file(1))
    assert page.evaluate("document.getElementById('log').scrollTop") == 100


@pytest.mark.parametrize(("width", "height"), [(7200, 400), (1080, 9600), (640, 480), (1, 1)])
def test_thumbnails_and_images_are_whole_and_of_their_own_shape(page, width, height):
    answer_with(page, "Yes.")
    add(page, drawn(width, height))
    check_shape(page, ".thumb img", width / height)
    ask(page, "")
    wait_answer(page)
    check_shape(page, "article.user img", width / height)
    # A question of an image alone has no empty line below it.
    expect(page.locator("article.user p")).to_have_count(0)
    article, image = (page.locator(f"article.user{part}").bounding_box() for part in ("", " img"))
    assert article["height"] - image["height"] < 4
    page.locator("article.user .image").click()
    expect(page.locator("#large-image")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#enlarged")).to_be_hidden()


def check_shape(page: Page, selector: str, expected: float) -> None:
    image = page.locator(selector)
    box = image.bounding_box()
    outer = image.evaluate("i => getComputedStyle(i).objectFit")
    assert outer == "contain"
    parent = page.locator(selector.rpartition(" ")[0]).bounding_box()
    assert box["x"] >= parent["x"] - 1
    assert box["x"] + box["width"] <= parent["x"] + parent["width"] + 1
    natural = image.evaluate("i => [i.naturalWidth, i.naturalHeight]")
    assert natural[0] / natural[1] == pytest.approx(expected, rel=0.02)


def test_whole_conversation_with_the_keyboard_alone(page):
    press = page.keyboard.press
    expect_focus(page, "text")
    answer_with(page, "It is **one**.", "Two.")

    press("Shift+Tab")
    expect_focus(page, "add")
    assert_focus_is_seen(page)
    for last in (False, False, True):  # headless Chromium on a busy machine now and then opens none
        try:
            with page.expect_file_chooser(timeout=20_000) as chooser:
                press("Enter")
            break
        except TimeoutError:
            if last:
                raise
    chooser.value.set_files([image_file(1)])
    expect(page.locator(".thumb")).to_have_count(1)
    expect_focus(page, "text")

    page.keyboard.type("First?")
    press("Shift+Enter")
    page.keyboard.type("Really?")
    press("Enter")
    wait_answer(page)
    expect_focus(page, "text")
    expect(page.locator("article.user p")).to_have_text("First?\nReally?")

    page.unroute("**/v1/chat/completions")
    held = hold(page)
    page.keyboard.type("Second?")
    press("Enter")
    expect(page.locator("#stop")).to_be_visible()
    press("Tab")
    expect_focus(page, "stop")
    press("Enter")
    expect_focus(page, "text")
    expect(page.locator("#text")).to_have_value("Second?")
    held[0].abort()

    page.unroute("**/v1/chat/completions")
    answer_with(page, "Two.")
    press("Enter")
    expect(page.locator("article.assistant")).to_have_count(2)
    wait_answer(page)

    reach(page, "Settings", "Shift+Tab")
    press("Enter")
    expect_focus(page, "system")
    press("Escape")
    expect_focus(page, "open-settings")
    reach(page, "Copy the answer", "Tab")
    reach(page, "new", "Shift+Tab")
    press("Enter")
    expect_focus(page, "text")
    expect(page.locator("article")).to_have_count(0)


def test_focus_that_has_moved_on_is_not_taken_back_when_the_stored_conversation_is_there(browser, served):
    page = browser.new_page()
    page.add_init_script(
        """const open = IDBFactory.prototype.open;
           IDBFactory.prototype.open = function (...args) {
             document.getElementById("add").focus();
             return open.apply(this, args);
           };"""
    )
    page.goto(served.url)
    expect(page.locator("#examples button").first).to_be_visible()
    page.wait_for_timeout(500)
    expect_focus(page, "add")
    page.close()


def reach(page: Page, name: str, key: str) -> None:
    """Goes with the Tab key to what has this id or label; every stop on the way is seen."""
    for _ in range(40):
        page.keyboard.press(key)
        if page.locator(":focus").count():
            assert_focus_is_seen(page)
        label = page.evaluate(
            "document.activeElement.ariaLabel ?? document.activeElement.getAttribute('aria-label')"
        )
        if name in (focused(page), label):
            return
    raise AssertionError(f"{name} cannot be reached with {key}")


SEEN = """() => {
  const style = (node) => getComputedStyle(node);
  const here = document.activeElement;
  const outlined = style(here).outlineStyle !== "none" && parseFloat(style(here).outlineWidth) >= 2;
  return outlined || (here.id === "text" && style(document.getElementById("composer")).boxShadow !== "none");
}"""


def assert_focus_is_seen(page: Page) -> None:
    assert page.evaluate(SEEN), focused(page)


def test_focus_is_seen_on_every_control(page):
    answer_with(page, "One.\n\n```js\na\n```\n\n[l](https://example.org)\n\n|a|\n|-|\n|1|")
    add(page, image_file(1))
    ask(page, "First?")
    wait_answer(page)
    add(page, image_file(2))
    page.focus("#text")
    stops = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.locator(":focus").count():
            assert_focus_is_seen(page)
            stops.add(page.evaluate("(n => n.id || n.ariaLabel || n.textContent)(document.activeElement)"))
    assert stops >= {
        "new", "open-settings", "log", "Enlarge image 1", "Copy the code", "Code", "Table", "l",
        "Copy the answer", "Retry", "Where it looked", "Remove image 1", "add", "text", "send",
    }  # fmt: skip


def test_everything_has_a_name_for_screen_readers(page):
    answer_with(page, "It is **one**.")
    add(page, image_file(1))
    ask(page, "First?")
    wait_answer(page)
    add(page, image_file(2))
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([hidden]), textarea, img, dialog, a")]
          .filter((n) => !(n.ariaLabel || n.textContent.trim() || n.labels?.length || n.hasAttribute("alt")
                           || n.hasAttribute("aria-labelledby")))
          .map((n) => n.outerHTML)"""
    )
    assert unnamed == []
    expect(page.locator("#announcer")).to_have_text("Answer: It is **one**.")
    assert page.locator("#announcer").get_attribute("aria-live") == "polite"
    # The words are said once, when the answer is there, and not piece by piece.
    assert page.locator("#log").get_attribute("aria-live") is None
    assert page.locator("article.assistant").get_attribute("aria-busy") is None
    for name in ("You", "Answer"):
        expect(page.get_by_role("article", name=name)).to_have_count(1)


def test_nothing_moves_for_those_who_want_it_so(opened):
    with opened(reduced_motion="reduce") as page:
        hold(page)
        ask(page, "What?")
        waiting = page.locator("article.assistant .waiting")
        expect(waiting).to_be_attached()
        assert waiting.evaluate("n => getComputedStyle(n, '::after').animationName") == "none"
        assert waiting.evaluate("n => getComputedStyle(n, '::after').width") != "0px"


CONTRAST = """() => {
  const pairs = [];
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!colour.endsWith(", 0)")) return colour;
    }
    return getComputedStyle(document.body).backgroundColor;
  };
  const texts = "p, small, h1, h2, h3, button:enabled, a, code, td, .code-head span";
  for (const node of document.querySelectorAll(texts)) {
    if (!node.checkVisibility() || !node.textContent.trim()) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(back(node))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) pairs.push([node.outerHTML, (a + 0.05) / (b + 0.05)]);
  }
  return pairs;
}"""


def test_contrast_is_enough_in_both_colours(sized):
    page, _ = sized
    answer_with(
        page,
        "# T\n\nSome `code` and [link](https://example.org).\n\n> quoted\n\n|a|\n|-|\n|b|\n\n```js\nx\n```",
    )
    ask(page, "What?")
    wait_answer(page)
    page.set_input_files("#files", [{"name": "a.txt", "mimeType": "text/plain", "buffer": b"x"}])
    answer_with(page, {"abort": "connectionrefused"})
    ask(page, "What?")
    expect(page.locator("#notice")).to_be_visible()
    assert page.evaluate(CONTRAST) == []
    page.click("#open-settings")
    assert page.evaluate(CONTRAST) == []


def test_where_it_looked_is_shown_and_hidden(sized):
    page, name = sized
    set_field(page, "max_tokens", 12)
    add(page, image_file(1))
    ask(page, "What is this?")
    answer = wait_answer(page)
    answer.locator(".look").click()
    expect(answer.locator(".looks figure")).to_have_count(1, timeout=60_000)
    assert "% of the answer's attention" in answer.locator("figcaption").inner_text()
    keep(page, f"{name}-where-it-looked")
    assert_fits(page)
    shades = answer.locator("canvas").evaluate(
        "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set(d).size; }"
    )
    assert shades > 10
    answer.locator(".look").click()
    expect(answer.locator(".looks")).to_have_count(0)
