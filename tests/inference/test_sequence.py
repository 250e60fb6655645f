"""What a sequence asks for of its own prompt."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.inputs import Prompt
from owl2_jax.inference.request import Request, Result
from owl2_jax.inference.sequence import Sequence
from owl2_jax.sampling.sampler import Chosen


def sequence(scored: int, limit: int = 4, image_at: tuple[int, ...] = (), top: int = 0) -> Sequence:
    images = [SimpleNamespace(key=b"an image's key")] * len(image_at)
    prompt = Prompt(np.arange(10, 18, dtype=np.int32), list(image_at), images, 2)
    request = Request("a", prompt_logprobs=scored, top_logprobs=top)
    return Sequence(0, request, prompt, limit, SimpleNamespace(result=Result()))


def test_targets_are_the_tokens_behind():
    one = sequence(3)
    assert one.targets(0, 8).tolist() == [-1, -1, -1, -1, 15, 16, 17, -1]
    assert one.targets(5, 7).tolist() == [16, 17]
    assert sequence(0).targets(0, 8).tolist() == [-1] * 8
    assert sequence(99).targets(0, 3).tolist() == [11, 12, 13]  # nothing stands in front of the first


def test_images_are_no_targets():
    assert sequence(99, image_at=(2,)).targets(0, 5).tolist() == [11, -1, -1, 14, 15]


def test_what_is_scored_runs_here_and_not_from_pages_of_others():
    assert (sequence(0).shareable, sequence(3).shareable) == (8, 5)


def test_without_an_answer_the_last_position_need_not_run():
    assert (sequence(3).end, sequence(3, limit=0).end) == (8, 7)


def test_scores_come_chunk_by_chunk():
    one = sequence(3, top=1)
    for start, end in ((0, 5), (5, 8), (0, 5)):  # the last, when it was put back and runs again
        numbers = np.arange(start, end, dtype=np.float32)
        top = np.tile(numbers[:, None], 2)
        one.take_scores(start, end, Chosen(None, -numbers, top.astype(np.int32), -top))
    told = one.answer.result.prompt_logprobs
    assert told.token_ids == [15, 16, 17]
    assert told.logprobs == [-4.0, -5.0, -6.0]
    assert told.top_logprobs == [[(4, -4.0)], [(5, -5.0)], [(6, -6.0)]]


def test_an_answer_of_no_token_is_for_log_probabilities_alone():
    assert Request("a", max_new_tokens=0, prompt_logprobs=1).max_new_tokens == 0
    with pytest.raises(Owl2Error, match="max_new_tokens"):
        Request("a", max_new_tokens=0)
