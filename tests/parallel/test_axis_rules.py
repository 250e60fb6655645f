import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from owl2_jax.core import axes
from owl2_jax.core.errors import UnknownNameError
from owl2_jax.parallel import axis_rules
from owl2_jax.parallel.mesh import MESH_AXES, make_mesh


def test_table_places_every_logical_axis_on_known_mesh_axes():
    assert set(axis_rules.TABLE) == {*axes.PARAMETER_AXES, *axes.ACTIVATION_AXES}
    for wanted in (*axis_rules.STORAGE.values(), *axis_rules.COMPUTE.values()):
        names = (wanted,) if isinstance(wanted, str) else wanted or ()
        assert set(names) <= set(MESH_AXES)


def test_matrices_are_stored_in_pieces_and_gathered_for_use():
    names = (axes.LAYERS, axes.EMBED, axes.HIDDEN)
    assert axis_rules.storage_spec(names) == P(None, "fsdp", "tensor")
    assert axis_rules.compute_spec(names) == P(None, None, "tensor")


def test_vectors_are_stored_whole_along_fsdp():
    assert axis_rules.storage_spec((axes.LAYERS, axes.EMBED)) == P(None, None)
    assert axis_rules.storage_spec((axes.HIDDEN,)) == P("tensor")


def test_first_dimension_that_asks_gets_the_mesh_axis():
    assert axis_rules.storage_spec((axes.VISION_EMBED, axes.EMBED)) == P("fsdp", None)


def test_unknown_logical_axis_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'embed'"):
        axis_rules.storage_spec(("embd", "hidden"))


def test_activate_constrains_what_is_traced_inside_it():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})

    def double(x):
        return nn.with_logical_constraint(x * 2, (axes.BATCH, axes.ACT_HIDDEN))

    placed = jax.device_put(jnp.ones((8, 4)), jax.NamedSharding(mesh, P()))
    assert jax.jit(axis_rules.activate(mesh)(double))(placed).sharding.spec == P("fsdp", "tensor")
    assert jax.jit(double)(placed).sharding.is_fully_replicated
