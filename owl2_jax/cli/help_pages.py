"""Which page of the documentation a command's help points to."""

from __future__ import annotations

import argparse
from typing import Final

# Command, or command and action, -> page below docs/pages; an action without a page has its command's.
PAGES: Final = {
    "train": "howto/train.md",
    "evaluate": "howto/evaluate.md",
    "chat": "howto/serve.md",
    "generate": "howto/serve.md",
    "data": "howto/data.md",
    "convert": "howto/convert.md",
    "convert merge-lora": "howto/lora.md",
    "convert export-lora": "howto/lora.md",
    "convert import-lora": "howto/lora.md",
    "inspect": "howto/memory.md",
    "fit": "howto/memory.md",
    "bench": "howto/profiles.md",
    "serve": "howto/serve.md",
    "look": "howto/sweep.md",
    "sweep": "howto/sweep.md",
    "report": "index.md",
    "completion": "howto/train.md",
}


def add_pages(parser: argparse.ArgumentParser, name: str) -> None:
    """Ends the help of a command and of its actions with their page."""
    parser.epilog = f"The documentation has a page on this: docs/pages/{page_of(name)}"
    for group in parser._actions:
        if isinstance(group, argparse._SubParsersAction):
            for action, inner in group.choices.items():
                add_pages(inner, f"{name} {action}")


def page_of(name: str) -> str:
    """The page of "COMMAND" or "COMMAND ACTION"."""
    return PAGES.get(name) or PAGES[name.partition(" ")[0]]
