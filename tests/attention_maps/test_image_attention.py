"""Where the model looked: equal to the attention of one plain forward pass."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.attention_maps.image_attention import MAX_ANSWER, Look, encode_question, look
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.conversation import encode_dialogue, expand
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.held_prompt import NoPagesError
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.quantize import quantize_model
from owl2_jax.inference.request import Request
from owl2_jax.model.owl2 import Owl2
from owl2_jax.testing import tiny

MESSAGES = [{"role": "user", "content": "<|image|>Is it red, or<|image|>this one?"}]


@pytest.fixture(scope="module")
def model(tiny_config, tiny_params, toy_tokenizer) -> LoadedModel:
    return LoadedModel(tiny_config, tiny_params, toy_tokenizer)


@pytest.fixture(scope="module")
def engine(model) -> Engine:
    return Engine(model, EngineConfig(sequences=2))


def looks_of(engine: Engine, messages, answer: str, images) -> list[Look]:
    return look(engine, *encode_question(engine.model, messages, answer, images))


def by_one_pass(model, answer: str, images) -> tuple[np.ndarray, np.ndarray]:
    """The same from a forward pass over prompt and answer, with every attention written out."""
    config = model.config
    dialogue = [*MESSAGES, {"role": "assistant", "content": answer}]
    encoded = encode_dialogue(dialogue, model.prompt_format, model.tokenizer)
    sample = expand(encoded.ids, encoded.labels, config.tokens_per_image)
    tokens = jnp.asarray(sample.tokens)[None]
    row = jnp.arange(tokens.shape[1])[None]
    starts = sample.image_starts[None]
    _, state = Owl2(config).apply(
        {"params": model.params}, tokens, row, jnp.ones_like(row), np.stack(images),
        jnp.arange(2)[None], starts, mutable=["intermediates"],
    )  # fmt: skip
    state = jax.tree.map(np.asarray, state["intermediates"])
    reading = state["abstractor"]["layers"]["attention"]["attention"][0].mean((0, 2))
    reading = reading[:, :, config.abstractor.num_queries + 1 :]
    reading /= reading.sum(-1, keepdims=True)
    answered = np.flatnonzero(sample.labels != -100)[:-1]  # without </s>
    attention = state["decoder"]["layers"]["attention"]["attention"][0][:, 0].mean((0, 1))
    asked = attention[answered - 1].mean(0)
    asked = np.stack([asked[start : start + config.abstractor.num_queries] for start in starts[0]])
    maps = np.einsum("iq,iqp->ip", asked, reading)
    return maps / maps.sum(-1, keepdims=True), asked.sum(-1)


def test_look_is_attention_of_the_plain_forward_pass(model, engine):
    images = [tiny.image(1), tiny.image(2)]
    looks = looks_of(engine, MESSAGES, "the red circle", images)
    maps, shares = by_one_pass(model, "the red circle", images)
    for one, expected, share in zip(looks, maps, shares, strict=True):
        assert one.weights.shape == (2, 2)
        np.testing.assert_allclose(one.weights.ravel(), expected, atol=1e-6)
        assert one.share == pytest.approx(share, abs=1e-6)
    assert 0 < sum(one.share for one in looks) < 1


def test_look_depends_on_the_image_and_the_answer(engine):
    first, second = (
        looks_of(engine, MESSAGES, text, [tiny.image(1), tiny.image(2)]) for text in ("red", "no")
    )
    assert np.abs(first[0].weights - second[0].weights).max() > 1e-6
    other = looks_of(engine, MESSAGES, "red", [tiny.image(3), tiny.image(2)])
    assert np.abs(first[0].weights - other[0].weights).max() > 1e-6


def test_model_in_int8_looks_nearly_where_the_whole_one_does(model, engine):
    images = [tiny.image(1), tiny.image(2)]
    whole = looks_of(engine, MESSAGES, "red", images)
    small = looks_of(Engine(quantize_model(model), EngineConfig(sequences=2)), MESSAGES, "red", images)
    for one, other in zip(whole, small, strict=True):
        np.testing.assert_allclose(one.weights, other.weights, atol=0.02)
        assert one.share == pytest.approx(other.share, abs=0.02)


def test_long_answer_is_looked_at_from_its_beginning(engine):
    images = [tiny.image(1), tiny.image(2)]
    looks = looks_of(engine, MESSAGES, "x" * (MAX_ANSWER + 10), images)
    same = looks_of(engine, MESSAGES, "x" * (MAX_ANSWER + 5), images)
    np.testing.assert_array_equal(looks[0].weights, same[0].weights)


@pytest.mark.parametrize(
    ("messages", "answer", "count", "words"),
    [
        (MESSAGES, "", 2, "no answer"),
        ([{"role": "user", "content": "What?"}], "red", 0, "no image"),
        (MESSAGES, "red", 1, "2 image tags"),
        ([{"role": "user", "content": "<|image|>" + "What " * 200}], "red", 1, "longer than"),
    ],
)
def test_what_cannot_be_looked_at_is_named(engine, messages, answer, count, words):
    with pytest.raises(Owl2Error, match=words):
        looks_of(engine, messages, answer, [tiny.image(i) for i in range(count)])


def test_a_look_beside_running_answers_changes_none_of_them_and_frees_its_pages(model, engine):
    images = [tiny.image(1), tiny.image(2)]
    asked = Request(MESSAGES, images, max_new_tokens=30, ignore_eos=True)
    (alone,) = engine.generate([asked])
    before = looks_of(engine, MESSAGES, "the red circle", images)
    engine.forget()
    engine.submit(asked)
    engine.step()
    engine.step()
    found = looks_of(engine, MESSAGES, "the red circle", images)  # on pages that the answer uses, too
    for one, other in zip(found, before, strict=True):
        np.testing.assert_allclose(one.weights, other.weights, atol=1e-6)
    results = [event.result for _ in range(30) if engine.pending for event in engine.step()]
    assert results[-1].token_ids == alone.token_ids
    assert engine.pool.num_free == engine.pool.count


def test_without_free_pages_a_look_is_told_so(engine):
    taken = engine.pool.take(engine.pool.num_free)
    with pytest.raises(NoPagesError, match="all pages of the cache are in use"):
        looks_of(engine, MESSAGES, "red", [tiny.image(1), tiny.image(2)])
    engine.pool.release(taken)
    assert looks_of(engine, MESSAGES, "red", [tiny.image(1), tiny.image(2)])


def test_looks_and_answers_that_share_nothing_keep_out_of_each_others_pages(model):
    """The row that looks borrow keeps nothing of the look before, whose pages an answer has by now."""
    engine = Engine(model, EngineConfig(sequences=2))
    asked = Request(MESSAGES, [tiny.image(3), tiny.image(4)], max_new_tokens=30, ignore_eos=True)
    (alone,) = Engine(model, EngineConfig(sequences=2)).generate([asked])
    looks_of(engine, MESSAGES, "the red circle", [tiny.image(5), tiny.image(6)])
    engine.submit(asked)
    engine.step()
    results = []
    for images in ([tiny.image(1), tiny.image(2)], [tiny.image(2), tiny.image(7)]):
        found = looks_of(engine, MESSAGES, "the red circle", images)
        maps, shares = by_one_pass(model, "the red circle", images)
        for one, expected, share in zip(found, maps, shares, strict=True):
            np.testing.assert_allclose(one.weights.ravel(), expected, atol=1e-6)
            assert one.share == pytest.approx(share, abs=1e-6)
        results += [event.result for event in engine.step()]
    results += [event.result for _ in range(30) if engine.pending for event in engine.step()]
    assert results[-1].token_ids == alone.token_ids
    np.testing.assert_allclose(results[-1].logprobs, alone.logprobs, atol=1e-4)
