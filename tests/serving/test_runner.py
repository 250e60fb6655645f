"""The engine's thread: places, order, cancelling, failures and the end; with an engine of a few lines."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.kv_cache import PagePool
from owl2_jax.inference.request import Event, Request, Result
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.metrics import Metrics
from owl2_jax.serving.runner import EngineRunner


class FakeEngine:
    """Gives every request that runs a letter per step; stands still until it is let go."""

    def __init__(self, sequences: int = 2, length: int = 3):
        self.pool = PagePool(4, 16)
        self.sequences, self.length = sequences, length
        self.go = threading.Event()
        self.jobs: dict[int, str] = {}
        self.cancelled: set[int] = set()
        self.threads: set[int] = set()
        self.runner = SimpleNamespace(used={"step"})
        self.passes = 0
        self._next = 0

    def submit(self, request: Request) -> int:
        if request.prompt == "bad":
            raise Owl2Error("a bad prompt")
        if request.prompt == "worse":
            raise MemoryError
        self._next += 1
        self.jobs[self._next] = ""
        return self._next

    def cancel(self, number: int) -> None:
        self.cancelled.add(number)

    @property
    def pending(self) -> int:
        return len(self.jobs)

    def step(self) -> list[Event]:
        self.threads.add(threading.get_ident())
        self.go.wait(10)
        self.passes += 1
        events = []
        for number in list(self.jobs)[: self.sequences]:
            self.jobs[number] += "x"
            text = self.jobs[number]
            ended = len(text) >= self.length or number in self.cancelled
            if ended:
                del self.jobs[number]
            reason = "cancelled" if number in self.cancelled else "length"
            events.append(Event(number, "x", Result(text, finish_reason=reason) if ended else None))
        return events


class BrokenEngine(FakeEngine):
    def step(self) -> list[Event]:
        raise RuntimeError("out of memory")


class Panic(BaseException):
    """What a library in Rust raises: no Exception."""


class PanickedEngine(FakeEngine):
    def step(self) -> list[Event]:
        raise Panic("index out of bounds")


@contextlib.asynccontextmanager
async def running(*engines: FakeEngine, places: int = 2) -> AsyncIterator[EngineRunner]:
    """A runner that takes one engine after the other."""
    left = iter(engines)
    runner = EngineRunner(lambda: next(left), sequences=2, places=places, metrics=Metrics())
    runner.start()
    while runner.live and not runner.ready:
        await asyncio.sleep(0.001)
    try:
        yield runner
    finally:
        for engine in engines:
            engine.go.set()
        runner.stop()
        await asyncio.to_thread(runner._thread.join, 10)
        assert not runner.live


async def text_of(ticket) -> str:
    text = ""
    while (event := await ticket.next()) is not None:
        text += event.text
        if event.result is not None:
            assert event.result.text == text
            return text
    return "gone"


def submit(runner: EngineRunner, prompt: str = "good"):
    ticket = runner.reserve()
    ticket.submit(Request(prompt))
    return ticket


def metric(runner: EngineRunner, name: str) -> float:
    return next(
        float(line.split()[-1])
        for line in runner.metrics.text().decode().splitlines()
        if line.startswith(name)
    )


def run(test) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def test_answers_come_from_one_thread_that_is_not_the_loops():
    async def test():
        engine = FakeEngine()
        engine.go.set()
        async with running(engine, places=9) as runner:
            tickets = [submit(runner) for _ in range(9)]
            assert [await text_of(ticket) for ticket in tickets] == ["xxx"] * 9
            assert runner.running == runner.waiting == 0
            assert metric(runner, "owl2_passes_total") == engine.passes == 15
        assert len(engine.threads) == 1
        assert threading.get_ident() not in engine.threads

    run(test)


def test_full_queue_is_429_with_a_time_to_come_back():
    async def test():
        engine = FakeEngine()
        async with running(engine, places=2) as runner:
            tickets = [submit(runner) for _ in range(4)]
            assert (runner.running, runner.waiting) == (2, 2)
            assert metric(runner, "owl2_waiting") == 2
            assert metric(runner, "owl2_cache_pages") == metric(runner, "owl2_cache_pages_free") == 4
            with pytest.raises(ApiError) as caught:
                runner.reserve()
            assert caught.value.status == 429
            assert 1 <= int(caught.value.headers["Retry-After"]) <= 60
            engine.go.set()
            for ticket in tickets:
                await text_of(ticket)
            runner.reserve().abandon()  # there is room again

    run(test)


def test_refused_request_gets_the_engines_words_and_gives_its_place_back():
    async def test():
        async with running(FakeEngine()) as runner:
            with pytest.raises(ApiError, match="a bad prompt") as caught:
                await submit(runner, "bad").next()
            assert caught.value.status == 400
            assert runner.running == 0

    run(test)


def test_abandoned_answer_is_cancelled_and_its_place_is_free_when_the_engine_says_so():
    async def test():
        engine = FakeEngine(length=100)
        async with running(engine) as runner:
            ticket = submit(runner)
            ticket.abandon()
            ticket.abandon()
            assert await ticket.next() is None
            assert runner.running == 1
            engine.go.set()
            while runner.running:
                await asyncio.sleep(0.001)
            assert engine.cancelled == {1}

    run(test)


def test_place_that_was_never_used_is_given_back():
    async def test():
        async with running(FakeEngine()) as runner:
            runner.reserve().abandon()
            assert runner.running == 0

    run(test)


@pytest.mark.parametrize("broken", [BrokenEngine, PanickedEngine])
@pytest.mark.parametrize("prompt", ["good", "worse"])
def test_failed_engine_starts_again_and_its_answers_get_an_error(broken, prompt):
    async def test():
        engine = FakeEngine()
        engine.go.set()
        async with running(broken(), engine) as runner:
            with pytest.raises(ApiError, match="engine failed") as caught:
                await submit(runner, prompt).next()
            assert caught.value.status == 500
            assert await text_of(submit(runner)) == "xxx"
            assert runner.ready
            assert metric(runner, "owl2_engine_failures_total") == 1

    run(test)


def test_engine_that_cannot_start_again_leaves_nobody_waiting():
    async def test():
        async with running(BrokenEngine()) as runner:
            with pytest.raises(ApiError):
                await submit(runner).next()
            while runner.live:
                await asyncio.sleep(0.001)
            with pytest.raises(ApiError) as caught:
                runner.reserve()
            assert caught.value.status == 503

    run(test)


def test_the_thread_does_what_it_is_asked_between_two_steps():
    def wrong(engine: FakeEngine) -> None:
        raise Owl2Error("a bad question")

    def worse(engine: FakeEngine) -> None:
        raise Panic("index out of bounds")

    async def test():
        first, engine = FakeEngine(), FakeEngine()
        for one in (first, engine):
            one.go.set()
        async with running(first, engine) as runner:
            found = await runner.ask(lambda engine: (engine, threading.get_ident()))
            assert found == (first, runner._thread.ident)
            with pytest.raises(Owl2Error, match="a bad question"):
                await runner.ask(wrong)
            with pytest.raises(ApiError, match="engine failed"):
                await runner.ask(worse)
            assert await text_of(submit(runner)) == "xxx"  # of the next engine
            assert await runner.ask(lambda engine: engine) is engine
            runner.drain()
            with pytest.raises(ApiError, match="does not run"):
                await runner.ask(wrong)

    run(test)


def test_whatever_ends_the_thread_nobody_waits_for_it():
    go = threading.Event()

    def panic() -> FakeEngine:
        go.wait(10)
        raise Panic("index out of bounds")

    async def test():
        runner = EngineRunner(panic, 2, 2, Metrics())
        runner.start()
        ticket = submit(runner)
        go.set()
        with pytest.raises(ApiError, match="cannot be started"):
            await ticket.next()
        assert await asyncio.to_thread(runner.wait_ended, 10)
        assert runner.state == "failed"

    run(test)


def test_draining_finishes_what_runs_and_refuses_what_is_new():
    async def test():
        engine = FakeEngine()
        async with running(engine) as runner:
            ticket = submit(runner)
            runner.drain()
            assert not runner.ready
            with pytest.raises(ApiError) as caught:
                runner.reserve()
            assert caught.value.status == 503
            assert not await runner.wait_idle(0.05)
            engine.go.set()
            assert await runner.wait_idle(5)
            assert await text_of(ticket) == "xxx"

    run(test)


def test_stopping_tells_everyone_who_still_waits():
    async def test():
        engine = FakeEngine()
        async with running(engine) as runner:
            used, unused = submit(runner), runner.reserve()
            runner.stop()
            for ticket in (used, unused):
                with pytest.raises(ApiError) as caught:
                    await ticket.next()
                assert caught.value.status == 503
            unused.abandon()

    run(test)


def test_state_says_in_a_word_what_is_waited_for():
    compiling = threading.Event()

    class Compiling(FakeEngine):
        def compile(self) -> None:
            self.go.wait(10)

        def step(self) -> list[Event]:
            self.runner.used.add("another")
            compiling.set()
            return super().step()

    async def test():
        engine = Compiling()
        runner = EngineRunner(lambda: engine, 2, 2, Metrics(), compile_first=True)
        assert runner.state == "failed"  # without its thread it is of no use
        runner.start()
        assert runner.state == "starting"
        engine.go.set()
        while not runner.ready:
            await asyncio.sleep(0.001)
        assert runner.state == "ready"
        engine.go.clear()
        ticket = submit(runner)
        await asyncio.to_thread(compiling.wait, 10)
        assert runner.state == "compiling"
        engine.go.set()
        assert await text_of(ticket) == "xxx"
        assert runner.state == "ready"
        runner.stop()
        assert runner.state == "stopping"
        await asyncio.to_thread(runner._thread.join, 10)
        assert runner.state == "stopping"

    run(test)
