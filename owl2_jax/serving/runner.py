"""One thread that steps the engine, and its callers in an asyncio loop.

    loop    reserve -> Ticket.submit ... await Ticket.next ... Ticket.abandon
              |             |                    ^               |
              v             v  commands          |  events       v
    thread               [ take -> engine.step -> publish ] for ever

The engine and everything of JAX belong to the thread; tickets, counts and
limits to the loop. A place is taken when a request is accepted and given back
when the thread says that the engine is done with it, so there are never more
requests in the engine than it runs at a time and places to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.engine import Engine
from owl2_jax.inference.request import Event, Request
from owl2_jax.serving.errors import ApiError, overloaded, unavailable
from owl2_jax.serving.metrics import Metrics

_log = logging.getLogger(__name__)

Outcome = Event | ApiError
T = TypeVar("T")


class Ticket:
    """A place in the engine, and the answer that comes out of it. Of use in the loop alone."""

    def __init__(self, runner: EngineRunner):
        self._runner = runner
        self._events: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self._began = time.perf_counter()
        self._first: float | None = None
        self._submitted = False
        self.gone = False

    def submit(self, request: Request) -> None:
        """Sends a request into the engine."""
        self._submitted = True
        self._runner.command(lambda engine: self._runner.take(self, engine, request))

    async def next(self) -> Event | None:
        """The next piece of the answer; None when the client has gone.

        Raises:
          ApiError: the request was refused, or the engine failed.
        """
        outcome = await self._events.get()
        if isinstance(outcome, ApiError):
            raise outcome
        return outcome

    def abandon(self) -> None:
        """Gives the place back; an answer that still runs is stopped. May be called again."""
        if self.gone:
            return
        self.gone = True
        if self._submitted:
            self._runner.command(lambda engine: self._runner.cancel(self, engine))
        else:
            self._runner.release(self, 0.0)
        self._events.put_nowait(None)

    def deliver(self, outcome: Outcome) -> None:
        """Takes what the engine said."""
        now = time.perf_counter()
        if isinstance(outcome, ApiError) or outcome.result is not None:
            self.gone = True
            self._runner.release(self, now - self._began)
        if isinstance(outcome, Event):
            self._count(outcome, now)
        self._events.put_nowait(outcome)

    def _count(self, event: Event, now: float) -> None:
        metrics = self._runner.metrics
        if self._first is None and event.text:
            self._first = now
            metrics.first_token(now - self._began)
        if event.result is not None:
            metrics.answer(event.result, now - self._began, now - (self._first or now))


class EngineRunner:
    """Runs an engine in a thread.

    Attributes:
      metrics: of the server.
      sequences: that the engine runs at a time.
      draining: nothing new is accepted any more.
      programs: kinds of programs that were compiled; while one is, everyone waits.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        sequences: int,
        places: int,
        metrics: Metrics,
        compile_first: bool = False,
    ):
        """`places` is how many requests may wait; `compile_first` all programs, then be ready."""
        self.metrics = metrics
        self.sequences = sequences
        self._make_engine = make_engine
        self._most = sequences + places
        self._compile_first = compile_first
        self._held: set[Ticket] = set()
        self._seconds = 1.0  # of an answer, a running mean
        self._commands: queue.SimpleQueue[Callable[[Engine], None] | None] = queue.SimpleQueue()
        self._asked: set[asyncio.Future[Any]] = set()
        self._tickets: dict[int, Ticket] = {}  # by the engine's number; of the thread alone
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._ended = False
        self.programs = 0
        self._engine: Engine | None = None  # the one that runs; outside of the thread only looked at
        self._ready = False
        self.draining = False
        metrics.watch(self)

    # In the loop -------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread; called in the loop that tickets belong to."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def live(self) -> bool:
        """Whether the thread runs; once it does not, it never will again."""
        return self._thread.is_alive() and not self._ended

    @property
    def ready(self) -> bool:
        """Whether requests are answered without delay."""
        return self.live and self._ready and not self.draining

    @property
    def state(self) -> str:
        """In a word for people: starting, ready, compiling, stopping or failed.

        A program that a question is the first to need is compiled while everyone waits.
        """
        if not self.live:
            return "stopping" if self.draining else "failed"
        if self.draining:
            return "stopping"
        if not self._ready:
            return "starting"
        engine = self._engine
        compiling = engine is not None and len(engine.runner.used) > self.programs
        return "compiling" if compiling else "ready"

    @property
    def running(self) -> int:
        """Requests under way."""
        return min(len(self._held), self.sequences)

    @property
    def waiting(self) -> int:
        """Requests that the batch has no room for yet."""
        return len(self._held) - self.running

    @property
    def pages(self) -> int:
        """Of the engine's cache; 0 while there is no engine."""
        engine = self._engine
        return 0 if engine is None else engine.pool.count

    @property
    def free_pages(self) -> int:
        """Those that no request uses, what earlier ones left in them or not."""
        engine = self._engine
        return 0 if engine is None else engine.pool.num_free

    def reserve(self) -> Ticket:
        """Takes a place for a request.

        Raises:
          ApiError: 429 when there is none, 503 when the server stops or the engine is dead.
        """
        if not self.live:
            raise unavailable("the engine does not run", 30)
        if self.draining:
            raise unavailable("the server is stopping; ask another one", 5)
        if len(self._held) >= self._most:
            rounds = len(self._held) / self.sequences
            raise overloaded(
                f"{self.waiting} requests wait already; try again later",
                min(max(round(rounds * self._seconds), 1), 60),
            )
        ticket = Ticket(self)
        self._held.add(ticket)
        return ticket

    def release(self, ticket: Ticket, seconds: float) -> None:
        """Gives a place back, `seconds` after it was taken (0 when it was not used)."""
        if ticket in self._held:
            self._held.discard(ticket)
            if seconds:
                self._seconds += 0.1 * (seconds - self._seconds)

    def drain(self) -> None:
        """From now on nothing new is accepted; what runs goes on."""
        self.draining = True

    async def wait_idle(self, seconds: float) -> bool:
        """Waits until nothing runs any more; False when that took too long."""
        deadline = time.monotonic() + seconds
        while self._held and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return not self._held

    def stop(self) -> None:
        """Ends the thread; answers that still run get an error."""
        self.drain()
        self._commands.put(None)
        self._fail_held(unavailable("the server stopped before the answer was finished", 5))

    def wait_ended(self, seconds: float) -> bool:
        """Waits for the thread to end; False when it is still in the middle of something."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self.live

    def _fail_held(self, error: ApiError) -> None:
        for ticket in list(self._held):
            ticket.deliver(error)
        for asked in list(self._asked):
            _settle(asked, None, error)

    async def ask(self, work: Callable[[Engine], T]) -> T:
        """What a function of the engine returns; the thread runs it between two steps.

        Raises:
          ApiError: the engine does not run, or fails meanwhile.
          Owl2Error: from the function.
        """
        if not self.live or self.draining:
            raise unavailable("the engine does not run", 30)
        asked: asyncio.Future[T] = self._loop.create_future()
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)

        def command(engine: Engine) -> None:
            try:
                self._in_loop(_settle, asked, work(engine), None)
            except Owl2Error as error:
                self._in_loop(_settle, asked, None, error)
            except BaseException:
                self._in_loop(_settle, asked, None, _FAILED)
                raise

        self.command(command)
        return await asked

    def command(self, command: Callable[[Engine], None]) -> None:
        """Has something done by the thread."""
        self._commands.put(command)

    # In the thread -----------------------------------------------------------

    def take(self, ticket: Ticket, engine: Engine, request: Request) -> None:
        """Submits the request of a ticket."""
        try:
            self._tickets[engine.submit(request)] = ticket
        except Owl2Error as error:
            self._publish([(ticket, ApiError(str(error)))])
        except BaseException:
            self._publish([(ticket, _FAILED)])
            raise

    def cancel(self, ticket: Ticket, engine: Engine) -> None:
        """Stops the request of a ticket, if it has not ended."""
        for number, other in self._tickets.items():
            if other is ticket:
                engine.cancel(number)

    def _run(self) -> None:
        try:
            while self._serve():
                gc.collect()  # the engine that failed holds pages, and some of its parts each other
        except BaseException:
            _log.exception("the engine cannot be started")
        finally:  # whatever ended the thread: nobody waits for what it will never say
            self._ended = True
            self._in_loop(self._fail_held, unavailable("the engine cannot be started", 30))

    def _serve(self) -> bool:
        """Runs one engine until it fails (True) or is to end (False)."""
        engine = self._make_engine()
        if self._compile_first and not self._ready:
            engine.compile()
        self._engine, self.programs = engine, len(engine.runner.used)
        self._ready = True
        try:
            while self._obey(engine):
                self._step(engine)
        except BaseException:  # a library of another language may raise what is no Exception
            _log.exception("the engine failed; its answers are lost and it starts again")
            self._publish([(ticket, _FAILED) for ticket in self._tickets.values()])
            self._tickets.clear()
            self._engine = None  # the next one takes its memory
            self.metrics.engine_failed()
            return True
        return False

    def _obey(self, engine: Engine) -> bool:
        """Does what was asked for; waits when there is nothing else to do. False to end."""
        wait = engine.pending == 0
        while wait or not self._commands.empty():
            command = self._commands.get()
            if command is None:
                return False
            command(engine)
            wait = False
        return True

    def _step(self, engine: Engine) -> None:
        outcomes: list[tuple[Ticket, Outcome]] = []
        before = engine.passes
        for event in engine.step() if engine.pending else ():
            ticket = self._tickets[event.request_id]
            if event.result is not None:
                del self._tickets[event.request_id]
            outcomes.append((ticket, event))
        self.programs = len(engine.runner.used)
        self.metrics.passes(engine.passes - before)
        self._publish(outcomes)

    def _publish(self, outcomes: list[tuple[Ticket, Outcome]]) -> None:
        if outcomes:
            self._in_loop(_deliver, outcomes)

    def _in_loop(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *args)


def _deliver(outcomes: list[tuple[Ticket, Outcome]]) -> None:
    for ticket, outcome in outcomes:
        ticket.deliver(outcome)


def _settle(asked: asyncio.Future[Any], found: Any, error: Exception | None) -> None:
    if not asked.done():  # who asked may have gone
        asked.set_exception(error) if error is not None else asked.set_result(found)


_FAILED = ApiError("the engine failed while it answered; try again", 500, "engine_failed")
