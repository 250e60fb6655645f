"""The site of documentation: built once, with warnings as errors, from the code as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from owl2_jax.cli.main import COMMANDS, parser_of
from owl2_jax.config import RunConfig
from owl2_jax.data.sources.registry import SOURCES
from owl2_jax.data_tools.prepare.settings import PrepareConfig
from owl2_jax.sweeps.grid import SweepConfig
from tests.docs.blocks import blocks_of
from tests.docs.contrast import contrasts
from tests.docs.names import fields_of, flags_of
from tests.serving.browser import launched

ROOT = Path(__file__).parents[2]
# What a page loads; other addresses are links that a reader may follow.
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}


class Page(HTMLParser):
    """Anchors, links and loaded files of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.anchors, self.links, self.loaded, self.text = path, set(), set(), set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and values.get("href"):
            self.links.add(values["href"])
        for name in ("src", "href"):
            if (tag, name) in LOADED and values.get(name) and values.get("rel") != "canonical":
                self.loaded.add(values[name])

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", f"--site-dir={folder}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def target_of(page: Path, link: str) -> tuple[Path, str]:
    """The file and the anchor that a link of a page leads to."""
    parts = urlsplit(link)
    file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    return file / "index.html" if file.is_dir() else file, unquote(parts.fragment)


def test_every_internal_link_and_anchor_resolves(pages):
    inner = [(page, link) for page in pages.values() for link in page.links if not urlsplit(link).scheme]
    broken = []
    for page, link in inner:
        if page.path.name == "404.html":  # its links count from the root of a server
            continue
        file, anchor = target_of(page.path, link)
        fragments = pages[file].anchors if file in pages else set()
        if not file.is_file() or (anchor and anchor not in fragments):
            broken.append(f"{page.path.name}: {link}")
    assert len(inner) > 1000
    assert broken == []


def test_reading_needs_no_network(pages, site):
    away = {link for page in pages.values() for link in page.loaded if urlsplit(link).scheme}
    sheets = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert away == set()
    assert sheets
    assert not any(re.search(r"url\(\s*['\"]?(https?:)?//", sheet) for sheet in sheets)
    assert (site / "search" / "search_index.js").is_file()


SCHEMES = {"light": "default", "dark": "slate"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_search_finds_a_field_in_a_site_of_files_and_can_be_read(browser, site, scheme):
    page = browser.new_page(color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "index.html").as_uri())
    shown = contrasts(page)
    page.locator(".md-search__input").press_sequentially("warmup_steps")
    found = page.locator(".md-search-result__link[href*='reference/config.html']").first
    expect(found).to_be_attached(timeout=60_000)
    shown |= contrasts(page)
    page.close()
    assert [url for url in asked if not url.startswith("file:")] == []
    assert {"mark", "input"} <= {kind.partition(".")[0] for kind in shown}
    assert too_faint(shown) == {}


def too_faint(shown: dict[str, tuple[str, float, float]]) -> dict[str, tuple[str, float, float]]:
    return {kind: told for kind, told in shown.items() if told[1] < told[2]}


