"""The help of every command and action ends with a page of the documentation that there is."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from owl2_jax.cli.help_pages import PAGES, page_of
from owl2_jax.cli.main import COMMANDS, main, parser_of

ROOT = Path(__file__).parents[2]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for group in parser._actions:
        if isinstance(group, argparse._SubParsersAction):
            for inner in group.choices.values():
                yield from parsers(inner)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_and_of_its_actions_names_a_page(name):
    for parser in parsers(parser_of(name)):
        pages = re.findall(r"docs/pages/\S+\.md", parser.format_help())
        assert pages == [f"docs/pages/{page_of(parser.prog.removeprefix('owl2 '))}"]
        assert (ROOT / pages[0]).is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_speaks_of_the_command(name):
    assert name in (ROOT / "docs" / "pages" / page_of(name)).read_text(encoding="utf-8")


def test_no_page_is_named_for_what_is_no_command():
    assert {name.split()[0] for name in PAGES} == set(COMMANDS)


def test_the_help_of_owl2_names_the_first_page(capsys):
    assert main(["--help"]) == 0
    assert "docs/pages/index.md" in capsys.readouterr().out
