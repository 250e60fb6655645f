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

    def abandon(self):
        pass

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
        return [piece async for piece, _ in AnswerStream(Choices(*events), WRITER)._pieces()]

    return asyncio.run(read())


def sent(*events):
    """The bodies that go to the client, each with whether more come."""

    async def answer():
        bodies = []

        async def send(message):
            if message["type"] == "http.response.body":
                bodies.append((message["body"], message.get("more_body", False)))

        await AnswerStream(Choices(*events), WRITER)({}, asyncio.Event().wait, send)
        return bodies

    return asyncio.run(answer())


def test_a_short_answer_its_end_and_the_marks_behind_it_are_one_piece():
    events = (0, Event(1, "a", Result("a"))), (1, Event(2, "b")), (1, Event(2, "c", Result("bc")))
    assert pieces(*events) == [b"[begin][0 a][end 0]", b"[1 b]", b"[1 c][end 1][usage][done]"]


def test_an_event_of_neither_text_nor_end_sends_nothing():
    assert pieces((0, Event(1, "")), None) == []


def test_the_last_piece_ends_the_body_and_one_that_is_left_is_ended():
    ends = (0, Event(1, "a", Result("a"))), (1, Event(2, "b", Result("b")))
    assert sent(*ends) == [(b"[begin][0 a][end 0]", True), (b"[1 b][end 1][usage][done]", False)]
    (first, more), last = sent((0, Event(1, "a")), None)
    assert (first, more, last) == (b"[begin][0 a]", True, (b"", False))
    (_, more), (told, last) = sent((0, Event(1, "a")), ApiError("the engine failed", 500))
    assert (more, last, b"the engine failed" in told) == (True, False, True)


def test_an_answer_that_could_not_go_on_is_told_behind_its_last_text():
    first, second = pieces((0, Event(1, "a")), (1, Event(2, "b", Result("b", error="no form"))))
    assert first == b"[begin][0 a]"
    assert second.startswith(b'[1 b]data: {"error": {"message": "the answer could not go on: no form"')


def test_what_was_sent_is_not_sent_again_when_the_engine_fails():
    *sent, last = pieces((0, Event(1, "a")), ApiError("the engine failed", 500))
    assert sent == [b"[begin][0 a]"]
    assert last.startswith(b'data: {"error": {"message": "the engine failed"')
