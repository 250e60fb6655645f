"""Markdown tables, and what docstrings say of fields and arguments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

_ENTRY = re.compile(r"((?:\w+, )*\w+): ?(.*)")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells are Markdown of one line."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def code(text: str, anchor: str = "") -> str:
    """Text in the font of code, with an anchor to link to."""
    body = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    body = body.replace("_", "&#95;").replace("*", "&#42;")
    return f'<code id="{anchor}">{body}</code>' if anchor else f"<code>{body}</code>"


def prose(text: str) -> str:
    """Words of a docstring or a help text as Markdown: only what stands in backticks is marked."""
    parts = re.split(r"``?([^`]+)``?", text)
    return "".join(code(part) if place % 2 else _plain(part) for place, part in enumerate(parts))


def _plain(text: str) -> str:
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("*", "&#42;"), ("_", "&#95;")):
        text = text.replace(sign, written)
    return re.sub(r"([\[\]{}])", r"\\\1", text)


def summary(thing: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def description(cls: type) -> str:
    """What a docstring says before its sections, on one line."""
    return " ".join((inspect.getdoc(cls) or "").partition("Attributes:")[0].split())


def meanings(thing: object, section: str) -> dict[str, str]:
    """{name: meaning} of a section of a docstring, "Attributes" or "Args"."""
    text = inspect.getdoc(thing) or ""
    found = re.search(rf"^{section}:\n((?:(?: .*)?\n?)*)", text, re.MULTILINE)
    result: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(found[1]).splitlines() if found else ():
        entry = _ENTRY.match(line)
        if entry:
            names = entry[1].split(", ")
            result |= dict.fromkeys(names, entry[2])
        else:
            result |= {name: f"{result[name]} {line.strip()}".strip() for name in names}
    return result
