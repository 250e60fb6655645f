"""A page per command, made of its parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from tables import code, prose, table

from owl2_jax.cli.help_pages import page_of
from owl2_jax.cli.main import COMMANDS, parser_of

PAGES = Path(__file__).parents[1] / "pages"


def commands_page() -> str:
    """The list of all commands."""
    rows = [(f"[owl2 {name}](commands/{name}.md)", prose(about)) for name, about in COMMANDS.items()]
    words = "Every command has `--help`; [exit codes](exit_codes.md) are the same for all."
    return "\n\n".join(["# Commands", words, table(("command", "what it does"), rows)])


def command_page(name: str) -> str:
    """Usage and arguments of a command and its actions."""
    parser = parser_of(name)
    parts = [f"# owl2 {name}", prose(parser.description or ""), _guide(name)]
    for about, one in _parsers(parser):
        if one is not parser:
            parts += [f"## {one.prog}", prose(f"{about[0].upper()}{about[1:]}.")]
        parts += [_usage(one), table(("argument", "meaning"), _rows(one))]
    return "\n\n".join(parts)


def _guide(name: str) -> str:
    """A link to the page that shows the command at work."""
    page = page_of(name)
    title = re.search(r"^# (.+)$", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE)[1]
    return f"See it at work: [{title}](../../{page})."


def _parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and those of its actions, each with what the help says of it."""
    yield "", parser
    for group in parser._actions:
        if isinstance(group, argparse._SubParsersAction):
            words = {choice.dest: choice.help or choice.dest for choice in group._choices_actions}
            for name, inner in group.choices.items():
                yield words[name], inner


def _usage(parser: argparse.ArgumentParser) -> str:
    words = " ".join(parser.format_usage().split()).removeprefix("usage: ")
    return f"```text\n{words}\n```"


def _rows(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    return [
        (_name(action, parser.prog), _meaning(action))
        for action in parser._actions
        if action.help != argparse.SUPPRESS
    ]


def _name(action: argparse.Action, prog: str) -> str:
    if not action.option_strings:
        return code(str(action.metavar or action.dest))
    value = "" if action.nargs == 0 else f" {code(_value(action))}"  # apart: a phone breaks the line there
    options = [option for option in action.option_strings if option.startswith("--")]
    return ", ".join(code(option, f"{'-'.join(prog.split()[2:])}{option}") + value for option in options)


def _value(action: argparse.Action) -> str:
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    metavar = action.metavar or action.dest.upper()
    return metavar if isinstance(metavar, str) else " ".join(metavar)


def _meaning(action: argparse.Action) -> str:
    if isinstance(action, argparse._SubParsersAction):
        return ", ".join(code(name) for name in action.choices)
    text = prose((action.help or "") % _said(action) if action.help else "")
    if action.required and action.option_strings:
        return f"{text} **(required)**"
    shown = "(default" not in text and action.default not in (None, False, [], argparse.SUPPRESS, "")
    return f"{text} (default: {code(str(action.default))})" if shown and action.option_strings else text


def _said(action: argparse.Action) -> dict[str, object]:
    return {**vars(action), "prog": "owl2"}
