"""A long mixed load of a server: every answer compared, and what it holds watched.

Every request is asked alone first. Then clients ask them all the time, in any company,
and hang up on some. Wrong is: an answer other than the one alone, one that does not
come, a page that is not given back, memory that grows, a program compiled, a failed engine.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from owl2_jax.core.errors import Owl2Error, shortened
from owl2_jax.testing.http_client import Client
from owl2_jax.testing.mixed_requests import Asked, draw

CLOSE: Final = 2e-3  # of log-probabilities and attention, whose last bits depend on a batch's size
MOST_GROWTH: Final = 0.05  # of resident memory, see `Found.growth`
_DROPPED: Final = 0.1  # of all requests
_FEWEST: Final = 8  # requests of each client
_EVERY: Final = 5.0  # seconds between two looks at the memory
_GAUGE_TIMEOUT: Final = 30.0  # seconds
# What a connection to a server that breaks off, or says something else than HTTP, ends with.
_BROKEN: Final = (OSError, EOFError, ValueError, LookupError, asyncio.LimitOverrunError)


@dataclass(frozen=True)
class Soak:
    """How long, and with what.

    Attributes:
      minutes: of load.
      clients: that ask.
      requests: different ones.
      images: different ones in them.
      tokens: longest answer.
      timeout: seconds that an answer may take.
      seed: of what is drawn.
    """

    minutes: float
    clients: int = 24
    requests: int = 150
    images: int = 40
    tokens: int = 32
    timeout: float = 600.0
    seed: int = 0


@dataclass
class Found:
    """What came out.

    Attributes:
      answers: that were compared, by kind.
      dropped: requests that were hung up on.
      faults: what was wrong, and how often.
      memory: bytes that the server held, in order; empty where the system does not tell.
    """

    answers: Counter = field(default_factory=Counter)
    dropped: int = 0
    faults: Counter = field(default_factory=Counter)
    memory: list[int] = field(default_factory=list)

    def growth(self) -> float:
        """By what share the most memory of the last half is above the most of the second eighth."""
        eighth = max(len(self.memory) // 8, 1)
        early, late = self.memory[eighth : 2 * eighth], self.memory[len(self.memory) // 2 :]
        return max(late) / max(early) - 1 if early and late else math.nan

    def lines(self) -> list[str]:
        """The result for people."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(self.answers.items()))
        lines = [
            f"{self.answers.total()} answers compared ({kinds}); {self.dropped} requests dropped half way"
        ]
        if self.memory:
            later = self.memory[len(self.memory) // 8 :]
            low, high = min(later), max(later)
            growth = (
                "too few readings to tell its growth"
                if math.isnan(self.growth())
                else f"growth {100 * self.growth():.1f} % (at most {100 * MOST_GROWTH:.0f} %)"
            )
            lines.append(
                f"memory {low / 2**20:.0f} to {high / 2**20:.0f} MiB after the first eighth, {growth}"
            )
        return lines + [f"wrong: {count} x {text}" for text, count in self.faults.items()]


def same(one: Any, other: Any) -> bool:
    """Whether two answers say the same, numbers up to `CLOSE`."""
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, abs_tol=CLOSE)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        alike = {"tops": _same_lists}
        return one.keys() == other.keys() and all(
            alike.get(name, same)(one[name], other[name]) for name in one
        )
    return one == other


def _same_lists(one: list[Any], other: list[Any]) -> bool:
    """`same` for lists of likely tokens, in each of which those that are as likely may change places."""
    return len(one) == len(other) and all(map(_same_tops, one, other))


def _same_tops(one: list[list[Any]], other: list[list[Any]]) -> bool:
    """Of equal places equally likely; a token that only one has is no likelier than the last."""
    if len(one) != len(other):
        return False
    first, second = (sorted((value for _, value in tops), reverse=True) for tops in (one, other))
    both = {name for name, _ in one} & {name for name, _ in other}
    mine, theirs = ({name: value for name, value in tops if name in both} for tops in (one, other))
    only = [value for name, value in (*one, *other) if name not in both]
    return same(first, second) and same(mine, theirs) and all(same(value, first[-1]) for value in only)


async def ask_all(url: str, asked: Sequence[Asked], timeout: float) -> list[list[Any]]:
    """What each request gets while nobody else asks."""
    client = Client(url)
    try:
        return [(await asyncio.wait_for(client.ask(one.body, one.path), timeout)).content for one in asked]
    finally:
        client.close()


