"""A stream sends at once what it knows at once, and nothing twice."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from owl2_jax.inference.request import Event, Result
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.replies import AnswerStream


class Choices:
    """Two answers whose events are given; an error among them is raised."""

    def __init__(self, *events):
        self._events = list(events)

    def __len__(self):
        return 2

    async def next(self):
        event = self._events.pop(0)
        if isinstance(event, ApiError):
            raise event
        return event


WRITER = SimpleNamespace(
    begin=lambda: [b"[begin]"],
    piece=lambda index, event: f"[{index} {event.text}]".encode(),
    end=lambda index, result: f"[end {index}]".encode(),
    close=lambda: iter([b"[usage]", b"[done]"]),
)


def pieces(*events):
    async def read():
        return [piece async for piece in AnswerStream(Choices(*events), WRITER)._pieces()]

    return asyncio.run(read())


def test_a_short_answer_its_end_and_the_marks_behind_it_are_one_piece():
    events = (0, Event(1, "a", Result("a"))), (1, Event(2, "b")), (1, Event(2, "c", Result("bc")))
    assert pieces(*events) == [b"[begin]", b"[0 a][end 0]", b"[1 b]", b"[1 c][end 1][usage][done]"]


def test_an_event_of_neither_text_nor_end_sends_nothing():
    assert pieces((0, Event(1, "")), None) == [b"[begin]"]


def test_an_answer_that_could_not_go_on_is_told_behind_its_last_text():
    first, second, third = pieces((0, Event(1, "a")), (1, Event(2, "b", Result("b", error="no form"))))
    assert (first, second) == (b"[begin]", b"[0 a]")
    assert third.startswith(b'[1 b]data: {"error": {"message": "the answer could not go on: no form"')


def test_what_was_sent_is_not_sent_again_when_the_engine_fails():
    *sent, last = pieces((0, Event(1, "a")), ApiError("the engine failed", 500))
    assert sent == [b"[begin]", b"[0 a]"]
    assert last.startswith(b'data: {"error": {"message": "the engine failed"')
