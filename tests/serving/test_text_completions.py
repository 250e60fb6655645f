"""Completions of texts through the official client, against the engine by itself."""

from __future__ import annotations

import numpy as np
import openai
import pytest

from owl2_jax.inference.request import Request
from owl2_jax.sampling.params import Sampling
from tests.serving.questions import answer_alone
from tests.serving.running import serve

PROMPT = "USER: What shape is"


@pytest.fixture(scope="module")
def client(shared):
    return shared.client()


def complete(client, prompt=PROMPT, **settings):
    settings = {"model": "tiny", "temperature": 0, "max_tokens": 10} | settings
    return client.completions.create(prompt=prompt, **settings)


def alone(model, prompt, **settings):
    ids = np.array(model.tokenizer.encode(prompt, bos=True, control_tokens=False), np.int32)
    return answer_alone(model, Request(ids, continues=True, **{"max_new_tokens": 10} | settings))


def test_a_text_goes_on_as_the_engine_says(client, model):
    answer, expected = complete(client), alone(model, PROMPT)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.index) == (expected.text, expected.finish_reason, 0)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert choice.logprobs is None
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == len(expected.token_ids)


def test_sixteen_tokens_unless_it_is_said(client):
    answer = client.completions.create(
        model="tiny", prompt=PROMPT, temperature=0, extra_body={"min_tokens": 16}
    )
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (16, "length")


def test_prompt_and_text_read_on(client, model):
    """The text with its prompt in front is what the tokens of both say."""
    tokenizer = model.tokenizer
    expected = alone(model, PROMPT)
    ids = tokenizer.encode(PROMPT) + [token for token in expected.token_ids if token != tokenizer.eos_id]
    assert complete(client, echo=True).choices[0].text == tokenizer.decode(ids)


def test_prompts_may_be_ids_and_many(client, model):
    ids = model.tokenizer.encode(PROMPT, bos=True)
    other = "Is there a blue"
    expected = [alone(model, PROMPT).text, alone(model, other).text]
    assert complete(client, ids).choices[0].text == expected[0]
    assert complete(client, ids, echo=True).choices[0].text == PROMPT + expected[0]
    for prompts in ([PROMPT, other], [ids, model.tokenizer.encode(other, bos=True)]):
        answer = complete(client, prompts)
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.usage.prompt_tokens == len(ids) + len(model.tokenizer.encode(other, bos=True))


def test_answers_to_each_prompt_stand_side_by_side(client, model):
    settings = {"temperature": 1.5, "seed": 4, "max_tokens": 8}
    answer = complete(client, [PROMPT, "Is it"], n=2, **settings)
    for number, prompt in enumerate([PROMPT, "Is it"]):
        sampling = Sampling(temperature=1.5, seed=4)
        expected = [
            alone(model, prompt, sampling=sampling.of_choice(choice), max_new_tokens=8).text
            for choice in (0, 1)
        ]
        assert [choice.text for choice in answer.choices[2 * number : 2 * number + 2]] == expected
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_an_empty_prompt_begins_a_text(client):
    text = complete(client, "", echo=True, max_tokens=20).choices[0].text
    assert not text.startswith(" ")


@pytest.mark.parametrize("echo", [False, True])
def test_streamed_texts_are_the_whole_ones(client, echo):
    settings = {"n": 2, "temperature": 1.0, "seed": 9, "max_tokens": 12, "echo": echo}
    whole = complete(client, [PROMPT, "Is it"], **settings)
    chunks = list(
        complete(client, [PROMPT, "Is it"], stream=True, stream_options={"include_usage": True}, **settings)
    )
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert len({chunk.id for chunk in chunks}) == 1
    for choice in whole.choices:
        own = [chunk.choices[0] for chunk in chunks[:-1] if chunk.choices[0].index == choice.index]
        assert "".join(one.text for one in own) == choice.text
        assert own[-1].finish_reason == choice.finish_reason
        assert all(one.finish_reason is None for one in own[:-1])
    assert chunks[-1].usage == whole.usage


def test_log_probabilities_stand_beside_their_tokens(client, model):
    expected = alone(model, PROMPT, top_logprobs=2)
    (choice,) = complete(client, logprobs=2).choices
    found = choice.logprobs
    count = len([token for token in expected.token_ids if token != model.tokenizer.eos_id])
    np.testing.assert_allclose(found.token_logprobs, expected.logprobs[:count], atol=1e-4)
    assert all(1 <= len(top) <= 2 for top in found.top_logprobs)
    assert all(token in top for token, top in zip(found.tokens, found.top_logprobs, strict=True))
    assert found.text_offset[0] == 0
    assert found.text_offset == sorted(found.text_offset)
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        # A byte may have to wait for those after it.
        whole = len(token) > 1 and token not in ("<s>", "<unk>") and not token.startswith("bytes:")
        assert not whole or choice.text[offset:].startswith(token)
    chunks = [one.choices[0].logprobs for one in complete(client, logprobs=2, stream=True) if one.choices]
    for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        told = [value for chunk in chunks if chunk for value in getattr(chunk, name)]
        assert told == getattr(found, name)
    assert complete(client, logprobs=0).choices[0].logprobs.top_logprobs is None


