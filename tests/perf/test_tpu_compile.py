"""What `owl2 fit` reads out of a compiled program, with the CPU compiler in the place of the TPU one."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel.chips import GIB, parse_topology
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.perf import tpu_compile

TOPOLOGY = parse_topology("v5e:2x4")


def placed(shape, spec, mesh):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=jax.NamedSharding(mesh, spec))


def test_memory_flops_and_network_of_a_compiled_program():
    mesh = make_mesh({"fsdp": 8})
    x, w = placed((64, 256), P("fsdp"), mesh), placed((256, 512), P("fsdp"), mesh)
    run = jax.jit(lambda x, w: x @ w, out_shardings=jax.NamedSharding(mesh, P("fsdp")))
    products = 2 * 64 * 256 * 512
    found = tpu_compile.compile_for(
        run.lower(x, w), TOPOLOGY, {"rows": x, "weights": w}, 2 * products, products
    )
    assert found.memory.parts == {"rows": 8 * 256 * 4, "weights": 32 * 512 * 4}
    assert found.memory.arguments == sum(found.memory.parts.values())
    assert found.memory.outputs == 8 * 512 * 4
    assert found.memory.fits
    assert found.memory.needed >= found.memory.arguments + found.memory.outputs + 256 * 512 * 4
    line = found.roofline
    assert line.products == 2 * products / 8 / 197e12
    gathered = 7 / 8 * 256 * 512 * 4
    assert line.network == pytest.approx(gathered / TOPOLOGY.receive_rate(8))
    # The CPU's compiler starts no collective ahead.
    assert line.waiting == line.network
    assert line.step == max(line.products + line.waiting, line.memory) == line.terms[line.limit]
    assert line.mfu == pytest.approx(products / 8 / 197e12 / line.step)
    # Without estimates, what is left are the bytes and the network, one after the other.
    assert found.seconds == found.forecast.seconds >= line.network


class Failing:
    def __init__(self, message):
        self.message = message

    def compile(self, compiler_options=None):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
        "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
        "(20.50G) exceeds available HBM (15.75G).",
    ],
)
def test_program_that_does_not_fit_says_how_much_it_wanted(message):
    mesh = make_mesh({"fsdp": 8})
    state = placed((1024, 1024), P("fsdp"), mesh)
    found = tpu_compile.compile_for(Failing(message), TOPOLOGY, {"state": state}, 1.0, 1.0)
    assert not found.memory.fits
    assert found.roofline is None
    assert (found.memory.needed, found.memory.capacity) == (20.5 * GIB, 15.75 * GIB)
    assert found.memory.temporary == 20.5 * GIB - 128 * 1024 * 4


def test_other_failures_of_the_compiler_are_told():
    with pytest.raises(Owl2Error, match="the TPU compiler failed: INTERNAL: Mosaic failed"):
        tpu_compile.compile_for(Failing("INTERNAL: Mosaic failed\nmore"), TOPOLOGY, {}, 1.0, 1.0)


def test_a_text_that_cannot_be_read_keeps_what_was_compiled():
    class Unreadable:
        def compile(self, compiler_options=None):
            return self

        def memory_analysis(self):
            return SimpleNamespace(
                output_size_in_bytes=8, alias_size_in_bytes=8, generated_code_size_in_bytes=1,
                argument_size_in_bytes=16, temp_size_in_bytes=100,
            )  # fmt: skip

        def as_text(self):
            raise jax.errors.JaxRuntimeError("async-update instruction should have 1 operands but sees 3\nat")

    found = tpu_compile.compile_for(Unreadable(), TOPOLOGY, {}, 1.0, 1.0)
    assert (found.memory.needed, found.memory.fits) == (117, True)
    assert found.unread == "async-update instruction should have 1 operands but sees 3"
    assert (found.roofline, found.forecast, found.seconds) == (None, None, None)


def test_a_compiler_that_does_not_go_with_jax_is_refused_before_a_topology_is_asked_for(monkeypatch):
    def refuse():
        raise Owl2Error("libtpu 0.0.52 does not go with jax 0.10.2")

    monkeypatch.setattr(tpu_compile, "check_compiler", refuse)
    with pytest.raises(Owl2Error, match=r"libtpu 0\.0\.52 does not go"):
        tpu_compile.topology_devices(TOPOLOGY)


@pytest.mark.parametrize(
    ("name", "wrap", "host"),
    [
        ("v5e:16x16", [1, 1, 0], [2, 2, 1]),
        ("v5e:4x16", [0, 1, 0], [2, 2, 1]),
        ("v5e:2x2", [0, 0, 0], [2, 2, 1]),
        ("v5p:4x4x8", [1, 1, 1], [2, 2, 1]),
        ("v5p:2x4x4", [0, 0, 0], [2, 2, 1]),
        ("v6e:1x1", [0, 0, 0], [1, 1, 1]),
    ],
)
def test_the_compiler_is_told_rings_and_chips_of_a_host(monkeypatch, name, wrap, host):
    asked = []

    def describe(platform, topology_name, **settings):
        asked.append((platform, topology_name, settings))
        return SimpleNamespace(devices=())

    monkeypatch.setattr(tpu_compile, "check_compiler", lambda: None)
    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", describe)
    assert tpu_compile.topology_devices(parse_topology(name)) == []
    assert asked == [("tpu", name, {"wrap": wrap, "chips_per_host_bounds": host})]


def test_options_reach_the_compiler():
    mesh = make_mesh({"fsdp": 8})
    lowered = jax.jit(lambda x: x + 1).lower(placed((8, 8), P("fsdp"), mesh))
    with pytest.raises(Owl2Error, match=r"the TPU compiler failed: .*no_such_option"):
        tpu_compile.compile_for(lowered, TOPOLOGY, {}, 1.0, 1.0, {"no_such_option": "1"})
