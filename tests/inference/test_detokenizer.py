"""Where an answer ends: texts that end it, and tokens that it has to have before."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.request import Request


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
