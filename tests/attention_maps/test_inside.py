"""A look inside shows the model's own attention: golden `i/attentions`, and one plain forward pass."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.attention_maps.inside import Inside, look_inside
from owl2_jax.attention_maps.page import mass_chart, render
from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.flat_batch import Pieces
from owl2_jax.inference.inputs import read_request
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.program_sizes import StepSize
from owl2_jax.inference.programs import encode_images
from owl2_jax.inference.request import Request
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.pages import empty_pages
from owl2_jax.testing import tiny
from tests.parity.golden import assert_close, case, load

MESSAGES = [{"role": "user", "content": "<|image|>Is it red, or<|image|>this one?"}]


@pytest.fixture(scope="module")
def model(tiny_config, tiny_params, toy_tokenizer) -> LoadedModel:
    return LoadedModel(tiny_config, tiny_params, toy_tokenizer, name="small & <odd>")


@pytest.fixture(scope="module")
def inside(model) -> Inside:
    return look_inside(model, MESSAGES, [tiny.image_file(1), tiny.image(2)], max_new_tokens=6)


@pytest.mark.parametrize("name", ["A", "B"])
def test_attention_is_that_of_the_original(name):
    config, params, golden, _ = load(name)
    inputs, expected = case(name, "i"), golden["i/attentions"]
    owl, variables, answered = Owl2(config), {"params": params}, 4
    length = inputs.tokens.shape[1]
    span, size = config.tokens_per_image, StepSize(length, 1)
    features = np.full(length, -1, np.int32)
    for row, start in zip(inputs.image_index[0], inputs.image_starts[0], strict=True):
        features[start : start + span] = np.arange(row * span, (row + 1) * span)
    pieces = Pieces(np.array([0]), np.array([length]), inputs.tokens[0], features, np.array([length]))
    table = np.arange(-(-length // 4), dtype=np.int32)[None]
    pool, reading = encode_images(
        owl, True, params, jnp.zeros((len(inputs.images), span, config.decoder.width)), inputs.images,
        np.arange(len(inputs.images)),
    )  # fmt: skip
    _, state = owl.apply(
        variables, inputs.tokens[0], pool, features, empty_pages(config, table.size, 4),
        jax.tree.map(jnp.asarray, pieces.batch(size, table)), method="step", mutable=["intermediates"],
    )  # fmt: skip
    (attention,) = state["intermediates"]["decoder"]["layers"]["attention"]["attention"]
    assert attention.shape[:3] == (config.decoder.num_layers, config.decoder.num_heads, length)
    found = attention[:, :, length - answered :, :length]
    assert_close(found, expected[:, 0, :, length - answered :, :], "attention of the answer's tokens")
    np.testing.assert_allclose(attention.sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(reading.sum(-1), 1.0, atol=1e-5)


def test_masses_are_those_of_one_plain_pass(model, inside):
    answer = [token.text for token in inside.tokens]
    assert len(answer) == 6
    assert inside.row_error < 1e-5
    np.testing.assert_allclose(inside.image_mass + inside.text_mass, 1.0, atol=1e-5)
    assert inside.image_positions == 2 * model.config.tokens_per_image < inside.positions

    tokens, starts, images = _whole_sequence(model, inside)
    row = jnp.arange(tokens.shape[1])[None]
    logits, state = Owl2(model.config).apply(
        {"params": model.params}, tokens, row, jnp.ones_like(row), images, jnp.arange(2)[None], starts,
        mutable=["intermediates"],
    )  # fmt: skip
    attention = state["intermediates"]["decoder"]["layers"]["attention"]["attention"][0][:, 0].mean(1)
    rows = attention[:, inside.positions - 1 : inside.positions - 1 + len(answer)]
    span = model.config.tokens_per_image
    seen = sum(np.asarray(rows[:, :, start : start + span]).sum(-1) for start in starts[0])
    np.testing.assert_allclose(inside.image_mass, seen, atol=1e-5)
    chances = jax.nn.softmax(logits[0, inside.positions - 1 : inside.positions - 1 + len(answer)], axis=-1)
    shown = [token.probability for token in inside.tokens]
    np.testing.assert_allclose(shown, np.asarray(chances).max(-1), rtol=1e-4)


def test_a_key_beyond_the_trained_length_it_is_the_whole_prompt_that_counts(toy_tokenizer):
    """Its last position runs by itself here; the base is still that of what gave the answer."""
    config, images = tiny.tiny_config(**tiny.OWL2_1), [tiny.image(1), tiny.image(2)]
    model = LoadedModel(config, tiny.tiny_params(config), toy_tokenizer)
    length = len(read_request(Request(MESSAGES, images), model))
    config = config.replace(**{"decoder.trained_length": length - 1})
    model = dataclasses.replace(model, config=config)
    inside = look_inside(model, MESSAGES, images, max_new_tokens=3)
    assert inside.positions == length
    tokens, starts, images = _whole_sequence(model, inside)
    row = jnp.arange(tokens.shape[1])[None]
    run = jax.jit(functools.partial(Owl2(config).apply, mutable=["intermediates"]))
    _, state = run(
        {"params": model.params}, tokens, row, jnp.ones_like(row), images, jnp.arange(2)[None], starts,
        jnp.array([length]),
    )  # fmt: skip
    attention = state["intermediates"]["decoder"]["layers"]["attention"]["attention"][0][:, 0].mean(1)
    rows, span = attention[:, length - 1 : length + 2], config.tokens_per_image
    seen = sum(np.asarray(rows[:, :, start : start + span]).sum(-1) for start in starts[0])
    np.testing.assert_allclose(inside.image_mass, seen, atol=1e-5)


def _whole_sequence(model, inside):
    """Prompt and answer as one row."""
    prompt = read_request(Request(MESSAGES, inside.images), model)
    pieces = {model.tokenizer.piece(number): number for number in range(model.tokenizer.vocab_size)}
    answer = [pieces[token.text] for token in inside.tokens]
    tokens = np.concatenate([prompt.tokens, answer])[None].astype(np.int32)
    return tokens, np.array([prompt.image_starts], np.int32), np.stack(inside.images)


def test_maps_are_shares_of_the_patches(model, inside):
    grid, queries = model.config.vision.grid_size, model.config.abstractor.num_queries
    assert inside.queries.shape == (2, queries, grid, grid)
    assert inside.token_looks.shape == (6, 2, grid, grid)
    for maps in (inside.queries, inside.token_looks, inside.looks):
        np.testing.assert_allclose(maps.sum((-1, -2)), 1.0, atol=1e-5)
    assert [image.shape for image in inside.images] == [(28, 28, 3)] * 2


def test_tokens_list_the_likeliest_first(inside):
    for token in inside.tokens:
        assert token.likeliest[0] == (token.text, pytest.approx(token.probability))
        chances = [chance for _, chance in token.likeliest]
        assert chances == sorted(chances, reverse=True)


def test_page_shows_models_side_by_side_and_escapes_all_text(inside):
    page = render("Is 1 < 2 & <b>red</b>?", [inside, inside])
    assert page.count("<section>") == 2
    assert "Is 1 &lt; 2 &amp; &lt;b&gt;red" in page
    assert "small &amp; &lt;odd&gt;" in page
    assert "<b>red" not in page
    assert not re.search(r'(src|href)="(?!data:)', page), "nothing is loaded from elsewhere"
    layers = len(inside.image_mass)
    assert page.count("<circle") == 2 * 2 * layers
    assert f"{inside.image_mass[0].mean():.1%} on images" in mass_chart(
        inside.text_mass.mean(1), inside.image_mass.mean(1)
    )


def test_no_image_is_an_error(model):
    with pytest.raises(Owl2Error, match="no image to look into"):
        look_inside(model, [{"role": "user", "content": "What?"}], [])
    with pytest.raises(Owl2Error, match="2 image tags"):
        look_inside(model, MESSAGES, [tiny.image(1)])
