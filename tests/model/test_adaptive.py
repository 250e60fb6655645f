from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from owl2_jax.convert.formats import text_twin
from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.core.tree import flatten, unflatten
from owl2_jax.model import adaptive
from owl2_jax.model.config import DecoderConfig
from owl2_jax.model.owl2 import Owl2
from owl2_jax.testing import tiny


@pytest.mark.parametrize(
    ("written", "name", "parts"),
    [
        ("full", "full", {"norms", "k", "v"}),
        ("norms+k+v", "full", {"norms", "k", "v"}),
        ("full+q", "all", {"norms", "q", "k", "v"}),
        ("v + k", "kv", {"k", "v"}),
        ("q+norms", "norms+q", {"norms", "q"}),
        ("k", "k", {"k"}),
        ("none", "none", set()),
    ],
)
def test_a_set_is_names_and_parts_joined(written: str, name: str, parts: set[str]) -> None:
    assert adaptive.parts(written) == parts
    assert adaptive.canonical(written) == name
    assert DecoderConfig(adaptive=written) == DecoderConfig(adaptive=name)


def test_every_set_has_one_spelling() -> None:
    sets = [c for n in range(5) for c in itertools.combinations(adaptive.PARTS, n)]
    spelt = {adaptive.canonical("+".join(chosen) or "none") for chosen in sets}
    assert len(spelt) == len(sets) == 16


@pytest.mark.parametrize("decoder", [{}, tiny.OWL2_1], ids=["owl2", "owl2_1"])
@pytest.mark.parametrize("chosen", ["q", "all"])
def test_a_set_adapts_its_parts_on_either_decoder(chosen: str, decoder: dict) -> None:
    config = tiny.tiny_config(**{**decoder, "decoder.adaptive": chosen})
    params = tiny.tiny_params(config)
    inputs = {name: value for name, value in tiny.tiny_inputs(config).items() if name != "labels"}

    def logits(params: dict, **changes: str) -> jax.Array:
        return Owl2(config.replace(**changes)).apply({"params": params}, **inputs)

    real = inputs["segment_ids"][:, :, None]
    loss = lambda params: jnp.sum(jnp.cos(logits(params)) * real)
    grads = flatten(jax.jit(jax.grad(loss))(params))
    parts = {"q": ["q"], "all": ["q", "k", "v", "attention_norm", "mlp_norm"]}[chosen]
    image = {name for name in grads if "_image/" in name}
    assert {name.split("/")[-2].removesuffix("_image") for name in image} == set(parts)
    # A bias of keys is the same for all keys of a query, except that they are turned.
    assert all(np.abs(np.asarray(grads[name])).max() > 1e-6 for name in image)
    gathered = jax.jit(logits)(params)
    for image_kv in ("select", "product"):
        found = jax.jit(functools.partial(logits, image_kv=image_kv))(params)
        np.testing.assert_allclose(gathered * real, found * real, atol=1e-4)
    # With both copies alike it is the plain decoder.
    flat = flatten(params)
    alike = {name: flat[text_twin(name)] if name in image else leaf for name, leaf in flat.items()}
    plain = {name: leaf for name, leaf in flat.items() if name not in image}
    found = jax.jit(functools.partial(logits, **{"decoder.adaptive": "none"}))(unflatten(plain))
    np.testing.assert_allclose(jax.jit(logits)(unflatten(alike)) * real, found * real, atol=1e-4)


def test_other_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'norm'.*norms"):
        adaptive.parts("q+norm")
    with pytest.raises(Owl2Error, match="joins none with something"):
        adaptive.parts("none+q")
    with pytest.raises(UnknownNameError):
        adaptive.parts("")