# Pages that have between them every kind of element, and some of the kinds on each.
KINDS = {
    "howto/data": {"p.admonition-title", "td.", "th.", "code.", "span.c1", "span.nt", "a.", "li."},
    "tutorials/own_data": {"span.filename", "span.kn", "span.k", "span.kc", "h1.", "h2."},
    "explain/model": {"text.label", "text.small", "text.title"},
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_text_stands_out_from_its_ground_in_light_and_dark(browser, site, scheme):
    page = browser.new_page(color_scheme=scheme)
    for name, kinds in KINDS.items():
        page.goto((site / f"{name}.html").as_uri())
        shown = contrasts(page)
        assert kinds - shown.keys() == set()
        assert too_faint(shown) == {}, name
    page.close()


def test_text_that_is_too_faint_would_be_found(browser):
    page = browser.new_page()
    page.set_content(
        "<body style='background: #fff'><p style='color: #767676'>just enough</p>"
        "<b style='color: #777'>too little</b><i style='opacity: 0.5'>half of it</i>"
        "<svg><rect width='200' height='40' fill-opacity='0.6'/><text x='5' y='20'>dark</text></svg>"
        "<style>@keyframes in { from { opacity: 0 } }</style><u style='animation: in 60s'>on its way</u>"
    )
    shown = contrasts(page)
    page.close()
    assert too_faint(shown).keys() == {"b.", "i.", "text."}
    assert shown["p."][1] == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_of_a_command_is_in_the_reference(pages, site, name):
    page = pages[site / "reference" / "commands" / f"{name}.html"]
    flags = flags_of(parser_of(name))
    assert "--help" in flags
    assert {flag for flag in flags if not any(anchor.endswith(flag) for anchor in page.anchors)} == set()
    assert rows_without_meaning(page.path) == []


# Groups that another section describes.
REPEATED = ("heldout.datasets.NAME.", "train.groups.NAME.schedule.")


def test_every_config_field_is_in_the_reference_with_its_meaning(pages, site):
    page = pages[site / "reference" / "config.html"]
    names = {name for name in fields_of(RunConfig) if not name.startswith(REPEATED)}
    assert {"model.decoder.adaptive", "train.groups.NAME.layer_decay", "data.datasets.NAME.epochs"} <= names
    assert names - page.anchors == set()
    assert rows_without_meaning(page.path) == []


@pytest.mark.parametrize("config", [SweepConfig, PrepareConfig])
def test_every_field_of_the_other_config_files_is_in_the_reference_with_its_meaning(pages, site, config):
    page = pages[site / "reference" / "other_configs.html"]
    assert fields_of(config) - page.anchors == set()
    assert rows_without_meaning(page.path) == []


def test_every_option_of_a_source_is_in_the_reference_with_its_meaning(pages, site):
    page = pages[site / "reference" / "sources.html"]
    assert set(SOURCES) <= page.anchors
    assert {"llava.file_tag", "fields.conversations"} <= page.anchors
    assert rows_without_meaning(page.path) == []


def rows_without_meaning(path: Path) -> list[str]:
    """The rows of a page's tables whose last cell is empty, or says a default or "required" alone."""
    rows = re.findall(r"<tr>(.*?)</tr>", path.read_text(encoding="utf-8"), re.DOTALL)
    nothing = r"<td>(\(default: .*\))?\s*(<strong>\(required\)</strong>)?</td>\s*$"
    return [row for row in rows if re.search(nothing, row)]


def test_metrics_of_a_run_are_those_that_a_run_writes(pages, site):
    text = " ".join(pages[site / "reference" / "metrics.html"].text)
    written = (ROOT / "owl2_jax" / "training" / "logging" / "reporter.py").read_text(encoding="utf-8")
    names = {"loss", "accuracy", "grad_norm", "tokens_per_second", "samples_per_second", "images_per_second"}
    names |= set(
        re.findall(r'"(learning_rate|skipped_steps|seconds_per_step|mfu|packing_efficiency)"', written)
    )
    assert len(names) == 11
    assert {name for name in names if name not in text} == set()


def test_no_page_names_a_machine_path_or_a_package_registry(pages):
    words = re.compile(r"/(?:work|tmp|root|home)/|pypi\.org|registry\.npmjs|artifactory")
    assert {str(page.path.name) for page in pages.values() if words.search("".join(page.text))} == set()


# Of a question on the front page: the page and anchor that answer it, and words that the answer must have.
QUESTIONS = {
    "howto/memory.html#a-24-gb-gpu": ("int8", "base", "inspect"),
    "howto/data.html#your-own-llava-file": ("video", "num_frames"),
    "howto/several_hosts.html#resume-on-fewer-or-more-hosts": ("same command", "data.shards"),
    "howto/bad_run.html#the-loss-is-nan": ("skipped_steps", "grad_norm", "peak_lr"),
    "pytorch.html#which-parameters-train": ("trainable", "pattern"),
    "howto/convert.html#another-resolution-or-number-of-queries": ("--image-size", "num_queries"),
    "howto/convert.html#export-to-pytorch": ("to-torch", "run directory"),
    "howto/evaluate.html#on-your-own-questions": ("--data-root", "owl2 generate"),
    "howto/serve.html#several-images-in-one-question": ("image_url", "tag"),
    "reference/metrics.html#how-mfu-is-counted": ("forward", "peak", "remat"),
}


@pytest.mark.parametrize("link", QUESTIONS)
def test_a_newcomers_question_is_answered_one_click_from_the_front_page(pages, site, link):
    assert link in pages[site / "index.html"].links
    page, _, anchor = link.partition("#")
    text = section(site / page, anchor)
    assert {word for word in QUESTIONS[link] if word not in text} == set()


def section(path: Path, anchor: str) -> str:
    """The text of a page from a heading to the next one of its level."""
    html = path.read_text(encoding="utf-8")
    start = html.index(f'<h2 id="{anchor}"')
    end = html.find("<h2 id=", start + 1)
    return re.sub(r"<[^>]+>", "", html[start : end if end > 0 else len(html)])


def commands_of(page: Path) -> list[str]:
    """The blocks of commands that a written page has."""
    blocks = blocks_of(page) if page.exists() else []
    return [block.text.rstrip() for block in blocks if block.language == "bash"]


PHONE = {"width": 390, "height": 844}
LOOKED_AT = (
    "index",
    "explain/model",
    "explain/paged_cache",
    "howto/serve",
    "explain/compared",
    "explain/miniature",
    "reference/python",
    "reference/commands/chat",
)


# Of every command on a page: whether it is shown whole, and what copying it gives.
COMMAND_BLOCKS = """() => [...document.querySelectorAll(".language-bash code")].map((code) => {
  const whole = code.scrollWidth <= code.clientWidth;
  code.setAttribute("data-md-copying", "");
  return [whole, code.innerText.trimEnd()];
})"""

SCROLLED_TABLES = """() => [...document.querySelectorAll(".md-typeset__scrollwrap")].filter(
  (table) => table.scrollWidth > table.clientWidth).length"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_page_is_wider_than_a_phone_and_commands_are_shown_whole(browser, site, scheme):
    page = browser.new_page(viewport=PHONE, color_scheme=scheme)
    for name in LOOKED_AT:
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
        assert page.evaluate("document.body.dataset.mdColorScheme") == SCHEMES[scheme]
        blocks = commands_of(ROOT / "docs" / "pages" / f"{name}.md")
        assert page.evaluate(COMMAND_BLOCKS) == [[True, text] for text in blocks], name
    page.goto((site / "explain" / "miniature.html").as_uri())
    assert page.locator("img[src*='plots/']").bounding_box()["width"] > 2 * PHONE["width"]  # it scrolls
    page.goto((site / "reference" / "commands" / "chat.html").as_uri())
    assert page.evaluate(SCROLLED_TABLES) == 0  # flag and meaning are read side by side
    page.close()


def test_every_page_of_the_site_is_in_the_navigation(pages, site):
    shown = {target_of(site / "index.html", link)[0] for link in pages[site / "index.html"].links}
    assert {path for path in pages if path.name != "404.html"} - shown == set()


def test_the_python_api_shows_everything_that_it_lists_with_its_words(pages, site):
    page = pages[site / "reference" / "python.html"]
    names = {"owl2_jax.load", "owl2_jax.inference.engine.Engine", "Engine.generate", "Chat.ask"}
    assert names <= page.anchors
    assert rows_without_meaning(page.path) == []


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert len(re.findall(LINK, text)) > 20


LINK = r"\]\((?!https?:)([^)]+)\)"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "launch/README.md"])
def test_the_links_of_the_files_beside_the_site_resolve(name):
    broken = []
    for link in re.findall(LINK, (ROOT / name).read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        file = (ROOT / name).parent / path
        if not file.is_file() or (anchor and anchor not in anchors_of(file)):
            broken.append(link)
    assert broken == []


def anchors_of(file: Path) -> set[str]:
    """Anchors of the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_drawings_of_the_model_stand_in_their_pages_and_tell_their_words(pages, site):
    drawn = {path.stem for path in (ROOT / "docs" / "drawings").glob("*.svg")}
    shown = {
        anchor.removesuffix("-words")
        for name in ("model", "paged_cache")
        for anchor in pages[site / "explain" / f"{name}.html"].anchors
        if anchor.endswith("-words")
    }
    assert shown == drawn >= {"model", "abstractor", "packing", "image_slots", "paged_cache"}