async def soak(url: str, plan: Soak, resident: Callable[[], int | None]) -> Found:
    """Loads the server at `url`; `resident` tells the bytes that it holds."""
    rng = random.Random(plan.seed)
    asked = [draw(rng, plan.images, plan.tokens) for _ in range(plan.requests)]
    try:
        alone = await ask_all(url, asked, plan.timeout)
        found, programs = Found(), gauge(url, "owl2_programs")
    except _BROKEN as error:
        raise Owl2Error(
            f"the server at {url} broke off before the load ({type(error).__name__} {error}); see its output"
        ) from None
    until = time.monotonic() + 60 * plan.minutes
    watching = asyncio.create_task(_watch(found, resident))
    clients = (_Asker(url, plan, found, asked, alone, number) for number in range(plan.clients))
    await asyncio.gather(*(client.run(until) for client in clients))
    watching.cancel()
    try:
        _compare(found, asked, alone, await ask_all(url, asked, plan.timeout), "alone again")
        await _check_rest(url, found, programs)
    except _BROKEN as error:
        found.faults[f"after the load the server broke off: {type(error).__name__} {error}"] += 1
    return found


class _Asker:
    """One client."""

    def __init__(
        self, url: str, plan: Soak, found: Found, asked: Sequence[Asked], alone: Sequence[Any], number: int
    ):
        self._client = Client(url)
        self._plan, self._found, self._asked, self._alone = plan, found, asked, alone
        self._rng = random.Random(plan.seed * 1000 + number)

    async def run(self, until: float) -> None:
        """Asks and hangs up until a time, but some times at least."""
        asked = 0
        while (asked := asked + 1) <= _FEWEST or time.monotonic() < until:
            index = self._rng.randrange(len(self._asked))
            one = self._asked[index]
            try:
                if self._rng.random() < _DROPPED:
                    await self._drop(one)
                else:
                    work = self._client.ask(one.body, one.path)
                    reply = await asyncio.wait_for(work, self._plan.timeout)
                    _compare(self._found, [one], [self._alone[index]], [reply.content], "among others")
            except _BROKEN as error:
                self._found.faults[f"{one.kind}: {type(error).__name__} {error}"] += 1
                self._client.close()
        self._client.close()

    async def _drop(self, one: Asked) -> None:
        events = self._rng.choice((-1, 0, 1, 1, 3))
        await asyncio.wait_for(self._client.hang_up(one.body, one.path, events), self._plan.timeout)
        self._found.dropped += 1


def _compare(
    found: Found, asked: Sequence[Asked], alone: Sequence[Any], got: Sequence[Any], company: str
) -> None:
    for one, expected, answer in zip(asked, alone, got, strict=True):
        found.answers[one.kind] += 1
        status = answer[0]
        if not (400 <= status < 500 if one.kind == "bad" else status == 200):
            found.faults[f"{one.kind} {company}: status {status}, {shortened(str(answer[1]), 200)}"] += 1
        elif not same(expected, answer):
            text = (
                f"{one.kind} {company}: {shortened(str(answer), 200)} and not {shortened(str(expected), 200)}"
            )
            found.faults[text] += 1


async def _watch(found: Found, resident: Callable[[], int | None]) -> None:
    while True:
        held = resident()
        if held is not None:
            found.memory.append(held)
        await asyncio.sleep(_EVERY)


async def _check_rest(url: str, found: Found, programs: float) -> None:
    """What must be as before when nobody asks any more."""
    for _ in range(600):
        if not gauge(url, "owl2_running") + gauge(url, "owl2_waiting"):
            break
        await asyncio.sleep(0.1)
    for name, expected in (
        ("owl2_running", 0),
        ("owl2_waiting", 0),
        ("owl2_cache_pages_free", gauge(url, "owl2_cache_pages")),
        ("owl2_programs", programs),
        ("owl2_engine_failures_total", 0),
    ):
        if gauge(url, name) != expected:
            found.faults[f"{name} is {gauge(url, name):g} at the end and not {expected:g}"] += 1
    if found.growth() > MOST_GROWTH:
        found.faults[f"memory grew by {100 * found.growth():.1f} %"] += 1


def gauge(url: str, name: str) -> float:
    """A number of the server's metrics. Raises `Owl2Error` where it has none of that name."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=_GAUGE_TIMEOUT) as response:
        lines = response.read().decode().splitlines()
    for line in lines:
        if line.startswith(f"{name} "):
            return float(line.split()[1])
    raise Owl2Error(f"the server at {url} has no reading {name!r}; expected one of this version")
