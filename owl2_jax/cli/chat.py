"""`owl2 chat`: a conversation about images in the terminal, or with lines from a pipe."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from owl2_jax.checkpoint.param_files import check_checkpoint
from owl2_jax.cli.common import (
    add_checkpoint_arguments,
    add_int8_argument,
    add_length_argument,
    add_mesh_argument,
    check_image,
    load_model,
)
from owl2_jax.cli.sampling_arguments import add_end_arguments, add_sampling_arguments, ends_of, sampling_of
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.core.texts import BucketPath

if TYPE_CHECKING:
    from owl2_jax.inference.chat import Chat

HELP = """\
/image FILE [TEXT]  show an image with the next message, or with TEXT at once
/reset              forget everything
/help               this list
/quit               end (or Ctrl-D)
Ctrl-C stops an answer. A FILE with spaces in front of a TEXT stands in quotes."""

_COMMANDS = ("/image", "/reset", "/help", "/quit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 chat`."""
    add_checkpoint_arguments(parser)
    add_int8_argument(parser)
    add_mesh_argument(parser)
    parser.add_argument(
        "--image", action="append", default=[], type=BucketPath, metavar="FILE",
        help="image of the first message; may be given several times",
    )  # fmt: skip
    add_length_argument(parser)
    add_sampling_arguments(parser)
    add_end_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 chat`; returns the exit code."""
    check_checkpoint(args.checkpoint)

    from owl2_jax.inference.request import Request

    sampling, ends = sampling_of(args), ends_of(args)
    # What is wrong is told before anything is loaded.
    settings = Request("", sampling=sampling, max_new_tokens=args.max_new_tokens, **ends)
    for path in args.image:
        check_image(path)

    from owl2_jax.inference.chat import Chat
    from owl2_jax.inference.engine import Engine, EngineConfig
    from owl2_jax.inference.inputs import check_request

    model = load_model(args, args.int8)
    check_request(settings, model)
    engine = Engine(model, EngineConfig(sequences=1, decode_steps=4))
    chat = Chat(engine, sampling, args.max_new_tokens, **ends)
    terminal = sys.stdin.isatty()
    if terminal:
        print(f"{model.name}: ask something, or /help", flush=True)
    session = Session(chat, args.image, print_piece)
    session.run(lines(session.prompt if terminal else None))
    return 0


class Session:
    """Reads lines, obeys commands and prints answers; an error is told and the chat goes on."""

    def __init__(self, chat: Chat, images: list[Path], show: Callable[[str], None]):
        """`images` wait for the first message; `show` takes the pieces of answers."""
        self.chat = chat
        self.waiting = list(images)
        self._show = show

    def prompt(self) -> str:
        """What the terminal shows in front of a line; tells of images that wait."""
        count = len(self.waiting)
        return f"[{count} image{'s' * (count > 1)}] > " if count else "> "

    def run(self, source: Iterator[str]) -> None:
        """Answers line by line until the lines end or one says `/quit`."""
        for line in source:
            text = line.strip()
            try:
                if text.startswith("/"):
                    if not self._command(text):
                        return
                elif text:
                    self._ask(text)
            except Owl2Error as error:
                print(f"error: {error}", file=sys.stderr, flush=True)

    def _command(self, text: str) -> bool:
        """Obeys a command; False when it was the last one."""
        name, _, rest = text.partition(" ")
        if name == "/quit":
            return False
        if name == "/image":
            self._add_image(rest.strip())
        elif name == "/reset":
            self.chat.reset()
            self.waiting = []
        elif name == "/help":
            print(HELP, flush=True)
        else:
            raise unknown_name("command", name, _COMMANDS)
        return True

    def _add_image(self, rest: str) -> None:
        """Takes `FILE` or `FILE TEXT`; a name with spaces needs no quotes when it stands alone."""
        if not rest:
            raise Owl2Error("/image needs a file: /image FILE")
        name, text = split_name(rest)
        path = as_path(name) if in_bucket(name) else Path(name).expanduser()
        check_image(path)
        self.waiting.append(path)
        if text:
            self._ask(text)

    def _ask(self, text: str) -> None:
        from owl2_jax.data.images import read_file

        images = [read_file(path) for path in self.waiting]
        answer = self.chat.ask(text, images)
        with interrupts() as stopped:
            for piece in answer:
                self._show(piece)
                if stopped.is_set():
                    answer.close()
        self._show("\n")
        self.waiting = []


@contextlib.contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Sets an event at the first Ctrl-C instead of breaking into the engine; a second one breaks.

    An exception in the middle of a step would leave the engine without its cache,
    which the step had taken over.
    """
    stopped = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def stop(*_: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def split_name(rest: str) -> tuple[str, str]:
    """The file name and the text of "FILE", "FILE TEXT" or "'FILE' TEXT"."""
    if Path(rest).is_file():
        return rest, ""
    quote = rest[0]
    if quote in "'\"" and quote in rest[1:]:
        name, _, text = rest[1:].partition(quote)
        return name, text.strip()
    name, _, text = rest.partition(" ")
    return name, text.strip()


def print_piece(piece: str) -> None:
    """Shows a piece of an answer at once."""
    print(piece, end="", flush=True)


def lines(prompt: Callable[[], str] | None) -> Iterator[str]:
    """Lines of the terminal after a prompt, with editing where there is any; without one, of a pipe."""
    if prompt is None:
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (importing it gives `input` history and editing)
    while True:
        try:
            line = input(prompt())
        except KeyboardInterrupt:  # too late for an answer that has just ended: only the line is lost
            print()
            continue
        except EOFError:
            print()
            return
        yield line
