"""Several answers to one question, and the settings that shape them, through the official client."""

from __future__ import annotations

import dataclasses

import openai
import pytest

from owl2_jax.inference.request import Request
from owl2_jax.sampling.params import Sampling
from owl2_jax.testing import tiny
from tests.serving.questions import answer_alone, user

QUESTION = [{"role": "user", "content": "What?"}]


@pytest.fixture(scope="module")
def client(shared):
    return shared.client()


def ask(client, *messages, **settings):
    settings = {"model": "tiny", "temperature": 0, "max_tokens": 10} | settings
    return client.chat.completions.create(messages=list(messages) or QUESTION, **settings)


def texts(answer) -> list[str]:
    return [choice.message.content for choice in answer.choices]


def test_each_choice_is_the_answer_its_own_stream_gives_alone(client, model, shared):
    request = Request(
        [{"role": "user", "content": "<|image|>What?"}],
        [tiny.image_file(1)],
        Sampling(temperature=1.5, seed=7),
        max_new_tokens=12,
    )
    alone = [answer_alone(model, one) for one in request.choices(4)]
    answer = ask(client, user("What?", 1), n=4, temperature=1.5, seed=7, max_tokens=12)
    assert texts(answer) == [one.text for one in alone]
    assert len(set(texts(answer))) > 1
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == alone[0].prompt_tokens
    assert answer.usage.completion_tokens == sum(len(one.token_ids) for one in alone)
    assert texts(ask(client, user("What?", 1), temperature=1.5, seed=7, max_tokens=12)) == [alone[0].text]
    shared.wait(shared.idle)


def test_streamed_choices_are_the_whole_ones(client):
    settings = {"n": 3, "temperature": 1.5, "seed": 3, "max_tokens": 12, "logprobs": True, "top_logprobs": 1}
    whole = ask(client, **settings)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **settings))
    for choice in whole.choices:
        own = [one.choices[0] for one in chunks[:-1] if one.choices[0].index == choice.index]
        assert own[0].delta.role == "assistant"
        assert "".join(one.delta.content or "" for one in own) == choice.message.content
        assert [one.finish_reason for one in own if one.finish_reason] == [choice.finish_reason]
        told = [token for one in own if one.logprobs for token in one.logprobs.content]
        assert told == choice.logprobs.content
    assert chunks[-1].usage == whole.usage


def test_more_choices_than_there_are_places_are_refused(client, shared):
    with pytest.raises(openai.BadRequestError, match="n is 9; expected a whole number from 1 to 8") as caught:
        ask(client, n=9)
    assert caught.value.param == "n"
    for count, each, param in ((5, 3, "n"), (15, 1, "prompt")):
        with pytest.raises(
            openai.BadRequestError, match="15 answers are asked for at once; this server takes at most 12"
        ) as caught:
            client.completions.create(model="tiny", prompt=["a"] * count, n=each)
        assert caught.value.param == param
    shared.wait(shared.idle)


def test_penalties_bias_and_ends_are_those_of_the_engine(client, model):
    for settings, request in (
        ({"presence_penalty": 2}, {"presence_penalty": 2.0}),
        ({"frequency_penalty": 2}, {"frequency_penalty": 2.0}),
        ({"extra_body": {"repetition_penalty": 1.8}}, {"repetition_penalty": 1.8}),
        ({"logit_bias": {"40": 3}}, {"logit_bias": {"40": 3.0}}),
    ):
        alone = answer_alone(model, Request(QUESTION, sampling=Sampling(**request), max_new_tokens=30))
        assert texts(ask(client, max_tokens=30, **settings)) == [alone.text]
    plain = answer_alone(model, Request(QUESTION, max_new_tokens=30))
    assert texts(ask(client, max_tokens=30, presence_penalty=2)) != [plain.text]


def test_presence_penalty_keeps_words_from_coming_again(model):
    plain = answer_alone(model, Request(QUESTION, max_new_tokens=60, min_new_tokens=60))
    varied = dataclasses.replace(
        Request(QUESTION, max_new_tokens=60, min_new_tokens=60),
        sampling=Sampling(presence_penalty=2.0, frequency_penalty=2.0),
    )
    assert len(set(answer_alone(model, varied).token_ids)) > len(set(plain.token_ids))


def test_a_bias_of_a_hundred_is_a_command(client, model):
    token = model.tokenizer.encode("red")[0]
    answer = ask(client, logit_bias={str(token): 100}, max_tokens=3, logprobs=True)
    assert [one.token for one in answer.choices[0].logprobs.content] == [
        " red"[: len(one.token)] for one in answer.choices[0].logprobs.content
    ]
    assert answer.usage.completion_tokens == 3


def test_stop_tokens_end_the_answer_and_are_not_part_of_it(client, model):
    alone = answer_alone(model, Request(QUESTION, max_new_tokens=30))
    stop = alone.token_ids[5]
    first = alone.token_ids.index(stop)
    answer = ask(client, max_tokens=30, logprobs=True, extra_body={"stop_token_ids": [stop]})
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert answer.usage.completion_tokens == first + 1
    assert len(choice.logprobs.content) == first
    assert choice.message.content == model.tokenizer.decode(alone.token_ids[:first])


def test_the_end_may_be_ignored(client, model):
    bias = {str(model.tokenizer.eos_id): 100}
    assert ask(client, max_tokens=5, logit_bias=bias).choices[0].finish_reason == "stop"
    answer = ask(client, max_tokens=5, logit_bias=bias, extra_body={"ignore_eos": True})
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 5)
    assert answer.choices[0].message.content == ""


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"logit_bias": {"300": 1}}, "logit_bias"),
        ({"extra_body": {"stop_token_ids": [300]}}, "stop_token_ids"),
    ],
)
def test_ids_that_the_tokenizer_does_not_have_are_refused(client, settings, param):
    with pytest.raises(
        openai.BadRequestError, match="token 300; the tokenizer has the ids 0 to 299"
    ) as caught:
        ask(client, **settings)
    assert caught.value.param == param
