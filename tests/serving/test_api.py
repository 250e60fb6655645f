"""The API through the official client and as plain HTTP, against a real server."""

from __future__ import annotations

import dataclasses

import httpx
import numpy as np
import openai
import pytest

from owl2_jax.inference.request import Request
from owl2_jax.testing import tiny
from tests.serving.questions import answer_alone, data_url, ragged, user
from tests.serving.running import serve


def ask(client, *messages, **settings):
    settings = {"model": "tiny", "temperature": 0, "max_tokens": 10} | settings
    return client.chat.completions.create(messages=list(messages) or [user("What?")], **settings)


def ask_stream(client):
    return [chunk.choices[0] for chunk in ask(client, stream=True)]


@pytest.fixture(scope="module")
def client(shared):
    return shared.client()


def test_answers_are_those_of_the_engine_alone(client, model):
    for call, request in ragged(0.0, 0.8):
        answer = client.chat.completions.create(model="tiny", **call)
        alone = answer_alone(model, request)
        assert answer.choices[0].message.content == alone.text
        assert answer.choices[0].finish_reason == alone.finish_reason
        assert answer.usage.prompt_tokens == alone.prompt_tokens
        assert answer.usage.completion_tokens == len(alone.token_ids)
        assert answer.usage.total_tokens == alone.prompt_tokens + len(alone.token_ids)


