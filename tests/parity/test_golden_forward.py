"""The ladder from part to model: every array of the original's forward passes."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.model import image_positions
from owl2_jax.model.attention import causal_segment_mask, query_segments
from owl2_jax.model.layers import LayerNorm
from owl2_jax.model.owl2 import Owl2
from tests.parity.golden import (
    FORWARD_CASES,
    MODELS,
    Case,
    apply,
    assert_close,
    case,
    load,
    padded,
    run_over_pages,
)


@pytest.mark.parametrize("model", MODELS)
def test_vision_encoder_layer_by_layer(model: str) -> None:
    config, params, golden, _ = load(model)
    pixels = golden["vision/pixel_values"].transpose(0, 2, 3, 1)
    output, seen = apply(config, lambda m, x: m.vision(x), sow=True)({"params": params}, pixels)
    seen = seen["intermediates"]["vision"]
    assert_close(seen["embedded"][0], golden["vision/embeddings"], "patches, class token, positions")
    assert_close(seen["embedded"][0], golden["vision/hidden_states"][0], "after pre_norm")
    assert_close(seen["layers"]["hidden"][0], golden["vision/hidden_states"][1:], "layers")
    assert_close(seen["layers"]["attention"]["attention"][0], golden["vision/attentions"], "attention")
    assert_close(output, golden["vision/last_hidden_state"], "all tokens, normed")


@pytest.mark.parametrize("model", MODELS)
def test_pooler_output_is_the_class_token_normed_twice(model: str) -> None:
    config, params, golden, _ = load(model)
    norm = LayerNorm(config.vision.width, config.vision.norm_eps, "vision_embed")
    class_token = jnp.asarray(golden["vision/last_hidden_state"][:, 0])
    pooled = norm.apply({"params": params["vision"]["post_norm"]}, class_token)
    assert_close(pooled, golden["vision/pooler_output"])


@pytest.mark.parametrize("model", MODELS)
def test_abstractor_layer_by_layer(model: str) -> None:
    config, params, golden, _ = load(model)
    encoded = golden["vision/last_hidden_state"]
    output, seen = apply(config, lambda m, x: m.abstractor(x), sow=True)({"params": params}, encoded)
    layers = seen["intermediates"]["abstractor"]["layers"]
    assert_close(layers["hidden"][0], golden["abstractor/layer_outputs"], "layers")
    context = layers["attention"]["context"][0]
    assert_close(
        context.reshape(*context.shape[:3], -1), golden["abstractor/attn_context"], "attention context"
    )
    assert_close(output, golden["abstractor/last_hidden_state"], "projected, with the end token")


@pytest.mark.parametrize("name", FORWARD_CASES)
@pytest.mark.parametrize("model", MODELS)
def test_expansion_and_embeddings(model: str, name: str) -> None:
    config, params, golden, _ = load(model)
    inputs = case(model, name)
    np.testing.assert_array_equal(inputs.labels, golden[f"{name}/expanded_labels"])
    np.testing.assert_array_equal(inputs.segment_ids > 0, golden[f"{name}/expanded_attention_mask"])
    batch, length = inputs.tokens.shape
    starts = image_positions.slot_starts(inputs.image_index, inputs.image_starts, length)
    is_image = image_positions.image_mask(starts, length, config.tokens_per_image)
    np.testing.assert_array_equal(is_image.astype(int), golden[f"{name}/expanded_modality"])
    if f"{name}/inputs_embeds" in golden:
        embedded = apply(config, _embed)({"params": params}, *padded(inputs, config).inputs)
        assert_close(embedded[:batch, :length], golden[f"{name}/inputs_embeds"])


def _embed(m: Owl2, tokens, positions, segment_ids, images, image_index, image_starts):
    return m.embed(tokens, m.encode_images(images), image_index, image_starts)[0]


@pytest.mark.parametrize("image_kv", ["gather", "product", "select"])
@pytest.mark.parametrize("name", FORWARD_CASES)
@pytest.mark.parametrize("model", MODELS)
def test_logits(model: str, name: str, image_kv: str) -> None:
    config, params, golden, _ = load(model)
    expected = golden[f"{name}/logits"]
    logits = apply(config.replace(image_kv=image_kv), Owl2.__call__)(
        {"params": params}, *padded(case(model, name), config).inputs
    )
    assert_close(logits[: expected.shape[0], : expected.shape[1]], expected)


@pytest.mark.parametrize("model", MODELS)
def test_text_only_batch_needs_no_image_at_all(model: str) -> None:
    config, params, golden, _ = load(model)
    inputs = case(model, "iii")
    assert inputs.images.shape[0] == 0
    assert inputs.image_index.shape[1] == 0
    logits = apply(config, Owl2.__call__)({"params": params}, *inputs.inputs)
    assert_close(logits, golden["iii/logits"])


@pytest.mark.parametrize("model", MODELS)
def test_logits_without_a_mask_look_at_the_zero_vectors_too(model: str) -> None:
    config, params, golden, _ = load(model)
    expected = golden["v_rev/logits_nolabels_nomask"]
    inputs = case(model, "v_rev")
    unmasked = dataclasses.replace(inputs, segment_ids=np.ones_like(inputs.segment_ids))
    logits = apply(config, Owl2.__call__)({"params": params}, *padded(unmasked, config).inputs)
    assert_close(logits[:, : expected.shape[1]], expected)


@pytest.mark.parametrize("model", MODELS)
def test_decoder_states_and_attention_layer_by_layer(model: str) -> None:
    config, params, golden, _ = load(model)
    hidden, seen = apply(config, Owl2.hidden, sow=True)({"params": params}, *case(model, "i").inputs)
    layers = seen["intermediates"]["decoder"]["layers"]
    expected = golden["i/hidden_states"]
    assert_close(layers["hidden"][0][:-1], expected[1:-1], "layers")
    assert_close(hidden, expected[-1], "after the final norm")
    assert_close(layers["attention"]["attention"][0], golden["i/attentions"], "attention")


@pytest.mark.parametrize("model", MODELS)
def test_pages_hold_the_originals_keys_and_values(model: str) -> None:
    config, params, golden, _ = load(model)
    hidden, pages, rows, batch = run_over_pages(config, params, case(model, "i"))
    length = case(model, "i").tokens.shape[1]
    assert_close(hidden[:length], golden["i/hidden_states"][-1][0])
    keys, values = rows.dense(pages, config.decoder.num_layers)
    assert_close(keys, golden["i/past_k"], "keys")
    assert_close(values, golden["i/past_v"], "values")
    np.testing.assert_array_equal(batch.lengths, [length])


@pytest.mark.parametrize("model", MODELS)
def test_a_left_padded_prompt_equals_the_unpadded_one(model: str) -> None:
    """The original's mask is wrong here, so ours is held against our own unpadded run."""
    config, params, golden, _ = load(model)
    padding = int(np.argmax(golden["leftpad/input_ids"][0] != 0))
    assert padding > 0
    inputs = case(model, "gen_batch")
    unpadded = Case(*(getattr(inputs, field.name)[:1] for field in dataclasses.fields(inputs)))
    np.testing.assert_array_equal(
        unpadded.tokens[unpadded.tokens > 0],
        [token for token in golden["leftpad/input_ids"][0, padding:] if token != -200],
    )

    def left(x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, 0), (padding, 0)))

    moved = dataclasses.replace(
        unpadded,
        tokens=left(unpadded.tokens),
        positions=left(unpadded.positions),
        segment_ids=left(unpadded.segment_ids),
        image_starts=unpadded.image_starts + padding,
        labels=left(unpadded.labels),
    )
    run = apply(config, Owl2.__call__)
    expected = run({"params": params}, *padded(unpadded, config).inputs)
    actual = run({"params": params}, *padded(moved, config).inputs)
    length = unpadded.tokens.shape[1]
    assert_close(actual[:1, padding : padding + length], expected[:1, :length])


def test_attention_mask_with_packed_segments_and_padding() -> None:
    segments = jnp.asarray([[1, 1, 2, 2, 0]])
    mask = causal_segment_mask(query_segments(segments), segments)
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]]
    np.testing.assert_array_equal(mask[0].astype(int), expected)
