"""Where an answer ends: texts that end it, and tokens that it has to have before."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.request import Request
from owl2_jax.structured.form import json_object


def answer_to(tokenizer, text: str, **settings) -> Answer:
    """The answer made of the tokens of a text, one after the other."""
    tokens = np.array(tokenizer.encode(text), np.int32)
    answer = Answer(Request("x", max_new_tokens=99, **settings), tokenizer, 1)
    answer.extend(SimpleNamespace(tokens=tokens, logprobs=np.zeros(len(tokens), np.float32)))
    return answer


@pytest.mark.parametrize("stop", ["no", "no,"])
def test_a_stop_text_ends_the_answer_where_it_begins(toy_tokenizer, stop):
    answer = answer_to(toy_tokenizer, "a no, three no", stop=[stop])
    assert (answer.ended, answer.result.text.rstrip()) == ("stop", "a")


def test_a_stop_text_among_the_tokens_that_must_come_ends_nothing(toy_tokenizer):
    needed = len(toy_tokenizer.encode("a no, three"))
    answer = answer_to(toy_tokenizer, "a no, three no a", stop=["no"], min_new_tokens=needed)
    assert (answer.ended, answer.result.text.rstrip()) == ("stop", "a no, three")
    assert answer.new_text().rstrip() == "a no, three"


@pytest.mark.parametrize(
    ("wholes", "stop", "text"),
    [
        ({"a no, three "}, [], "a no, three"),
        ({"a "}, [], "a"),
        ({"a ", "a no, three "}, [], "a"),
        (set(), [], "a no, three no"),
        (set(), ["three"], "a no,"),
    ],
)
def test_a_text_that_ends_answers_is_part_of_a_form_that_may_not_end_there(
    toy_tokenizer, monkeypatch, wholes, stop, text
):
    monkeypatch.setattr(type(toy_tokenizer), "end_texts", ("no",), raising=False)
    tokens = np.array(toy_tokenizer.encode("a no, three no"), np.int32)
    request, asked = Request("x", structured=json_object("f"), stop=stop), []
    answer = Answer(request, toy_tokenizer, 1, lambda text: asked.append(text) or text in wholes)
    for token in tokens:
        answer.extend(SimpleNamespace(tokens=np.array([token]), logprobs=np.zeros(1)))
    assert answer.result.text.rstrip() == text
    assert answer.ended == (None if not wholes and not stop else "stop")
    assert len(asked) == len(set(asked))
