import jax
import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.parallel import mesh as meshes
from owl2_jax.parallel.mesh import make_mesh, parse_mesh, resolve_axes


def test_every_mesh_has_the_four_axes_outermost_first():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    assert dict(mesh.shape) == {"dcn": 1, "data": 1, "fsdp": 4, "tensor": 2}
    ids = [[device.id for device in row] for row in np.squeeze(mesh.devices)]
    assert ids == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_minus_one_takes_the_devices_that_are_left():
    assert resolve_axes({"data": -1, "tensor": 2}, 8)["data"] == 4
    assert resolve_axes({"data": -1}, 1) == {"dcn": 1, "data": 1, "fsdp": 1, "tensor": 1}


def test_wrong_product_is_refused_with_the_arithmetic():
    with pytest.raises(Owl2Error, match=r"fsdp 3 \* tensor 2 = 6, but there are 8 devices"):
        make_mesh({"fsdp": 3, "tensor": 2})


def test_rest_that_is_no_whole_number_is_refused_with_the_arithmetic():
    with pytest.raises(Owl2Error, match=r"tensor 3 = 3 does not divide 8 devices, so data = -1"):
        make_mesh({"data": -1, "tensor": 3})


def test_two_open_axes_and_sizes_below_one_are_refused():
    with pytest.raises(Owl2Error, match="data and fsdp are both -1"):
        resolve_axes({"data": -1, "fsdp": -1}, 8)
    with pytest.raises(Owl2Error, match="tensor has size 0"):
        resolve_axes({"tensor": 0}, 8)


def test_unknown_axis_and_preset_name_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'tensor'"):
        make_mesh({"tensr": 2})
    with pytest.raises(UnknownNameError, match="did you mean 'v5e-256'"):
        parse_mesh("v5e-265")


def test_mesh_text_is_a_preset_or_axis_sizes():
    assert parse_mesh("fsdp=4,tensor=2") == {"fsdp": 4, "tensor": 2}
    assert parse_mesh("v5e-256") == {"fsdp": 256}
    with pytest.raises(Owl2Error, match="gives data twice; leave one out"):
        parse_mesh("data=1,data=2")
    with pytest.raises(Owl2Error, match="'tensor=two' is not axis=size"):
        parse_mesh("fsdp=4,tensor=two")


@pytest.mark.parametrize("name", meshes.PRESETS)
def test_presets_use_every_chip(name):
    preset = meshes.preset(name)
    resolve_axes(preset.axes, preset.devices)
    assert int(name.rsplit("-", 1)[1]) == preset.devices


def test_slices_must_be_the_dcn_axis():
    class Chip:
        platform = "tpu"

        def __init__(self, number):
            self.id, self.slice_index = number, number // 4

    with pytest.raises(Owl2Error, match=r"dcn is 1, but the 8 devices are 2 slices of 4; set dcn = 2"):
        make_mesh({"fsdp": 8}, [Chip(number) for number in range(8)])


def test_axis_size_is_a_product():
    mesh = make_mesh({"data": 2, "fsdp": 4}, jax.devices())
    assert meshes.axis_size(mesh, ("data", "fsdp")) == 8
    assert meshes.axis_size(mesh, "fsdp") == 4
    assert meshes.axis_size(mesh, None) == 1
