"""The chat page's files: all are installed, of a known type, asked for again, and whole."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from pathlib import Path

import httpx
import pytest

from owl2_jax.serving.page_files import PAGE, TYPES

FILES = sorted(path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file())
SETUP = Path(__file__).parents[2] / "setup.py"


@pytest.mark.parametrize("name", FILES)
def test_file_is_served_with_its_type_and_asked_for_again(shared, name, monkeypatch):
    monkeypatch.setattr("mimetypes.guess_type", lambda *_, **__: ("text/plain", None))  # as some machines say
    url = f"{shared.url}/page/{name}"
    response = httpx.get(url)
    assert response.content == (PAGE / name).read_bytes()
    assert response.headers.get_list("content-type") == [TYPES[Path(name).suffix]]
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(url, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"


def test_page_itself_is_served_alike(shared):
    response = httpx.get(f"{shared.url}/")
    assert response.headers.get_list("content-type") == ["text/html; charset=utf-8"]
    assert response.headers["cache-control"] == "no-cache"


def test_policy_allows_nothing_but_the_page_itself(shared):
    policy = httpx.get(f"{shared.url}/").headers["content-security-policy"]
    parts = dict(part.partition(" ")[::2] for part in policy.split("; "))
    assert parts.pop("img-src") == "'self' data: blob:"
    assert parts.pop("require-trusted-types-for") == "'script'"
    assert {name for name, value in parts.items() if value == "'self'"} == {
        "script-src", "style-src", "connect-src",
    }  # fmt: skip
    assert {value for value in parts.values() if value != "'self'"} == {"'none'"}
    assert "unsafe" not in policy


def test_all_files_are_installed():
    globs = re.findall(r'"(page/[^"]+)"', SETUP.read_text(encoding="utf-8"))
    for name in FILES:
        depth = name.count("/")
        fits = [
            glob for glob in globs if glob.count("/") == depth + 1 and fnmatch.fnmatch(f"page/{name}", glob)
        ]
        assert fits, name


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".js", ".html", ".css"))])
def test_own_files_name_nothing_outside_and_make_no_html_of_text(name):
    text = (PAGE / name).read_text(encoding="utf-8")
    for word in (
        "http://",
        "https://",
        "innerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "style=",
    ):
        assert word not in text
    for found in re.findall(r'(?:from|src=|href=) ?"([^"]+)"', text):
        base = PAGE.parent if name == "index.html" else PAGE
        assert (base / found).is_file(), found


def test_library_is_the_one_that_its_notice_names():
    notice = (PAGE / "vendor" / "NOTICE").read_text(encoding="utf-8")
    library = (PAGE / "vendor" / "markdown-it.esm.min.mjs").read_bytes()
    assert hashlib.sha256(library).hexdigest() in notice
    assert b"markdown-it 15.0.3" in library[:100]
    for name in ("markdown-it 15.0.3", "linkify-it", "mdurl", "punycode.js", "uc.micro", "entities"):
        assert re.search(rf"^{name}.*: .+\nLicence: (MIT|BSD-2-Clause)\n\nCopyright", notice, re.MULTILINE), (
            name
        )