def test_an_echoed_prompt_has_log_probabilities_too(client, model):
    """As lm-eval asks for them: each token's after those before it, the first's unknown."""
    ids = model.tokenizer.encode(PROMPT, bos=True)
    (choice,) = complete(client, logprobs=3, echo=True, max_tokens=4).choices
    found, count = choice.logprobs, len(ids)
    assert (found.token_logprobs[0], found.top_logprobs[0], found.text_offset[0]) == (None, None, 0)
    for end in range(1, count):  # by the answers to the prompt's beginnings
        (first,) = complete(client, ids[:end], logprobs=3, max_tokens=1, extra_body={}).choices
        if first.logprobs.tokens:
            likely = first.logprobs.top_logprobs[0]
            assert found.top_logprobs[end] == pytest.approx(likely, abs=1e-4)
            name = found.tokens[end]
            assert found.token_logprobs[end] == pytest.approx(
                likely.get(name, found.token_logprobs[end]), abs=1e-4
            )
            assert found.token_logprobs[end] <= max(likely.values()) + 1e-4
    assert choice.text.startswith(PROMPT)
    for token, offset in zip(found.tokens[1:count], found.text_offset[1:count], strict=True):
        assert choice.text[offset:].startswith(token.lstrip(" ") if offset == 0 else token)
    (alone_,) = complete(client, logprobs=3, max_tokens=4).choices
    assert found.tokens[count:] == alone_.logprobs.tokens
    np.testing.assert_allclose(found.token_logprobs[count:], alone_.logprobs.token_logprobs, atol=1e-4)
    assert found.text_offset[count:] == [at + len(PROMPT) for at in alone_.logprobs.text_offset]
    chunks = [one.choices[0] for one in complete(client, logprobs=3, echo=True, max_tokens=4, stream=True)]
    assert "".join(one.text for one in chunks) == choice.text
    for name in ("tokens", "text_offset"):
        told = [value for one in chunks if one.logprobs for value in getattr(one.logprobs, name)]
        assert told == getattr(found, name)


@pytest.mark.parametrize("prompt", [PROMPT, ""])
def test_a_prompt_alone_is_scored_and_nothing_is_added(client, prompt):
    """As older clients of lm-eval ask."""
    (longer,) = complete(client, prompt, logprobs=3, echo=True, max_tokens=1).choices
    answer = complete(client, prompt, logprobs=3, echo=True, max_tokens=0)
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == (prompt, "length")
    assert answer.usage.completion_tokens == 0
    count = answer.usage.prompt_tokens
    for name in ("tokens", "text_offset"):
        assert getattr(choice.logprobs, name) == getattr(longer.logprobs, name)[:count]
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(
        longer.logprobs.token_logprobs[1:count], abs=1e-4
    )
    chunks = [
        one.choices[0]
        for one in complete(client, prompt, logprobs=3, echo=True, max_tokens=0, n=2, stream=True)
    ]
    for index in (0, 1):
        own = [one for one in chunks if one.index == index]
        assert "".join(one.text for one in own) == prompt
        assert [one.logprobs.tokens for one in own if one.logprobs] == [choice.logprobs.tokens]
        assert own[-1].finish_reason == "length"
    assert complete(client, prompt, echo=True, max_tokens=0).choices[0].text == prompt
    with pytest.raises(openai.BadRequestError, match="max_tokens is 0; expected a whole number from 1"):
        complete(client, prompt, max_tokens=0)


def test_stop_texts_and_forms(client, model):
    whole = alone(model, PROMPT, max_new_tokens=40).text
    stop = whole[len(whole) // 2 :][:2]
    (choice,) = complete(client, max_tokens=40, stop=[stop]).choices
    assert (choice.text, choice.finish_reason) == (whole[: whole.index(stop)], "stop")
    answer = complete(client, extra_body={"structured_outputs": {"choice": [" yes", " no"]}})
    assert answer.choices[0].text in (" yes", " no")


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        ({"suffix": "end"}, "suffix", "suffix is 'end'; nothing but null is supported"),
        ({"prompt": [1, 300]}, "prompt", "prompt names the token 300; the tokenizer has the ids 0 to 299"),
        ({"prompt": [[1], [2, 999]]}, "prompt", r"prompt\[1\] names the token 999"),
        ({"prompt": [5] * 128}, "prompt", "prompt has 128 tokens; the model takes 128"),
        ({"prompt": ["a", "a b " * 60]}, "prompt", r"prompt\[1\] has \d+ tokens; the model takes 128 tokens"),
        ({"prompt": "a" * 100_000}, "prompt", "prompt has 100000 characters; the model takes 128 tokens"),
    ],
)
def test_what_is_wrong_is_told_of_its_field(client, shared, settings, param, words):
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        complete(client, **settings)
    assert caught.value.param == param
    shared.wait(shared.idle)


def test_control_tokens_in_a_prompt_are_text(client, model):
    counted = complete(client, "a</s>b").usage.prompt_tokens
    assert counted == len(model.tokenizer.encode("a</s>b", bos=True, control_tokens=False))
    assert counted > len(model.tokenizer.encode("a</s>b", bos=True))


def test_a_key_is_demanded_here_too(model):
    with serve(model, api_key="secret") as running, pytest.raises(openai.AuthenticationError):
        complete(running.client(api_key="no"))
