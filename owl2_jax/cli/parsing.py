"""The parser of a command's arguments: what is wrong with them is told in one line, with the nearest name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Final, NoReturn, get_args, get_origin

from owl2_jax.core.errors import Owl2Error, nearest, unknown_name
from owl2_jax.core.fields import read_number, read_path

_NUMBER: Final = re.compile(r"-\d+$|-\d*\.\d+$")  # no option, as argparse has it
_REQUIRED: Final = "the following arguments are required: "
_NO_VALUE: Final = re.compile(r"argument (\S+): expected .*argument")
_A_VALUE: Final = re.compile(r"argument (\S+): ignored explicit argument (.*)")


class Parser(argparse.ArgumentParser):
    """As argparse's, without abbreviations; `error` raises `Owl2Error` instead of printing the usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Raises `Owl2Error` where argparse would print its usage and exit."""
        raise Owl2Error(f"{self._in_our_words(message)}; `{self.prog} --help` lists what it takes")

    def _in_our_words(self, message: str) -> str:
        if message.startswith(_REQUIRED):
            return f"{self.prog} needs {self._required(message.removeprefix(_REQUIRED).split(', '))}"
        no_value = _NO_VALUE.match(message)
        if no_value:
            name = no_value.group(1).rpartition("/")[2]
            return f"{name} needs a value, as {self._with_value(name)}"
        a_value = _A_VALUE.match(message)
        if a_value:
            return f"{a_value.group(1)} takes no value, found {a_value.group(2)}"
        return f"{self.prog}: {message}"

    def _required(self, names: Iterable[str]) -> str:
        """Names with their values; argparse counts words among them that may be left out."""
        free = {action.metavar for action in self._actions if action.nargs == "*"}
        needed = [self._with_value(name) for name in names if name not in free]
        return f"{', '.join(needed[:-1])} and {needed[-1]}" if len(needed) > 1 else needed[0]

    def _with_value(self, name: str) -> str:
        action = self._option_string_actions.get(name.rpartition("/")[2])
        if action is None or action.nargs == 0:
            return name
        return f"{name} {action.metavar or action.dest.upper()}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = action.option_strings[-1] if action.option_strings else action.metavar or action.dest
            raise unknown_name(f"value of {name}", value, map(str, action.choices))


def read_ranges(parser: argparse.ArgumentParser) -> None:
    """Numbers with a range (`type=Count`) and paths refuse what they cannot be, by their own name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for chosen in action.choices.values():
                read_ranges(chosen)
        elif get_origin(action.type) is Annotated:
            name = action.option_strings[-1] if action.option_strings else action.dest
            read = read_path if get_args(action.type)[0] is str else read_number
            action.type = partial(read, action.type, name=name)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Takes FIELD=VALUE words between the options, too, also after the name of an action.

    Raises:
      Owl2Error: an unknown option, value or word, or one that is missing.
    """
    actions = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
    if actions is None:
        _check_options(parser, arguments)
        found, rest = parser.parse_known_intermixed_args(list(arguments))
        if rest:
            raise Owl2Error(_why_not_taken(parser, arguments, rest[0]))
        return found
    if not arguments or {"-h", "--help"} & {arguments[0]}:
        return parser.parse_args(arguments)
    if arguments[0] not in actions.choices:
        kind = f"action of {parser.prog}"
        if arguments[0].startswith("-"):
            raise Owl2Error(
                f"the {kind} comes first, found {arguments[0]!r}; one of {', '.join(actions.choices)}"
            )
        raise unknown_name(kind, arguments[0], actions.choices)
    found = parse(actions.choices[arguments[0]], arguments[1:])
    setattr(found, actions.dest, arguments[0])
    return found


def _check_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Refuses unknown options before others are missed, which a slip in a required one looks like."""
    known = parser._option_string_actions
    for word in arguments:
        if word == "--":
            return
        name = word.partition("=")[0]
        is_option = len(word) > 1 and word[0] == "-" and " " not in name and not _NUMBER.match(word)
        if is_option and name not in known and (word[:2] == "--" or word[:2] not in known):
            shown = [option for option, action in known.items() if action.help != argparse.SUPPRESS]
            raise unknown_name(f"option of {parser.prog}", name, shown)


def _why_not_taken(parser: argparse.ArgumentParser, arguments: Sequence[str], word: str) -> str:
    """What to do about a word that belongs to no option and is none that the command takes."""
    start = f"{parser.prog} does not take {word!r}"
    name, equals, value = word.partition("=")
    options = [option[2:] for option in parser._option_string_actions if option.startswith("--")]
    near = [f"--{option}" for option in nearest(name, options, count=1)]
    if equals:
        return f"{start}: it has options alone, no FIELD=VALUE" + (
            f"; did you mean {near[0]}={value}?" if near else ""
        )
    place = list(arguments).index(word)
    before = list(arguments[max(place - 2, 0) : place])
    if len(before) == 2 and before[0].startswith("--") and "=" not in before[0]:
        return f"{start}; did you mean {before[0]} '{before[1]} {word}'? A value with a blank needs quotes"
    if before and before[-1].startswith("--") and "=" in before[-1]:
        option, _, first = before[-1].partition("=")
        return f"{start}; did you mean {option}='{first} {word}'? A value with a blank needs quotes"
    return f"{start}; its options have names" + (f"; did you mean {near[0]}?" if near else "")
