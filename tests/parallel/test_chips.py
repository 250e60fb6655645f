from types import SimpleNamespace

import pytest

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.parallel import chips, mesh


def test_topology_has_its_chips():
    topology = chips.parse_topology("v5p:4x4x4")
    assert (topology.count, topology.chip) == (64, chips.CHIPS["v5p"])


@pytest.mark.parametrize("name", ["v5e:4x4x4", "v5p:4x4", "v5e", "v5e:4xfour", "v5e:0x4"])
def test_shape_of_the_wrong_kind_is_refused(name):
    with pytest.raises(Owl2Error, match=r"has [23] dimensions, for example v5"):
        chips.parse_topology(name)


def test_unknown_generation_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'v5"):
        chips.parse_topology("v5:4x4")


def test_rate_depends_on_rings_and_directions():
    pod, corner = chips.parse_topology("v5e:16x16"), chips.parse_topology("v5e:4x4")
    link = chips.CHIPS["v5e"].link
    assert pod.receive_rate(256) == 4 * link  # two rings, two neighbours each
    assert pod.receive_rate(16) == 2 * link
    assert corner.receive_rate(16) == 2 * link  # open lines: one neighbour at the ends
    assert chips.parse_topology("v5p:4x4x4").receive_rate(64) == 600e9
    assert chips.parse_topology("v5p:2x4x4").receive_rate(32) == 300e9  # part of a cube: no rings


def test_devices_are_found_by_what_they_call_themselves():
    def kind(text):
        return chips.chip_of(SimpleNamespace(device_kind=text))

    assert kind("TPU v5 lite") is chips.CHIPS["v5e"]
    assert kind("TPU v5p") is kind("TPU v5") is chips.CHIPS["v5p"]
    assert kind("TPU v6 lite") is chips.CHIPS["v6e"]
    assert kind("NVIDIA H200") is chips.CHIPS["h200"]
    assert kind("NVIDIA H100 80GB HBM3") is chips.CHIPS["h100"]
    assert kind("cpu") is None


def test_mesh_presets_with_a_topology_have_as_many_chips():
    for preset in mesh.PRESETS.values():
        if preset.topology:
            assert chips.parse_topology(preset.topology).count == preset.devices
