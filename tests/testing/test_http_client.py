"""The client of load tests reads whole answers and streams, and hangs up when it is told to."""

from __future__ import annotations

import asyncio
import json

import pytest

from owl2_jax.testing.http_client import Client, Reply
from tests.testing.answering import answering


def ask(url, *calls):
    async def all_of_them():
        client = Client(url)
        replies = [await client.ask(json.dumps(call).encode()) for call in calls]
        client.close()
        return replies

    return asyncio.run(all_of_them())


def test_a_stream_and_a_whole_answer_say_the_same_over_one_connection():
    with answering(lambda *_: "a long text") as url:
        whole, stream, refused = ask(url, {"n": 2}, {"n": 2, "stream": True}, {"temperature": 7})
    assert whole.content[:3] == stream.content[:3]
    assert (whole.usage, stream.usage) == ({"completion_tokens": 3}, {})
    assert [choice["text"] for choice in stream.choices.values()] == ["a long text0", "a long text1"]
    assert whole.tokens == 3
    assert 0 < stream.seconds < 60
    assert (refused.status, refused.error) == (400, "too hot")


def test_log_probabilities_of_pieces_become_one_list_in_both_interfaces():
    reply = Reply(200)
    for token in ("a", "b"):
        top = {"token": "z", "logprob": -0.5}
        told = {"content": [{"token": token, "logprob": -1.0, "top_logprobs": [top]}]}
        chat = {"index": 0, "delta": {"content": token}, "logprobs": told}
        lists = {"tokens": [token], "token_logprobs": [-1.0], "top_logprobs": [{"z": -0.5}]}
        text = {"index": 1, "text": token, "logprobs": lists}
        reply.take({"choices": [chat, text]}, 0.5)
    assert reply.choices[0] == reply.choices[1]
    assert reply.choices[0]["logprobs"] == [["a", -1.0], ["b", -1.0]]
    assert reply.choices[0]["tops"] == [[["z", -0.5]], [["z", -0.5]]]


def test_numbers_of_tokens_are_part_of_what_must_be_the_same():
    replies = [Reply(200), Reply(200)]
    for count, reply in enumerate(replies):
        reply.take({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": count}}, 0.5)
    assert [reply.tokens for reply in replies] == [0, 1]
    assert replies[0].content != replies[1].content


def test_a_connection_that_breaks_is_told():
    async def at_nobody():
        await Client("http://127.0.0.1:9").ask(b"{}")

    with pytest.raises(OSError):
        asyncio.run(at_nobody())


@pytest.mark.parametrize("events", [-1, 0, 1])
def test_hanging_up_leaves_a_client_that_can_ask_again(events):
    body = json.dumps({"stream": True}).encode()

    async def twice(url):
        client = Client(url)
        await client.hang_up(body, "/v1/chat/completions", events)
        reply = await client.ask(body)
        client.close()
        return reply

    with answering() as url:
        assert asyncio.run(twice(url)).status == 200
