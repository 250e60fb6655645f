import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import flatten
from owl2_jax.model.config import LoraConfig
from owl2_jax.model.owl2 import abstract_params, logical_axes
from owl2_jax.parallel import shardings
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.testing import tiny


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"data": 2, "fsdp": 2, "tensor": 2})


def test_parameters_lie_as_the_table_says(mesh, tiny_config):
    stored = shardings.param_shardings(logical_axes(tiny_config), mesh)
    layers = stored["decoder"]["layers"]
    assert layers["attention"]["k_image"]["kernel"].spec == P(None, "fsdp", "tensor", None)
    assert layers["mlp"]["down"]["kernel"].spec == P(None, "tensor", "fsdp")
    assert stored["decoder"]["embedding"].spec == P("tensor", "fsdp")
    assert stored["decoder"]["final_norm"]["scale"].spec == P(None)


def test_the_fused_projection_of_owl2_1_is_cut_by_heads(mesh):
    """Its three parts are leaves of ours: a device has whole heads of each, their biases and adapters."""
    config = tiny.tiny_config(**tiny.OWL2_1).replace(
        lora=LoraConfig(rank=4, targets=("qkv_text", "qkv_image", "out"))
    )
    stored = flatten(shardings.param_shardings(logical_axes(config), mesh))
    place = "decoder/layers/attention"
    for branch in (("q", "k_text", "v_text"), ("q_image", "k_image", "v_image")):
        for name in branch:
            assert stored[f"{place}/{name}/kernel"].spec == P(None, "fsdp", "tensor", None)
            assert stored[f"{place}/{name}/bias"].spec == P(None, "tensor", None)
    assert stored[f"{place}/out/kernel"].spec == P(None, "tensor", None, "fsdp")
    for fused in ("qkv_text", "qkv_image"):
        assert stored[f"{place}/{fused}/lora_a"].spec == P(None, "fsdp", None)
        for which in "qkv":
            assert stored[f"{place}/{fused}/{which}/lora_b"].spec == P(None, None, "tensor", None)


def test_optimiser_states_lie_like_their_parameters(mesh, tiny_config):
    params, axes = abstract_params(tiny_config), logical_axes(tiny_config)
    stored = shardings.param_shardings(axes, mesh)
    labels = {"vision": "held", "abstractor": "trained", "decoder": "trained"}
    optimizer = optax.multi_transform({"held": optax.set_to_zero(), "trained": optax.adamw(1e-3)}, labels)
    state = {"params": params, "optimizer": jax.eval_shape(optimizer.init, params), "step": jnp.zeros(())}
    placed = shardings.like_params(state, stored, params, mesh)
    assert placed["params"] == stored
    assert placed["step"].spec == P()
    adam = placed["optimizer"].inner_states["trained"].inner_state[0]
    assert adam.mu["decoder"] == adam.nu["decoder"] == stored["decoder"]
    assert adam.count.spec == P()


def test_axis_that_does_not_divide_is_refused_with_the_arithmetic():
    config = tiny.tiny_config()
    mesh = make_mesh({"fsdp": 2, "tensor": 4})
    with pytest.raises(Owl2Error, match=r"axis kv_heads of 2 .* mesh axis tensor of 4: 2 = 0 \* 4 \+ 2"):
        shardings.check_params(
            {"decoder": logical_axes(config)["decoder"]},
            {"decoder": abstract_params(config)["decoder"]},
            mesh,
        )


def test_batch_that_does_not_divide_is_refused_with_the_arithmetic(mesh):
    shardings.check_batch(8, mesh)
    with pytest.raises(Owl2Error, match=r"10 batch rows .* = 4: 10 = 2 \* 4 \+ 2; use 8 or 12"):
        shardings.check_batch(10, mesh)
    with pytest.raises(Owl2Error, match=r"accumulation 3 = 12: 8 = 0 \* 12 \+ 8; use 12"):
        shardings.check_batch(8, mesh, accumulation=3)


def test_batch_and_cache_are_cut_over_the_batch_axes(mesh):
    batch_axes = ("dcn", "data", "fsdp")
    assert shardings.batch_sharding(mesh).spec == P(batch_axes)
    assert shardings.batch_sharding(mesh, accumulated=True).spec == P(None, batch_axes)
    assert shardings.cache_shardings(mesh)["keys"].spec == P(None, batch_axes, "tensor", None, None)
    assert shardings.batch_ways(mesh) == 4