def test_streamed_answers_are_the_whole_ones(client):
    for call, _ in ragged(0.8)[:2]:
        whole = client.chat.completions.create(model="tiny", **call)
        stream = client.chat.completions.create(
            model="tiny", stream=True, stream_options={"include_usage": True}, **call
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
        assert chunks[-1].usage == whole.usage
        assert len({chunk.id for chunk in chunks}) == 1


def test_stream_comes_piece_by_piece(client):
    chunks = list(ask(client, max_tokens=40, stream=True))
    assert len(chunks) > 5
    assert all(chunk.usage is None for chunk in chunks)


def test_turns_and_images_in_any_of_them(client, model):
    messages = [user("Is it red?", 1), {"role": "assistant", "content": "no"}, user("And this?", 2)]
    request = Request(
        [
            {"role": "user", "content": "<|image|>Is it red?"},
            {"role": "assistant", "content": "no"},
            {"role": "user", "content": "<|image|>And this?"},
        ],
        [tiny.image_file(1), tiny.image_file(2)],
        max_new_tokens=10,
    )
    assert ask(client, *messages).choices[0].message.content == answer_alone(model, request).text


def test_logprobs_are_the_engines(client, model):
    request = Request([{"role": "user", "content": "What?"}], max_new_tokens=10, top_logprobs=3)
    alone = answer_alone(model, request)
    answer = ask(client, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    expected = [value for token, value in zip(alone.token_ids, alone.logprobs, strict=True) if token != 2]
    np.testing.assert_allclose([token.logprob for token in tokens], expected, atol=1e-4)
    assert b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace").lstrip() == (
        answer.choices[0].message.content.lstrip()
    )
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    assert tokens[0].top_logprobs[0].bytes == tokens[0].bytes
    plain = ask(client, logprobs=True).choices[0].logprobs.content
    assert [token.logprob for token in plain] == [token.logprob for token in tokens]
    assert plain[0].top_logprobs == []


def test_streamed_logprobs_are_all_there(client):
    whole = ask(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    chunks = [one.choices[0] for one in ask(client, logprobs=True, top_logprobs=1, stream=True)]
    told = [chunk for chunk in chunks if chunk.logprobs]
    assert [token for chunk in told for token in chunk.logprobs.content] == whole
    # They come with the text that they are of, piece by piece.
    assert len(told) > 2
    assert all(chunk.delta.content for chunk in told[:-1])
    assert all(chunk.logprobs is None for chunk in ask_stream(client))


def test_stop_text_ends_the_answer(client, model):
    request = Request([{"role": "user", "content": "What is this?"}], max_new_tokens=40)
    whole = answer_alone(model, request).text
    stop = whole[len(whole) // 2 :][:2]
    answer = ask(client, user("What is this?"), max_tokens=40, stop=stop).choices[0]
    assert answer.finish_reason == "stop"
    assert answer.message.content == whole[: whole.index(stop)]


def test_seed_repeats_an_answer_and_none_gives_another(client):
    def sampled(**settings):
        return ask(client, temperature=1.5, max_tokens=20, **settings).choices[0].message.content

    assert sampled(seed=5) == sampled(seed=5) != sampled(seed=6)
    assert len({sampled() for _ in range(3)}) > 1


def test_lengths(client):
    answer = ask(client, max_tokens=7, extra_body={"min_tokens": 7})
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].finish_reason == "length"
    room = ask(client, max_tokens=None, extra_body={"min_tokens": 1000})
    assert room.usage.total_tokens == 128


def test_more_tokens_than_there_is_room_for_are_as_many_as_there_is(client):
    """As OpenAI's API does today: the answer ends with the context, and says so."""
    for most in (120, 200, 10**12):
        answer = ask(client, max_tokens=most, extra_body={"min_tokens": 120})
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.total_tokens == 128
    assert ask(client, max_tokens=None, max_completion_tokens=5000).usage.total_tokens <= 128


def test_conversations_in_any_order_of_roles_are_answered_as_the_turns_they_are_read_as(client, model):
    def alone(*turns):
        messages = [{"role": role, "content": content} for role, content in turns]
        return answer_alone(model, Request(messages, max_new_tokens=10)).text

    def said(role, content):
        return {"role": role, "content": content}

    for messages, turns in (
        ([said("user", "Is it"), said("user", "red?")], [("user", "Is it\nred?")]),
        (
            [said("assistant", "Ask me."), user("What?")],
            [("assistant", "Ask me."), ("user", "What?")],
        ),
        (
            [user("What?"), said("assistant", "red"), said("system", "Be brief."), user("Why?")],
            [("user", "What?"), ("assistant", "red"), ("user", "Be brief.\nWhy?")],
        ),
        ([user("What?"), said("assistant", None), user("Why?")], [("user", "What?\nWhy?")]),
        ([user("What?"), {"role": "assistant"}], [("user", "What?")]),
    ):
        assert ask(client, *messages).choices[0].message.content == alone(*turns)


def test_images_as_ollama_sends_them_are_seen(client):
    url = data_url(1)
    plain = {"role": "user", "content": "Is it red?", "images": [url.partition(",")[2]]}
    seen, sent = ask(client, plain), ask(client, user("Is it red?", 1))
    assert seen.choices[0].message.content == sent.choices[0].message.content
    assert seen.usage.prompt_tokens == sent.usage.prompt_tokens


def test_an_answer_with_an_image_tag_may_stay_in_the_conversation(client):
    """A tag that the assistant wrote is text, and images stay those of the user's."""
    messages = [user("Is it red?", 1), {"role": "assistant", "content": "<|image|> <image>"}, user("Why?")]
    spelt = [user("Is it red?", 1), {"role": "assistant", "content": "no"}, user("Why?")]
    longer = ask(client, *messages).usage.prompt_tokens - ask(client, *spelt).usage.prompt_tokens
    assert 2 < longer < 40


def test_numbers_of_tokens_come_with_every_piece_if_asked_for(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(ask(client, max_tokens=40, stream=True, stream_options=options))
    counted = [chunk.usage for chunk in chunks[1:]]
    assert all(usage.prompt_tokens == counted[-1].prompt_tokens for usage in counted)
    numbers = [usage.completion_tokens for usage in counted]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 5
    assert counted[-2] == counted[-1] == ask(client, max_tokens=40).usage


def test_fields_without_effect_change_nothing(client):
    """What the official client can send, through the client itself."""
    plain = ask(client)
    answer = ask(
        client, reasoning_effort="high", verbosity="low", prediction=None, audio=None, store=False,
        user="ann", prompt_cache_retention="24h", prompt_cache_key="k", safety_identifier="s",
        service_tier="auto", metadata={"a": "b"}, parallel_tool_calls=False, modalities=["text"], tools=[],
        tool_choice="none", functions=[], extra_body={"web_search_options": None},
    )  # fmt: skip
    assert answer.choices == plain.choices
    assert answer.usage == plain.usage
    with pytest.raises(openai.BadRequestError, match="did you mean 'temperature'") as caught:
        ask(client, extra_body={"temprature": 1})
    assert (caught.value.param, caught.value.code) == ("temprature", "unknown_parameter")


def test_models(client, shared):
    assert [found.id for found in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    (found,) = httpx.get(f"{shared.url}/v1/models").json()["data"]
    assert (found["max_images"], found["max_pixels"], found["max_body_bytes"]) == (4, 1_000_000, 2**20)
    assert {"JPEG", "PNG", "WEBP"} <= set(found["image_formats"])
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_health_and_metrics(shared, client):
    for path in ("/healthz", "/healthz/live", "/healthz/ready"):
        response = httpx.get(shared.url + path)
        assert (response.status_code, response.json()) == (
            200, {"live": True, "ready": True, "state": "ready"}
        )  # fmt: skip
    ask(client, user("What?", 1))
    response = httpx.get(shared.url + "/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    values = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    assert float(values['owl2_requests_total{path="/v1/chat/completions",status="200"}']) >= 1
    assert float(values["owl2_generated_tokens_total"]) > 0
    assert float(values["owl2_images_total"]) > 0
    assert float(values["owl2_time_to_first_token_seconds_count"]) > 0
    assert float(values["owl2_ready"]) == 1
    assert float(values["owl2_sequences"]) == 4
    assert 0 < float(values["owl2_cache_pages_free"]) <= float(values["owl2_cache_pages"])


def test_where_it_looked(shared):
    messages = [user("Which is red?", 1, 2)]
    call = {"model": "tiny", "messages": messages, "answer": "the second"}
    found = httpx.post(f"{shared.url}/v1/attention", json=call, timeout=120).json()
    assert found["image_mode"] == "resize"
    assert len(found["images"]) == 2
    for look in found["images"]:
        assert np.shape(look["weights"]) == (2, 2)
        assert np.sum(look["weights"]) == pytest.approx(1)
        assert 0 < look["share"] < 1
    for wrong in ({"answer": ""}, {"messages": [user("What?")]}, {"model": "other"}, {"answr": "x"}):
        response = httpx.post(f"{shared.url}/v1/attention", json=call | wrong, timeout=120)
        assert response.status_code in (400, 404)
        assert response.json()["error"]["message"]


def test_page_and_its_files_are_served_with_a_strict_policy(shared):
    page = httpx.get(shared.url + "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("chat.js", "style.css", "icon.svg"):
        assert f"page/{name}" in page.text
        assert httpx.get(f"{shared.url}/page/{name}").status_code == 200
    assert "http:" not in page.text
    assert "https:" not in page.text
    for path in ("/page/../api.py", "/page/%2e%2e/api.py", "/page/..%2fapi.py"):
        assert httpx.get(shared.url + path).status_code == 404


def test_key_is_demanded_where_there_is_one(model):
    with serve(model, api_key="secret") as running:
        assert ask(running.client(api_key="secret")).choices
        for key in ("wrong", "secret2", "sécret"):
            headers = {"Authorization": f"Bearer {key}".encode()}
            response = running.post({"messages": [user("What?")]}, headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert response.headers["www-authenticate"] == "Bearer"
        assert httpx.get(running.url + "/v1/models").status_code == 401
        with pytest.raises(openai.AuthenticationError):
            running.client(api_key="no").models.list()
        for path in ("/", "/healthz", "/metrics"):
            assert httpx.get(running.url + path).status_code == 200


def test_served_name_may_be_chosen(model):
    with serve(dataclasses.replace(model, name="/some/directory"), model_name="owl/tiny:1") as running:
        assert [found.id for found in running.client().models.list()] == ["owl/tiny:1"]
        assert running.client().models.retrieve("owl/tiny:1").id == "owl/tiny:1"
        assert ask(running.client(), model="owl/tiny:1").model == "owl/tiny:1"
