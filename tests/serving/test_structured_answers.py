"""Answers of a given form through the official client: whatever the model likes best, they have it."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import openai
import pytest
from pydantic import BaseModel

from owl2_jax.inference.request import Request
from owl2_jax.serving import service
from tests.serving.questions import answer_alone, user


class Shape(BaseModel):
    """What is seen."""

    name: Literal["circle", "square"]
    red: bool


@pytest.fixture(scope="module")
def client(shared):
    return shared.client()


def ask(client, seed=0, **settings):
    settings = {"model": "tiny", "temperature": 1.0, "max_tokens": 90, "seed": seed} | settings
    return client.chat.completions.create(messages=[user("What?")], **settings).choices[0]


@pytest.fixture(scope="module")
def no_blanks(model) -> dict[str, float]:
    """A bias against blanks, which JSON may have anywhere and this model likes."""
    tokenizer = model.tokenizer
    ids = {token for text in (" a", "a\n", "a\r", "a\t") for token in tokenizer.encode(text)}
    return {str(token): -100 for token in ids if not tokenizer.piece(token).strip("▁") or token < 259}


def form(**outputs):
    return {"extra_body": {"structured_outputs": outputs}}


def test_a_choice_is_one_of_the_texts(client):
    for seed in range(4):
        answer = ask(client, seed, **form(choice=["a red circle", "no"]))
        assert answer.message.content in ("a red circle", "no")
        assert answer.finish_reason == "stop"
    assert ask(client, temperature=0, **form(choice=["yes"])).message.content == "yes"


def test_a_regular_expression_matches_as_a_whole(client):
    for seed in range(4):
        answer = ask(client, seed, **form(regex=r"[a-z]{2,6} (red|blue)\d"))
        assert re.fullmatch(r"[a-z]{2,6} (red|blue)\d", answer.message.content)


def test_a_grammar_of_either_notation(client):
    for text in ('root ::= "(" root ")" | "x"', 'start: "(" start ")" | "x"'):
        answer = ask(client, 3, logit_bias={}, **form(grammar=text))
        inside = answer.message.content
        assert re.fullmatch(r"\(*x\)*", inside) or answer.finish_reason == "length"
        assert inside.count("(") == inside.count(")") or answer.finish_reason == "length"


def test_a_schema_is_kept_to(client, no_blanks):
    exact = Shape.model_json_schema() | {"additionalProperties": False}
    schema = {"type": "json_schema", "json_schema": {"name": "shape", "schema": exact}}
    for seed in range(3):
        answer = ask(client, seed, response_format=schema, logit_bias=no_blanks)
        assert answer.finish_reason == "stop"
        Shape.model_validate_json(answer.message.content)


def test_the_clients_own_way_of_parsing_works(client, no_blanks):
    answer = client.chat.completions.parse(
        model="tiny",
        messages=[user("What?")],
        response_format=Shape,
        temperature=0,
        max_tokens=90,
        logit_bias=no_blanks,
    )
    assert isinstance(answer.choices[0].message.parsed, Shape)


def test_any_object_is_json_as_far_as_it_comes(client):
    bias = {str(token): -5 for token in range(3, 20)}
    answer = ask(client, response_format={"type": "json_object"}, logit_bias=bias, max_tokens=60)
    assert answer.message.content.startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


def test_streamed_answers_are_the_whole_ones(client):
    schema = Shape.model_json_schema()
    whole = ask(client, 5, **form(json=schema))
    stream = client.chat.completions.create(
        model="tiny", messages=[user("What?")], temperature=1.0, max_tokens=90, seed=5, stream=True,
        **form(json=schema),
    )  # fmt: skip
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.message.content


def test_several_choices_of_a_form(client):
    answer = client.chat.completions.create(
        model="tiny", messages=[user("What?")], n=4, temperature=1.5, seed=1, max_tokens=20,
        **form(regex="[a-z]{3}"),
    )  # fmt: skip
    texts = [choice.message.content for choice in answer.choices]
    assert all(re.fullmatch("[a-z]{3}", text) for text in texts)
    assert len(set(texts)) > 1


def test_free_answers_beside_them_are_those_given_alone(client, model):
    """A form never touches other answers that run at the same time."""
    request = Request([{"role": "user", "content": "What?"}], max_new_tokens=40)
    alone = answer_alone(model, request).text
    with ThreadPoolExecutor(6) as pool:
        forms = [pool.submit(ask, client, seed, **form(regex="(ab|c){20}")) for seed in range(3)]
        free = [pool.submit(ask, client, temperature=0, max_tokens=40) for _ in range(3)]
    assert all(re.fullmatch("(ab|c){20}", one.result().message.content) for one in forms)
    assert [one.result().message.content for one in free] == [alone] * 3


@pytest.mark.parametrize(
    ("settings", "param", "words"),
    [
        (form(regex="("), "structured_outputs", "structured_outputs.regex: invalid regex"),
        (form(grammar="root ::= a"), "structured_outputs", "structured_outputs.grammar: Rule 'a' not found"),
        (form(json={"type": "objct"}), "structured_outputs", "structured_outputs.json: Invalid type: objct"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}}},
            "response_format",
            "response_format.json_schema.schema: Unimplemented keys",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_by_its_field(client, settings, param, words):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **settings)
    assert words in caught.value.message
    assert caught.value.param == param


def test_too_many_forms_at_once_are_told_so_and_leave_no_place_taken(client, shared, monkeypatch):
    monkeypatch.setattr(service, "MAX_FORMS", 0)
    with pytest.raises(openai.RateLimitError, match="too many forms") as caught:
        ask(client, **form(choice=["a form of its own"]))
    assert caught.value.response.headers["retry-after"] == "2"
    shared.wait(shared.idle)


def test_a_known_form_does_not_stand_in_line_with_new_ones(client, shared, monkeypatch):
    known = form(regex="[ab]{3}")
    ask(client, **known)
    monkeypatch.setattr(service, "MAX_FORMS", 0)  # as if as many as can be were being compiled
    assert re.fullmatch("[ab]{3}", ask(client, **known).message.content)


def test_an_answer_that_leads_nowhere_is_an_error_and_no_end_of_the_server(client):
    with pytest.raises(openai.BadRequestError, match="leads to an end") as caught:
        ask(client, **form(grammar='start: "a" s\ns: "b" t\nt: t t'))
    assert caught.value.code == "answer_failed"
    with pytest.raises(openai.APIError, match="leads to an end"):
        list(
            client.chat.completions.create(
                model="tiny", messages=[user("What?")], stream=True, **form(grammar='start: "a" s\ns: s s')
            )
        )
    assert ask(client, **form(choice=["yes"])).message.content == "yes"
