"""The decoder's matrices as they lie while they serve."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from owl2_jax.core.tree import flatten
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.merged_projections import joined
from owl2_jax.inference.quantize import quantize_model
from owl2_jax.inference.weight_layouts import lay_out, served_names, served_order
from owl2_jax.model.owl2 import logical_axes
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.parallel.shardings import param_shardings
from owl2_jax.testing import tiny


@pytest.mark.parametrize(
    ("name", "names", "order"),
    [
        ("decoder/layers/attention/q/kernel", ("layers", "embed", "heads", "head_dim"), (0, 2, 3, 1)),
        (
            "decoder/layers/attention/q_k_text_v_text/kernel",
            ("layers", "embed", "kv_heads", "qkv", "head_dim"),
            (0, 2, 3, 4, 1),
        ),
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
    apart = ("q", "k_text", "v_text")
    merged = {name: leaf for name, leaf in after.items() if "q_k_text_v_text" in name}
    for name, (leaf, numbers) in before.items():
        if name.startswith(tuple(f"decoder/layers/attention/{part}/" for part in apart)):
            assert leaf.is_deleted()
            continue
        np.testing.assert_array_equal(np.asarray(after[name]), numbers)
        assert leaf.is_deleted() == (leaf is not after[name])
    moved = {name.split("/")[-2] for name, (leaf, _) in before.items() if leaf is not after.get(name)}
    assert moved == {*apart, "k_image", "v_image"}
    key = after["decoder/layers/attention/k_image/kernel"]
    assert key.format.layout.major_to_minor == (0, 2, 3, 1)
    assert {name.split("/")[-1] for name in merged} == {"kernel"} | ({"kernel_scale"} if int8 else set())
    for name, leaf in merged.items():
        parts = [before[name.replace("q_k_text_v_text", part)][1] for part in apart]
        np.testing.assert_array_equal(leaf, joined(*parts))
        assert name.endswith("scale") or leaf.format.layout.major_to_minor == (0, 2, 3, 4, 1)


def test_merged_projections_are_cut_as_their_heads_are(toy_tokenizer):
    config = tiny.tiny_config(**{"decoder.num_kv_heads": 2})
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    params = jax.device_put(tiny.tiny_params(config), param_shardings(logical_axes(config), mesh))
    found = lay_out(LoadedModel(config, params, toy_tokenizer, mesh=mesh)).params
    leaf = found["decoder"]["layers"]["attention"]["q_k_text_v_text"]["kernel"]
    decoder = config.decoder
    group = decoder.num_heads // 2 + 2
    assert leaf.shape == (decoder.num_layers, decoder.width, 2, group, decoder.head_dim)
    assert leaf.sharding.spec == P(None, "fsdp", "tensor", None, None)
    assert served_names(config)["decoder"]["layers"]["attention"]["q_k_text_v_text"]["kernel"] == (
        "layers", "embed", "kv_heads", "qkv", "head_dim",
    )  # fmt: skip
