"""`owl2 serve` as the pages start it: its own process on a free port, shared by pages that ask alike."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from owl2_jax.cli.main import parser_of
from tests.environment import environment

ADDED = ("--port=0", "--sequences=1")
SECONDS = 300.0  # until it is ready


class Servers:
    """Servers by what their commands say; what they print goes to files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[tuple[str, ...], tuple[subprocess.Popen[bytes], str]] = {}

    def url_of(self, words: Sequence[str]) -> str:
        """Where the server of `owl2 serve WORDS` answers, started if no page has.

        Directories count by what they are links to, so that the tiny model of all pages is served once.
        """
        checkpoint = parser_of("serve").parse_args(list(words)).checkpoint
        rest = [word for word in words if word not in ("--checkpoint", str(checkpoint))]
        rest = [word for word in rest if not word.startswith("--checkpoint=")]
        key = (f"--checkpoint={Path(checkpoint).resolve()}", *rest)
        if key not in self._running:
            self._running[key] = self._start(key)
        return self._running[key][1]

    def _start(self, words: Sequence[str]) -> tuple[subprocess.Popen[bytes], str]:
        output = self._folder / f"{len(self._running)}.txt"
        command = [sys.executable, "-m", "owl2_jax.cli.main", "serve", *words, *ADDED]
        with output.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment())
        deadline = time.monotonic() + SECONDS
        while "\nready\n" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        (url,) = re.findall(r"chat page at (\S+),", output.read_text())
        return process, url

    def stop(self) -> None:
        """Ends all, as a signal does; each must end with 0."""
        for process, _ in self._running.values():
            process.terminate()
        codes = [process.wait(60) for process, _ in self._running.values()]
        assert codes == [0] * len(codes)


@contextlib.contextmanager
def started_servers(folder: Path) -> Iterator[Servers]:
    """Servers that end with the block."""
    servers = Servers(folder)
    try:
        yield servers
    finally:
        servers.stop()
