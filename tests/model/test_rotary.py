from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.model import rotary
from owl2_jax.model.config import DecoderConfig
from owl2_jax.model.owl2 import Owl2
from owl2_jax.testing import tiny

RULES = DecoderConfig(
    width=64, num_heads=4, num_kv_heads=4, max_length=1000, trained_length=32, dynamic_ntk=True, logn=True
)
PLAIN = DecoderConfig(width=64, num_heads=4, num_kv_heads=4)


def original_alpha(length: int, trained: int) -> float:
    """As the original writes it, which is exact for these lengths."""
    return max(2 ** math.ceil(math.log2(length / trained) + 1) - 1, 1)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65, 128, 129, 500, 1000])
def test_the_base_follows_the_length_of_the_prompt(length: int) -> None:
    base = rotary.rotary_base(RULES, jnp.array([[length]]))
    expected = RULES.rope_theta * original_alpha(length, 32) ** (16 / 14)
    np.testing.assert_allclose(np.asarray(base), [[expected]], rtol=1e-6)
    assert 2 ** (rotary.doublings(RULES, length) + 1) - 1 == original_alpha(length, 32)


def test_every_token_has_the_base_of_its_own_prompt() -> None:
    lengths = jnp.array([[20, 40], [33, 70]])
    together = rotary.rotary_base(RULES, lengths)
    for place in np.ndindex(2, 2):
        alone = rotary.rotary_base(RULES, lengths[place].reshape(1, 1))
        assert together[place] == alone[0, 0]


def test_angles_of_one_base_and_of_many_are_the_same() -> None:
    positions = jnp.arange(10)[None]
    one = rotary.rope_angles(positions, 16, 500.0)
    many = rotary.rope_angles(positions, 16, jnp.full((1, 10), 500.0))
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_queries_grow_with_the_logarithm_of_their_index_beyond_the_trained_length() -> None:
    positions = jnp.array([[0, 30, 31, 32, 99]])
    scale = rotary.query_scale(RULES, positions, jnp.array([[100]]))
    expected = [1, 1, 1, math.log(33) / math.log(32), math.log(100) / math.log(32)]
    np.testing.assert_allclose(np.asarray(scale)[0, :, 0, 0], expected, rtol=1e-6)


def test_training_and_other_decoders_know_neither_rule() -> None:
    positions = jnp.arange(100)[None]
    assert rotary.rotary_base(RULES, None) == RULES.rope_theta
    assert rotary.query_scale(RULES, positions, None) is None
    assert rotary.rotary_base(PLAIN, jnp.array([[5000]])) == PLAIN.rope_theta
    assert rotary.query_scale(PLAIN, positions, jnp.array([[5000]])) is None
    assert rotary.doublings(PLAIN, 5000) == 0


def test_samples_of_a_packed_row_are_turned_and_scaled_as_each_alone() -> None:
    """Given the length of its own sample for every token."""
    config = tiny.tiny_config(**{**tiny.OWL2_1, "decoder.trained_length": 4})
    params = tiny.tiny_params(config)
    tokens = np.random.default_rng(0).integers(3, 300, 20).astype(np.int32)
    none = np.zeros((1, 0), np.int32)

    def logits(samples: list[np.ndarray]) -> np.ndarray:
        lengths = [len(sample) for sample in samples]
        segments = np.repeat(np.arange(len(samples), dtype=np.int32) + 1, lengths)
        positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
        keys = np.repeat(np.array(lengths, np.int32), lengths)
        rows = [part[None] for part in (np.concatenate(samples), positions, segments)]
        images = np.zeros((0, 28, 28, 3), np.uint8)
        return Owl2(config).apply({"params": params}, *rows, images, none, none, keys[None])[0]

    samples = [tokens[:3], tokens[3:8], tokens[8:]]
    alone = np.concatenate([logits([sample]) for sample in samples])
    np.testing.assert_allclose(logits(samples), alone, atol=1e-4)


def test_a_rule_without_a_length_to_begin_at_is_refused() -> None:
    for rule in ("dynamic_ntk", "logn"):
        with pytest.raises(Owl2Error, match=rf"model\.decoder\.{rule} needs model\.decoder\.trained_length"):
            DecoderConfig(**{rule: True})
    with pytest.raises(Owl2Error, match="trained_length"):
        DecoderConfig(logn=True, trained_length=1)
    with pytest.raises(Owl2Error, match="heads of at least 4"):
        DecoderConfig(width=64, num_heads=32, num_kv_heads=32, dynamic_ntk=True, trained_length=8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_turning_by_a_product_gives_the_same_bits(dtype: str) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 3, 16)), dtype)
    sin, cos = rotary.rope_angles(jnp.arange(14).reshape(2, 7), 16, 1e4)
    cut = rotary.apply_rope(x, sin, cos)
    turned = rotary.apply_rope(x, sin, cos, by_product=True)
    assert turned.dtype == cut.dtype
    np.testing.assert_array_equal(np.asarray(turned, np.float32), np.asarray(cut, np.float32))


@pytest.mark.parametrize(("groups", "scaled"), [(1, False), (3, False), (3, True)])
def test_pairs_are_turned_to_the_bits_of_queries_keys_and_values_by_themselves(
    groups: int, scaled: bool
) -> None:
    draws = np.random.default_rng(0)
    q, k, v = (jnp.asarray(draws.normal(size=(5, 1, heads, 8)), jnp.bfloat16) for heads in (2 * groups, 2, 2))
    sin, cos = rotary.rope_angles(jnp.arange(40, 45, dtype=jnp.int32)[:, None], 8, 10000.0)
    scale = jnp.linspace(1.0, 1.3, 5).reshape(5, 1, 1, 1) if scaled else None
    found, pairs = rotary.rotate_pairs(q, k, v, sin, cos, scale)
    factor = 1.0 if scale is None else scale
    np.testing.assert_array_equal(found, rotary.apply_rope(q, sin * factor, cos * factor, by_product=True))
    np.testing.assert_array_equal(pairs[..., 0::2, :], rotary.apply_rope(k, sin, cos, by_product=True))
    np.testing.assert_array_equal(pairs[..., 1::2, :], v)


def test_channels_rolled_by_half_are_turned_alike() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 10, 3, 16)), jnp.float32)
    sin, cos = rotary.rope_angles(jnp.asarray([range(10), range(5, 15)]), 16, 500.0)
    halves = rotary.rolled_angles(sin, cos, 16)
    whole = rotary.rolled_angles(*(rotary.over_both_halves(angle, 16) for angle in (sin, cos)), 16)
    jax.tree.map(np.testing.assert_array_equal, halves, whole)
    rolled_sin, rolled_cos = (angle[:, :, None] for angle in halves)
    found = x * rolled_cos + jnp.roll(x, 8, axis=-1) * rolled_sin
    np.testing.assert_allclose(found, rotary.apply_rope(x, sin, cos), atol=1e-6)
