"""Blocks of code of the pages and READMEs, in the order of a page."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "pages"
READMES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "launch/README.md")]
TEXTS = [*READMES, *sorted(PAGES.rglob("*.md"))]
EXTRA = re.compile(r'^    "([a-z]\w*)": ', re.MULTILINE)  # of setup.py
BLOCK = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$',
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
      page: path of its page from the root of the repository.
      title: name of the file that it stands for, "" for none.
    """

    page: str
    language: str
    text: str
    title: str = ""


def blocks_of(path: Path) -> list[Block]:
    """All blocks of a page."""
    page = str(path.relative_to(ROOT))
    return [
        Block(page, found["language"], found["text"], found["title"] or "")
        for found in BLOCK.finditer(path.read_text(encoding="utf-8"))
    ]


def blocks(language: str) -> list[Block]:
    """The blocks of a language on all pages."""
    return [block for path in TEXTS for block in blocks_of(path) if block.language == language]


def joined_lines(text: str) -> list[str]:
    """The lines of a shell block, long ones whole."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def lines_of(text: str) -> list[list[str]]:
    """The words of every command of a shell block; of what may be left out, "[--flag VALUE]", no brackets."""
    words = [
        shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", line), comments=True) for line in joined_lines(text)
    ]
    return [one for one in words if one]
