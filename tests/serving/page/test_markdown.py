"""Markdown of answers: shown as it should be, harmless whatever it says, and steady while it grows."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.serving.page.driving import answer_with, ask, wait_answer

TEXT = """# Title

Some **bold**, *slanted*, ~~struck~~ and `code <b>`, with an &amp; and a
second line.

3. three
4. four
   - inner

> quoted

| a | b |
|---|--:|
| 1 | 2 |

```python
print("<i>")
```

[link](https://example.org/a?b=c "title") https://bare.example.org mail@example.org

![alt text](https://evil.example.org/pixel.png)
"""


def rendered(page: Page, text: str) -> str:
    """The HTML that a text becomes."""
    return page.evaluate(
        """async (text) => {
          const { render } = await import("/page/markdown.js");
          const place = document.createElement("div");
          render(place, text);
          return place.innerHTML;
        }""",
        text,
    )


def test_every_construct_becomes_its_element(page):
    answer_with(page, TEXT)
    ask(page, "Show me.")
    body = wait_answer(page).locator(".body")
    expect(body.locator("h3")).to_have_text("Title")
    for name, text in (("strong", "bold"), ("em", "slanted"), ("s", "struck"), ("p code", "code <b>")):
        expect(body.locator(name)).to_have_text(text)
    expect(body.locator("p").first).to_contain_text("with an & and a")
    assert body.locator("p").first.locator("br").count() == 1
    assert body.locator("ol").get_attribute("start") == "3"
    expect(body.locator("ol ul li")).to_have_text("inner")
    expect(body.locator("blockquote")).to_have_text("quoted")
    assert body.locator("td").nth(1).evaluate("cell => getComputedStyle(cell).textAlign") == "right"
    expect(body.locator(".code-head span")).to_have_text("python")
    expect(body.locator("pre")).to_have_text('print("<i>")\n')
    links = body.locator("a")
    assert [link.get_attribute("href") for link in links.all()] == [
        "https://example.org/a?b=c",
        "https://bare.example.org/",
        "https://evil.example.org/pixel.png",
    ]
    for link in links.all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
        assert link.get_attribute("target") == "_blank"
    expect(links.last).to_have_text("alt text")
    assert body.locator("img").count() == 0


PAYLOADS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>body { display: none }</style>",
    "<div onclick=alert(1) id=text>",
    "<!-- <script> -->",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](&#x6A;avascript&colon;alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](<java\nscript:alert(1)>)",
    "[x](\x01javascript:alert(1))",
    "[x](vbscript:msgbox(1))",
    "[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[x](blob:https://example.org/1)",
    "[x](file:///etc/passwd)",
    "[x](//evil.example.org)",
    "[x](/v1/models)",
    "[x][r]\n\n[r]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    '![x](x" onerror="alert(1))',
    '[x](https://example.org "title\\" onmouseover=alert(1)")',
    "```<img src=x onerror=alert(1)>\n</code></pre><script>alert(1)</script>\n```",
    "`</code><script>alert(1)</script>`",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{constructor.constructor('alert(1)')()}}",
    "[__proto__]: https://example.org\n\n[__proto__] [constructor]",
]  # fmt: skip

HARMLESS = """async (texts) => {
  const { render } = await import("/page/markdown.js");
  const allowed = "div p em strong s blockquote ul ol li table thead tbody tr th td hr br h3 h4 h5 h6 a "
    + "code pre span button";
  const attributes = "class href title target rel start style tabindex role aria-label type";
  const wrong = [];
  for (const text of texts) {
    const place = document.createElement("div");
    document.getElementById("turns").append(place);
    render(place, text);
    for (const node of place.querySelectorAll("*")) {
      if (!allowed.split(" ").includes(node.localName)) wrong.push([text, node.localName]);
      for (const { name, value } of node.attributes) {
        const harmless = name !== "href" || /^(https?|mailto):/.test(value);
        const known = attributes.split(" ").includes(name);
        if (!harmless || !known) wrong.push([text, node.localName, name, value]);
      }
    }
    if (!place.textContent.trim()) wrong.push([text, "nothing is shown"]);
    place.remove();
  }
  return wrong;
}"""


def test_no_answer_can_become_anything_but_harmless_elements(page):
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    shown = [text for text in PAYLOADS if "__proto__" not in text]
    wrapped = [f"- {text}" for text in shown] + [f"> **a** {text} b\n\nc" for text in shown]
    assert page.evaluate(HARMLESS, PAYLOADS + wrapped) == []
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    answer_with(page, "\n\n".join(PAYLOADS))
    ask(page, "<img src=x onerror=alert(1)><b>bold</b>")
    wait_answer(page)
    assert page.locator("article.user b, article.user img").count() == 0
    expect(page.locator("article.user p")).to_have_text("<img src=x onerror=alert(1)><b>bold</b>")
    assert page.locator("#text").count() == 1
    assert dialogs == []
    assert [url for url in requests if "completions" not in url and "healthz" not in url] == []


def test_browser_itself_refuses_text_as_html_and_images_from_elsewhere(browser, served):
    page = browser.new_page()
    page.goto(served.url)
    assert (
        page.evaluate(
            """() => {
          try { document.body.innerHTML = "<b>x</b>"; } catch (error) { return error.name; }
        }"""
        )
        == "TypeError"
    )
    assert (
        page.evaluate(
            """() => new Promise((done) => {
          document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
          const image = new Image();
          image.src = "https://evil.example.org/pixel.png";
        })"""
        )
        == "img-src"
    )
    page.close()


def test_deep_and_long_texts_are_shown_in_time(page):
    for text in (">" * 5000 + "x", "[" * 5000, "*a_" * 5000, "- " * 2000 + "x", "`" * 5000, "![" * 2000,
                 "a\n" * 5000, "|" * 3000 + "\n" + "|-" * 3000, "<" * 5000, "&" * 5000):  # fmt: skip
        began = page.evaluate("performance.now()")
        assert rendered(page, text)
        assert page.evaluate("performance.now()") - began < 5000


@pytest.mark.parametrize(
    ("growing", "shown"),
    [
        ("a **bo", "a **bo**"),
        ("a **bold*", "a **bold**"),
        ("a **bold**", "a **bold**"),
        ("a **", "a"),
        ("a `co", "a `co`"),
        ("a `", "a "),
        ("a [li", "a li"),
        ("a [link](https://exa", "a link"),
        ("a [link](https://example.org)", "a [link](https://example.org)"),
        ("text\n-", "text"),
        ("text\n--", "text"),
        ("text\n\n#", "text\n"),
        ("text\n\n1", "text\n"),
        ("text\n|", "text"),
        ("```py\na = `b", "```py\na = `b"),
        ("```py\na = 1\n``", "```py\na = 1\n"),
        ("```py\na = 1\n```", "```py\na = 1\n```"),
        ("**done**\n\n**n", "**done**\n\n**n**"),
    ],
)
def test_marks_without_their_end_are_not_seen_for_a_moment(page, growing, shown):
    assert page.evaluate("async (t) => (await import('/page/markdown.js')).closed(t)", growing) == shown


def test_growing_answer_leaves_what_is_there_alone(page):
    found = page.evaluate(
        """async (text) => {
          const { render } = await import("/page/markdown.js");
          const place = document.createElement("div");
          const kept = [];
          for (let length = 1; length <= text.length; length++) {
            const before = [...place.children];
            render(place, text.slice(0, length), true);
            // All blocks but the last are the very elements that were there.
            const changed = before.slice(0, -1).filter((child, i) => place.children[i] !== child);
            kept.push(...changed.map((child) => [length, child.textContent]));
          }
          render(place, text);
          const grown = place.innerHTML;
          const whole = document.createElement("div");
          render(whole, text);
          return { changed: kept, same: grown === whole.innerHTML };
        }""",
        TEXT,
    )
    assert found == {"changed": [], "same": True}


def test_growing_code_stays_the_element_that_it_was(page):
    assert (
        page.evaluate(
            """async () => {
          const { render } = await import("/page/markdown.js");
          const place = document.createElement("div");
          const text = "```js\\nlet a = 1;\\nlet b = 2;\\n```";
          render(place, text.slice(0, 10), true);
          const code = place.querySelector("code");
          for (let length = 11; length <= text.length; length++) render(place, text.slice(0, length), true);
          render(place, text);
          return place.querySelector("code") === code && code.textContent;
        }"""
        )
        == "let a = 1;\nlet b = 2;\n"
    )
