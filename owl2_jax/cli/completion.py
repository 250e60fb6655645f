"""`owl2 completion`: a script that completes commands, flags and their values in bash or zsh."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from string import Template
from typing import Final

SHELLS: Final = ("bash", "zsh")
_CONFIGS: Final = ("--config", "sweep", "config")  # arguments that take the name of a recipe

# In bash the sign "=" is a word of its own, in zsh it is part of the flag.
_SCRIPT: Final = Template("""\
_owl2() {
  local current="$${COMP_WORDS[COMP_CWORD]}" place="$${COMP_WORDS[1]}" flag="" prefix="" offered=""
  case " $actions " in
    *" $$place "*) if [ "$$COMP_CWORD" -gt 2 ]; then place="$$place $${COMP_WORDS[2]}"; fi ;;
  esac
  if [ "$$COMP_CWORD" -gt 1 ]; then
    flag="$${COMP_WORDS[COMP_CWORD - 1]}"
    case "$$current" in
      --*=*) flag="$${current%%=*}" prefix="$${current%%=*}=" current="$${current#*=}" ;;
      =) current="" ;;
      *) if [ "$$flag" = = ]; then flag="$${COMP_WORDS[COMP_CWORD - 2]}"; fi ;;
    esac
  fi
  case "$$place $$flag" in
$values
    *) case "$$place" in
$flags
    esac ;;
  esac
  if [ "$$COMP_CWORD" = 1 ]; then offered="$commands"; fi
  COMPREPLY=($$(compgen -P "$$prefix" -W "$$offered" -- "$$current"))
}
complete -o default -F _owl2 owl2
""")
_ZSH: Final = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument(
        "shell", choices=SHELLS, help='for `eval "$(owl2 completion SHELL)"` in its start-up file'
    )


def main(args: argparse.Namespace) -> int:
    """Prints the script."""
    from owl2_jax.cli.main import COMMANDS, parser_of

    print(script(args.shell, {name: parser_of(name) for name in COMMANDS}), end="")
    return 0


def script(shell: str, parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """The script for commands by name, files being completed wherever nothing else is known."""
    from owl2_jax.core.recipes import recipe_names

    places = {place: parser for name, one in parsers.items() for place, parser in _places(name, one)}
    recipes = recipe_names()
    text = _SCRIPT.substitute(
        actions=" ".join(name for name, parser in parsers.items() if _actions_of(parser)),
        values="\n".join(
            line for place, parser in places.items() for line in _values(place, parser, recipes)
        ),
        flags="\n".join(
            f'      "{place}") offered="{_words(one, recipes)}" ;;' for place, one in places.items()
        ),
        commands=" ".join(parsers),
    )
    return (_ZSH if shell == "zsh" else "") + text


def _places(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A command and its actions, each by what stands before its flags."""
    yield name, parser
    for action, inner in _actions_of(parser).items():
        yield f"{name} {action}", inner


def _actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    groups = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return next((dict(group.choices) for group in groups), {})


def _values(place: str, parser: argparse.ArgumentParser, recipes: list[str]) -> Iterator[str]:
    """What may stand after each flag that takes a value; nothing where that is a file, a number or a text."""
    for action in parser._actions:
        if action.option_strings and action.nargs != 0:
            known = recipes if action.option_strings[-1] in _CONFIGS else map(str, action.choices or ())
            patterns = "|".join(f'"{place} {flag}"' for flag in action.option_strings)
            yield f'    {patterns}) offered="{" ".join(known)}" ;;'


def _words(parser: argparse.ArgumentParser, recipes: list[str]) -> str:
    """Flags that the help shows, actions, and what a word without a flag may be."""
    words: list[str] = list(_actions_of(parser))
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        if action.option_strings:
            words.append(action.option_strings[-1])
        else:
            words += recipes if action.dest in _CONFIGS else map(str, action.choices or ())
    return " ".join(words)
