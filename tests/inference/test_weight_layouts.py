"""The decoder's matrices as they lie while they serve."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from owl2_jax.core.tree import flatten
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.quantize import quantize_model
from owl2_jax.inference.weight_layouts import lay_out, served_order
from owl2_jax.testing import tiny


@pytest.mark.parametrize(
    ("name", "names", "order"),
    [
        ("decoder/layers/attention/q/kernel", ("layers", "embed", "heads", "head_dim"), (0, 2, 3, 1)),
        ("decoder/layers/mlp/gate/kernel", ("layers", "embed", "hidden"), (0, 1, 2)),
        ("decoder/layers/mlp/down/kernel", ("layers", "hidden", "embed"), None),
        ("decoder/layers/attention/q/lora_a", ("layers", "embed", None), None),
        ("decoder/head/kernel", ("embed", "vocab"), None),
        ("abstractor/layers/mlp/gate/kernel", ("layers", "embed", "hidden"), None),
    ],
)
def test_the_width_is_innermost_in_what_makes_heads(name, names, order):
    assert served_order(name, names) == order


@pytest.mark.parametrize("int8", [False, True])
def test_matrices_lie_otherwise_and_hold_the_same_numbers(toy_tokenizer, int8):
    config = tiny.tiny_config()
    model = LoadedModel(config, jax.device_put(tiny.tiny_params(config)), toy_tokenizer)
    model = quantize_model(model) if int8 else model
    before = {name: (leaf, np.array(leaf)) for name, leaf in flatten(model.params).items()}
    after = flatten(lay_out(model).params)
    for name, (leaf, numbers) in before.items():
        np.testing.assert_array_equal(np.asarray(after[name]), numbers)
        assert leaf.is_deleted() == (leaf is not after[name])
    moved = {name.split("/")[-2] for name, (leaf, _) in before.items() if leaf is not after[name]}
    assert moved == {"q", "k_text", "k_image", "v_text", "v_image"}
    key = after["decoder/layers/attention/k_image/kernel"]
    assert key.format.layout.major_to_minor == (0, 2, 3, 1)
