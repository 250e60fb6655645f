"""`owl2 COMMAND`: finds the command's module, parses its arguments and calls it.

A command's module has `add_arguments(parser)` and `main(args) -> int`. It is
imported only when it is called, so that `owl2 --help` answers at once.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final

from owl2_jax.cli.help_pages import add_pages
from owl2_jax.cli.parsing import Parser, parse, read_ranges
from owl2_jax.cli.signals import Terminated, die_of, end, handle_signals, keep, let_signals_end
from owl2_jax.core.buckets import store_error
from owl2_jax.core.errors import Owl2Error, shortened, unknown_name
from owl2_jax.core.file_errors import NO_ROOM, why_not_writable
from owl2_jax.version import __version__

# Command, which is the name of its module here, and what it does.
COMMANDS: Final = {
    "train": "train a model as a config file says, or go on with a run",
    "evaluate": "answer benchmarks and score them",
    "chat": "talk with a model about images",
    "generate": "answer a JSONL file of prompts",
    "data": "prepare training data, or look at what a config trains on",
    "convert": "convert checkpoints from and to the released PyTorch format",
    "inspect": "list parameters, groups, shardings, memory and work of a config",
    "fit": "say whether a step fits a TPU slice and how fast it can be",
    "bench": "measure training, inference and the input pipeline on this machine",
    "serve": "answer over HTTP as the OpenAI API does, with a chat page",
    "look": "show what a model paid attention to while it answered",
    "sweep": "run a grid of changes of one config, and collect its results",
    "report": "draw the report of a finished quickstart run",
    "completion": "print a script that completes commands in bash or zsh",
}

USER_ERROR: Final = 2
_NO_MEMORY: Final = "RESOURCE_EXHAUSTED: Out of memory"  # as XLA words it
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    An `Owl2Error` becomes one line on the error stream and code 2, an interrupt
    code 130. Anything else is a fault of ours and keeps its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except Owl2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        keep(interrupt)
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _of_machine(error)


def _of_machine(error: Exception) -> int:
    """The exit code for an error of a bucket's store, a disk or the memory, told in one line.

    Raises:
      error, where it is a fault of ours.
    """
    words = store_error(error)
    if words is not None:
        print(f"error: {words}", file=sys.stderr)
        return USER_ERROR
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno in NO_ROOM):
        return _no_output(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY in str(error)):
        return _no_memory(error)
    raise error


def _no_memory(error: Exception) -> int:
    words = shortened(" ".join(str(error).split()) or "it is used up", 200)
    print(f"error: not enough memory: {words}; choose smaller sizes, or a larger machine", file=sys.stderr)
    return USER_ERROR


def _no_output(error: OSError) -> int:
    """The exit code when standard output, or some file, takes no more."""
    # The interpreter must not write to it again when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):  # which is what `owl2 ... | head` ends with
        print(f"error: {why_not_writable(error.filename or 'standard output', error)}", file=sys.stderr)
    return 1


def run() -> None:
    """The console script."""
    handle_signals()
    gc.set_threshold(50_000, 20, 50)  # tracing makes many objects and little garbage: a tenth of a start
    try:
        code = main()
        sys.stdout.flush()
    except Terminated:
        die_of(signal.SIGTERM)
    except OSError as error:  # nobody reads any more, or the output's disk is full
        code = _no_output(error)
    let_signals_end()
    end(code)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else USER_ERROR
    if arguments[0] in ("-V", "--version"):
        print(f"owl2 {__version__}")
        return 0
    name, *rest = arguments
    parser = parser_of(name)
    return _module_of(name).main(parse(parser, rest))


def parser_of(name: str) -> Parser:
    """The parser of a command's arguments. Raises `UnknownNameError` for no command."""
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    summary = COMMANDS[name]
    description = f"{summary[0].upper()}{summary[1:]}."  # `capitalize` would make HTTP http
    parser = Parser(prog=f"owl2 {name}", description=description)
    _module_of(name).add_arguments(parser)
    read_ranges(parser)
    add_pages(parser, name)
    return parser


def _module_of(name: str) -> ModuleType:
    return importlib.import_module(f"owl2_jax.cli.{name}")


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: owl2 COMMAND [ARGUMENT ...]",
            "",
            *lines,
            "",
            "`owl2 COMMAND --help` lists a command's arguments; `owl2 --version` tells the version.",
            "The documentation begins at docs/pages/index.md; a command's help names its page.",
        ]
    )


if __name__ == "__main__":
    run()
