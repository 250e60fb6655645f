"""Many clients at the same time: every answer is the one its question gets alone."""

from __future__ import annotations

import asyncio

import httpx

from owl2_jax.inference.engine import EngineConfig
from tests.serving.questions import answer_alone, ragged
from tests.serving.running import serve

CLIENTS = 64
QUESTIONS = 3  # of each client


async def ask(client: httpx.AsyncClient, calls: list[dict], number: int) -> list:
    """Asks one question after the other, and returns (question, status, text)."""
    found = []
    for index in ((number + step) % len(calls) for step in range(QUESTIONS)):
        response = await client.post("/v1/chat/completions", json=calls[index])
        body = response.json()
        text = body["choices"][0]["message"]["content"] if response.status_code == 200 else body
        found.append((index, response.status_code, text))
    return found


async def load(url: str, calls: list[dict]) -> list:
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        results = await asyncio.gather(*(ask(client, calls, number) for number in range(CLIENTS)))
    return [one for result in results for one in result]


def test_answers_under_load_are_those_alone(model):
    pairs = ragged(0.0)
    calls = [call for call, _ in pairs]
    alone = [answer_alone(model, request).text for _, request in pairs]
    with serve(model, EngineConfig(sequences=8), queue=CLIENTS) as running:
        found = asyncio.run(load(running.url, calls))
        running.wait(running.idle)
    assert len(found) == CLIENTS * QUESTIONS
    wrong = [one for one in found if one[1:] != (200, alone[one[0]])]
    assert wrong == []


def test_no_request_is_lost_when_the_queue_is_full(model):
    """Some are told to come back; the others are answered, and correctly."""
    pairs = ragged(0.0)[:2]
    alone = [answer_alone(model, request).text for _, request in pairs]
    with serve(model, EngineConfig(sequences=2), queue=4) as running:
        found = asyncio.run(load(running.url, [call for call, _ in pairs]))
    answered = [(index, text) for index, status, text in found if status == 200]
    assert {status for _, status, _ in found} == {200, 429}
    assert answered
    assert all(text == alone[index] for index, text in answered)
