"""Loads `owl2 serve` with many clients and checks every answer.

    python launch/load_test.py [--checkpoint DIR] [--clients 64] [--seconds 300]
    python launch/load_test.py [--checkpoint DIR] [--clients 24] --minutes 30

Starts a server of its own on the loopback address (a small model with random
weights unless a checkpoint is given), asks every question alone first, then
keeps 1, 16 and `--clients` clients asking. Prints a table and what 16 clients get
over one, and fails when an answer is lost, refused, or another than the one its
question got alone. How fast is fast enough depends on the model, the machine and
what else runs on it; no ratio fails. To compare two versions, run them in turn.
With `--minutes` it is a long load of all kinds of requests instead.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import read_number
from owl2_jax.core.processes import cpu_seconds, resident_bytes, usable_cores
from owl2_jax.core.ranges import Count, Positive
from owl2_jax.testing.http_client import Client
from owl2_jax.testing.mixed_requests import image_url
from owl2_jax.testing.soak import Soak, gauge, soak

COMPARED = 16  # clients, with one


@dataclass
class Tally:
    """What a number of clients saw.

    Attributes:
      seconds: how long they asked.
      firsts: seconds to the first text of each answer.
      tokens: of all answers.
      cpu: seconds of the CPU, of server and clients; nan where the system does not tell.
      passes: through the model.
      wrong: answers that differ from those alone.
      failures: what went wrong otherwise, and how often.
    """

    seconds: float = 0.0
    firsts: list[float] = field(default_factory=list)
    tokens: int = 0
    cpu: float = 0.0
    passes: float = 0.0
    wrong: int = 0
    failures: Counter = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds

    @property
    def cost(self) -> float:
        """Seconds of the CPU for a token."""
        return self.cpu / max(self.tokens, 1)

    @property
    def rows(self) -> float:
        """Tokens of a pass through the model."""
        return self.tokens / max(self.passes, 1)

    def row(self, clients: int) -> str:
        """The line of the table."""
        first, last = np.percentile(self.firsts or [np.nan], [50, 99])
        bad = self.wrong + self.failures.total()
        return f"{clients:>7} {len(self.firsts):>8} {self.rate:>9.0f} {first:>10.3f} {last:>10.3f} {bad:>5}"


def gain(one: Tally, many: Tally) -> float:
    """Tokens per second of several clients over those of one; 0 where one got none."""
    return many.rate / one.rate if one.tokens else 0.0


def about_gain(one: Tally, many: Tally, cores: int) -> str:
    """The comparison in words, with what it rests on."""
    text = (
        f"{COMPARED} clients get {gain(one, many):.1f} times the tokens of one, "
        f"{many.rows:.1f} tokens of a pass, alone {one.rows:.1f}; "
    )
    if math.isnan(many.cpu):
        return text + "what a token costs the CPU is not known, as this system does not tell"
    return text + (
        f"a token costs {1e3 * many.cost:.2f} ms of the CPU, alone {1e3 * one.cost:.2f} ms, and "
        f"{many.cpu / many.seconds:.1f} of {cores} cores are busy, alone {one.cpu / one.seconds:.1f}"
    )


def cpu_of_both(server: int) -> float:
    """Of this process and of the server, whose number is given; nan where the system does not tell."""
    taken = cpu_seconds(server)
    return time.process_time() + (math.nan if taken is None else taken)


def questions(longest: int) -> list[bytes]:
    """Bodies with 0, 1 and 3 images, of different lengths, greedy."""
    bodies = []
    for i, images in enumerate([(), (1,), (1, 2, 3), (4,), ()]):
        parts = [{"type": "image_url", "image_url": {"url": image_url(seed)}} for seed in images]
        parts.append({"type": "text", "text": f"What{' color' * (2 * i)} is this?"})
        call = {
            "messages": [{"role": "user", "content": parts}],
            "temperature": 0,
            "max_tokens": longest - 4 * i,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        bodies.append(json.dumps(call).encode())
    return bodies


async def keep_asking(url: str, bodies: list[bytes], alone: list[Any], clients: int, seconds: float) -> Tally:
    """Has clients ask one question after the other for a time, and compares."""
    tally = Tally()
    began = time.perf_counter()

    async def one(number: int) -> None:
        client = Client(url)
        asked = number
        while time.perf_counter() < began + seconds:
            index, asked = asked % len(bodies), asked + 1
            try:
                reply = await asyncio.wait_for(client.ask(bodies[index]), 120)
            except (OSError, EOFError, ValueError, KeyError) as error:
                tally.failures[str(error) or type(error).__name__] += 1
                client.close()
                continue
            if reply.error:
                tally.failures[reply.error] += 1
                continue
            tally.firsts.append(reply.seconds)
            tally.tokens += reply.tokens
            tally.wrong += reply.content != alone[index]
        client.close()

    await asyncio.gather(*(one(number) for number in range(clients)))
    tally.seconds = time.perf_counter() - began
    return tally


async def warm_up(url: str, bodies: list[bytes], alone: list[Any], most: int) -> None:
    """Asks until nothing is compiled any more, so that compiling is not what is measured."""
    compiled = -1
    for _ in range(20):
        for clients in (1, COMPARED, most):
            await keep_asking(url, bodies, alone, clients, 3)
        if compiled == (compiled := programs(url)):
            return


def programs(url: str) -> int:
    """How many kinds of programs the server has compiled."""
    return int(gauge(url, "owl2_programs"))


async def run(url: str, server: int, args: argparse.Namespace) -> bool:
    """The whole test; True when all is well."""
    bodies = questions(args.tokens)
    client = Client(url)
    alone = [(await client.ask(body)).content for body in bodies]
    again = [(await client.ask(body)).content for body in bodies]
    client.close()
    await warm_up(url, bodies, alone, args.clients)
    print("clients  answers  tokens/s  first p50  first p99   bad", flush=True)
    tallies = {}
    for clients in sorted({1, COMPARED, args.clients}):
        seconds = args.seconds if clients == args.clients else min(args.seconds, 20)
        before, passes = cpu_of_both(server), gauge(url, "owl2_passes_total")
        tallies[clients] = await keep_asking(url, bodies, alone, clients, seconds)
        tallies[clients].cpu = cpu_of_both(server) - before
        tallies[clients].passes = gauge(url, "owl2_passes_total") - passes
        print(tallies[clients].row(clients), flush=True)
    for tally in tallies.values():
        for text, count in tally.failures.items():
            print(f"{count} x {text}")
    one, many, cores = tallies[1], tallies[COMPARED], usable_cores()
    print(about_gain(one, many, cores))
    clean = all(not tally.wrong and not tally.failures for tally in tallies.values())
    return clean and alone == again


@contextlib.contextmanager
def served(checkpoint: Path, arguments: list[str]) -> Iterator[tuple[str, int]]:
    """`owl2 serve` as a process; yields its address when it is ready, and its number."""
    command = [sys.executable, "-m", "owl2_jax.cli.main", "serve", "--port=0", f"--checkpoint={checkpoint}"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().partition(" at ")[2].partition(",")[0]
            if process.stdout.readline() != "ready\n":
                raise SystemExit("error: the server did not start")
            yield url, process.pid
        finally:
            process.terminate()


def write_small_model(directory: Path) -> Path:
    """The preset "owl2_tiny" with random weights, whose answers vary with the question."""
    from owl2_jax.checkpoint.param_files import model_json, write_model_directory
    from owl2_jax.data.sources.embedded import TOKENIZER
    from owl2_jax.model.presets import preset
    from owl2_jax.testing import tiny

    config = preset("owl2_tiny")
    path = directory / "owl2_tiny"
    write_model_directory(
        path, model_json(config.to_dict()), tiny.tiny_params(config), TOKENIZER.read_bytes()
    )
    return path


def run_soak(url: str, server: int, args: argparse.Namespace) -> bool:
    """A long mixed load; True when nothing was wrong."""
    plan = Soak(minutes=args.minutes, clients=args.clients, tokens=args.tokens)
    if resident_bytes(server) is None:
        print("this system does not tell what memory the server holds: it is not watched")
    found = asyncio.run(soak(url, plan, lambda: resident_bytes(server)))
    print("\n".join(found.lines()))
    return not found.faults


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0] + " No speed fails; wrong, lost and refused answers do."
    )
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="(default: random weights)")
    for name, hint, default, what in (
        ("--clients", Count, 64, "at most"),
        ("--seconds", Positive, 300.0, "with all clients"),
        ("--tokens", Count, 48, "longest answer"),
        ("--sequences", Count, 32, "of the server"),
    ):
        number = partial(read_number, hint, name=name)
        parser.add_argument(name, type=number, default=default, help=f"{what} (default: {default:g})")
    parser.add_argument(
        "--minutes",
        type=partial(read_number, Positive, name="--minutes"),
        help="instead of the table: so long a load of all kinds of requests, some of which are hung up on; "
        "compares answers and watches memory and pages",
    )
    return parser.parse_args(words)


def main() -> int:
    """Starts a server, loads it, prints what came out; 1 where something was wrong."""
    args = read_arguments()
    places = (16 if args.minutes else 2) * args.clients  # a mixed request may ask for several answers
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint or write_small_model(Path(folder))
        with served(checkpoint, [f"--sequences={args.sequences}", f"--queue={places}"]) as (url, server):
            well = run_soak(url, server, args) if args.minutes else asyncio.run(run(url, server, args))
            return 0 if well else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Owl2Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
