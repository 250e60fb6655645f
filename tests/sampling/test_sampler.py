"""The sampler against the same rules in numpy, one row at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.inference.request import Request
from owl2_jax.inference.sampler_rows import SamplerRows
from owl2_jax.sampling.params import Sampling
from owl2_jax.sampling.sampler import count, empty_state, likeliest, load_row, sample
from owl2_jax.structured.form import json_object

V, EOS = 203, 2
SAMPLE, COUNT, LOAD = jax.jit(sample), jax.jit(count), jax.jit(load_row)
PROMPT, ANSWER = [5, 9, 9, 40], [7, 7, 7, 9, 30]


def inputs_of(requests, generated=None, allowed=None):
    rows = SamplerRows(len(requests), V, EOS)
    for row, request in enumerate(requests):
        rows.put(row, request)
        if request.structured is not None:
            rows.mask(row, bits(allowed))
    every = np.arange(len(requests), dtype=np.int32)
    inputs = rows.take(every, np.array(generated or [0] * len(requests), np.int32))
    return inputs.replace(**(rows.large(every) or rows.unasked(len(requests))))


def bits(tokens) -> np.ndarray:
    """uint32[W] of the tokens that may come."""
    words = np.zeros(-(-V // 32), np.uint32)
    for token in tokens:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words


def state_of(rows, prompt=PROMPT, answer=ANSWER):
    state = empty_state(rows, V)
    padded = np.full(16, V, np.int32)
    padded[: len(prompt) + len(answer)] = [*prompt, *answer]
    for row in range(rows):
        state = LOAD(state, np.int32(row), padded, np.int32(len(prompt)))
    return state


def some_logits(rows, seed=0):
    return (np.random.default_rng(seed).normal(size=(rows, V)) * 3).astype(np.float32)


def reference(logits, request, generated, allowed=range(V)) -> np.ndarray:
    """float64[V]: logits that are drawn from, -inf for what may not come."""
    logits, sampling = logits.astype(np.float64), request.sampling
    if generated < request.min_new_tokens:
        logits[list(request.end_ids(EOS))] = -np.inf
    logits[[token for token in range(V) if token not in allowed]] = -np.inf
    for token, bias in sampling.logit_bias.items():
        logits[int(token)] += bias
    for token in {*PROMPT, *ANSWER}:
        factor = sampling.repetition_penalty
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token in set(ANSWER):
        logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * ANSWER.count(token)
    return truncated(logits / (sampling.temperature or 1), sampling)


def truncated(logits, sampling) -> np.ndarray:
    """What one rule after the other leaves, as Hugging Face applies them."""
    keep, order = np.isfinite(logits), np.argsort(-logits)
    if sampling.top_k:
        keep[order[sampling.top_k :]] = False
    probabilities = np.where(keep, np.exp(logits - logits.max()), 0)
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        before = np.cumsum(probabilities[order]) - probabilities[order]
        keep[order[before >= sampling.top_p]] = False
    keep &= probabilities >= sampling.min_p * probabilities.max()
    return np.where(keep, logits, -np.inf)


FORM = json_object("response_format")
REQUESTS = [
    Request("a"),
    Request("a", min_new_tokens=3, stop_token_ids=[11, 12]),
    Request("a", sampling=Sampling(presence_penalty=1.5)),
    Request("a", sampling=Sampling(frequency_penalty=1.0)),
    Request("a", sampling=Sampling(frequency_penalty=-2.0, presence_penalty=-2.0)),
    Request("a", sampling=Sampling(repetition_penalty=1.8)),
    Request("a", sampling=Sampling(repetition_penalty=0.6, presence_penalty=0.5, frequency_penalty=0.3)),
    Request("a", sampling=Sampling(logit_bias={"17": 100, "30": -100, "0": 0.5})),
    Request("a", structured=FORM),
    Request("a", sampling=Sampling(logit_bias={"3": 100, "5": 1}, repetition_penalty=2.0), structured=FORM),
    Request("a", sampling=Sampling(temperature=1.0)),
    Request("a", sampling=Sampling(temperature=0.7, top_k=5)),
    Request("a", sampling=Sampling(temperature=1.3, top_p=0.6)),
    Request("a", sampling=Sampling(temperature=1.0, top_p=0.01)),
    Request("a", sampling=Sampling(temperature=1.0, min_p=0.2)),
    Request("a", sampling=Sampling(temperature=2.0, top_k=30, top_p=0.8, min_p=0.05, presence_penalty=1)),
    Request("a", sampling=Sampling(temperature=1.0, top_k=10**6), structured=FORM),
]
ALLOWED = [4, 5, 31, 32, 95, 202]


def test_what_may_be_drawn_is_what_the_rules_leave():
    """Over many random numbers, the tokens drawn are those that are left, about as often as they should."""
    draws = 300
    for request in REQUESTS[10:]:
        sampling = request.sampling
        rows = [
            Request("a", sampling=Sampling(**{**vars(sampling), "seed": seed}), structured=request.structured)
            for seed in range(draws)
        ]
        logits = some_logits(1, seed=3)
        inputs = inputs_of(rows, [5] * draws, ALLOWED)
        drawn = np.asarray(SAMPLE(np.repeat(logits, draws, 0), inputs, state_of(1)).tokens)
        left = reference(logits[0], request, 5, ALLOWED if request.structured else range(V))
        probabilities = np.exp(left - left.max()) / np.exp(left - left.max()).sum()
        assert (probabilities[drawn] > 0).all(), sampling
        shares = np.bincount(drawn, minlength=V) / draws
        np.testing.assert_allclose(shares, probabilities, atol=0.1)


def test_frequencies_follow_the_probabilities():
    wanted, draws = np.zeros(V), 4000
    wanted[[3, 50, 51, 202]] = [0.5, 0.3, 0.15, 0.05]
    requests = [Request("a", sampling=Sampling(temperature=1.0, seed=seed)) for seed in range(draws)]
    with np.errstate(divide="ignore"):
        logits = np.tile(np.log(wanted.astype(np.float32)), (draws, 1))
    tokens = SAMPLE(logits, inputs_of(requests), empty_state(1, V)).tokens
    np.testing.assert_allclose(np.bincount(tokens, minlength=V) / draws, wanted, atol=0.03)


def test_greedy_rows_take_the_largest_of_the_reference():
    rows = [request for request in REQUESTS if request.sampling.temperature == 0]
    for seed in range(5):
        logits = some_logits(len(rows), seed)
        logits[:, [7, 11, EOS]] += 6  # what is penalised and forbidden would win
        generated = [2 + seed] * len(rows)
        chosen = SAMPLE(logits, inputs_of(rows, generated, ALLOWED), state_of(len(rows)))
        expected = [
            np.argmax(reference(row, request, 2 + seed, ALLOWED if request.structured else range(V)))
            for row, request in zip(logits, rows, strict=True)
        ]
        np.testing.assert_array_equal(chosen.tokens, expected)


def test_no_bit_of_a_row_depends_on_what_others_ask_for():
    """Whatever is skipped for a batch that does not need it changes nothing where it is done."""
    logits, generated = some_logits(len(REQUESTS)), [4] * len(REQUESTS)
    inputs, state = inputs_of(REQUESTS, generated, ALLOWED), state_of(len(REQUESTS))
    together = SAMPLE(logits, inputs, state)
    for row in range(len(REQUESTS)):
        part = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], (logits, inputs))
        alone = SAMPLE(*part, state)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_array_equal(alone.logprobs[0], together.logprobs[row])


def test_plain_greedy_is_the_first_of_the_largest():
    logits = np.round(some_logits(8))
    chosen = SAMPLE(logits, inputs_of([Request("a")] * 8), empty_state(8, V))
    np.testing.assert_array_equal(chosen.tokens, np.argmax(logits, -1))
    np.testing.assert_array_equal(likeliest(jnp.asarray(logits)), np.argmax(logits, -1))
    assert not np.asarray(chosen.top_tokens).any()


def test_log_probabilities_are_those_of_the_model():
    requests = [REQUESTS[2], REQUESTS[7], Request("a", top_logprobs=3, structured=FORM)]
    logits = some_logits(3)
    chosen = SAMPLE(logits, inputs_of(requests, [5] * 3, ALLOWED), state_of(3))
    expected = jax.nn.log_softmax(logits)
    tokens = np.asarray(chosen.tokens)
    np.testing.assert_allclose(chosen.logprobs, expected[np.arange(3), tokens], atol=1e-5)
    np.testing.assert_array_equal(chosen.top_tokens[2, :3], np.argsort(-logits[2])[:3])
    np.testing.assert_allclose(chosen.top_logprobs[2, :3], np.sort(expected[2])[::-1][:3], atol=1e-5)


def test_log_probabilities_count_an_end_that_may_not_come_yet():
    logits = np.full((1, V), -np.inf, np.float32)
    logits[0, [EOS, 7]] = 0.0
    request = Request("x", max_new_tokens=9, min_new_tokens=3, top_logprobs=2)
    chosen = SAMPLE(jnp.asarray(logits), inputs_of([request]), state_of(1))
    assert int(chosen.tokens[0]) == 7
    np.testing.assert_allclose(chosen.logprobs, [np.log(0.5)], rtol=1e-6)
    assert set(np.asarray(chosen.top_tokens)[0, :2].tolist()) == {EOS, 7}


def test_draw_depends_on_seed_and_position_only():
    seeds, generated = (1, 2, 1, 2**40 + 1, 1, 2), [3, 3, 3, 3, 4, 4]
    requests = [Request("a", sampling=Sampling(temperature=1.0, seed=seed)) for seed in seeds]
    logits = np.tile(np.linspace(0, 1, V, dtype=np.float32), (6, 1))
    tokens = SAMPLE(logits, inputs_of(requests, generated), empty_state(6, V)).tokens.tolist()
    assert tokens[0] == tokens[2]
    assert len(set(tokens)) > 2


def test_counts_grow_by_what_active_rows_with_penalties_chose():
    requests = [Request("a", sampling=Sampling(presence_penalty=1)), Request("a"), REQUESTS[5], REQUESTS[3]]
    inputs, tokens = inputs_of(requests), np.array([7, 7, 8, 9])
    state = COUNT(state_of(4), inputs, tokens, np.array([True, True, True, False]))
    counts = np.asarray(state.counts)
    assert [counts[0, 7], counts[1, 7], counts[2, 8], counts[3, 9]] == [4, 3, 1, 1]
    assert counts.sum() == 4 * len(ANSWER) + 2


def test_a_row_is_loaded_again_with_prompt_and_answer():
    state = LOAD(state_of(2), np.int32(1), np.full(16, V, np.int32), np.int32(0))
    assert np.flatnonzero(state.in_prompt[0]).tolist() == [5, 9, 40]
    assert {token: int(state.counts[0, token]) for token in np.flatnonzero(state.counts[0])} == {
        7: 3,
        9: 1,
        30: 1,
    }
    assert not state.in_prompt[1].any()
    assert not state.counts[1].any()


def test_rows_that_pad_a_step_are_greedy_and_count_nothing():
    rows = SamplerRows(2, V, EOS)
    rows.put(0, REQUESTS[6])
    rows.put(0, Request("a"))  # leaves nothing of the request before
    inputs = rows.take(np.array([1, 2, 2, 2]), np.zeros(4, np.int32))
    assert inputs.rows.tolist() == [1, 2, 2, 2]
    fresh = SamplerRows(2, V, EOS).take(np.array([0]), np.array([0]))
    put = rows.take(np.array([0]), np.array([0]))
    assert rows.large(np.array([0, 2])) is None
    assert put.stop_ids[0].tolist() == [EOS] + [V] * 15
    for name in (
        "temperature",
        "repetition_penalty",
        "presence_penalty",
        "masked",
        "seed",
    ):
        np.testing.assert_array_equal(getattr(put, name), getattr(fresh, name))
    state = COUNT(empty_state(2, V), inputs, np.array([3, 3, 3, 3]), np.ones(4, bool))
    assert not state.counts.any()


@pytest.mark.parametrize("request_", REQUESTS[2:7])
def test_rows_with_any_penalty_are_told_apart(request_):
    rows = SamplerRows(2, V, EOS)
    rows.put(0, request_)
    assert rows.penalized(0)
    assert not rows.penalized(1)
