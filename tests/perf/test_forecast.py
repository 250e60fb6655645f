"""The forecast of a step, and what it consists of."""

import pytest

from owl2_jax.parallel import chips
from owl2_jax.perf import forecast
from owl2_jax.perf.hlo import read_module
from tests.perf.scheduled import CHIP, estimate, program


@pytest.fixture
def topology(monkeypatch):
    monkeypatch.setitem(chips.CHIPS, "round", CHIP)
    return chips.Topology("round:2x2", "round", (2, 2))


BODIES = """\
%product (a: bf16[64,32], b: bf16[32,16]) -> bf16[64,16] {
  %a = bf16[64,32]{1,0} parameter(0)
  %b = bf16[32,16]{1,0} parameter(1)
  ROOT %c = bf16[64,16]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%turned (d: bf16[64,32]) -> bf16[32,64] {
  %d = bf16[64,32]{1,0} parameter(0)
  ROOT %e = bf16[32,64]{1,0} transpose(%d), dimensions={1,0}
}

%scaled (f: bf16[64,32]) -> bf16[64,32] {
  %f = bf16[64,32]{1,0} parameter(0)
  ROOT %g = bf16[64,32]{1,0} multiply(%f, %f)
}

%cut (h: f32[4,64]) -> f32[1,64] {
  %h = f32[4,64]{1,0} parameter(0)
  %zero = s32[] constant(0)
  ROOT %i = f32[1,64]{1,0} dynamic-slice(%h, %zero, %zero), dynamic_slice_sizes={1,64}
}

%narrow (j: f32[64]) -> bf16[64] {
  %j = f32[64]{0} parameter(0)
  ROOT %k = bf16[64]{0} convert(%j)
}
"""


def line(name, shape, operands, body, scope, cycles):
    note = f'metadata={{op_name="jit(step)/{scope}"}}'
    return f"  %{name} = {shape} fusion({operands}), kind=kLoop, calls=%{body}, {note}, {estimate(cycles)}\n"


STEP = (
    "  %x = bf16[64,32]{1,0} parameter(0)\n  %w = bf16[32,16]{1,0} parameter(1)\n"
    "  %s = f32[4,64]{1,0} parameter(2)\n  %v = f32[64]{0} parameter(3)\n"
    + line(
        "up", "bf16[64,16]{1,0}", "%x, %w", "product", "decoder/while/body/layers/mlp/up/dot_general", 90_000
    )
    + line(
        "turn", "bf16[32,64]{1,0}", "%x", "turned", "decoder/while/body/layers/attention/transpose", 80_000
    )
    + line("norm", "bf16[64,32]{1,0}", "%x", "scaled", "decoder/while/body/layers/layers._norm/mul", 70_000)
    + line(
        "act", "bf16[64,32]{1,0}", "%x", "scaled", "Owl2.encode_images/vision/while/layers/mlp/mul", 60_000
    )
    + line("slice", "f32[1,64]{1,0}", "%s", "cut", "decoder/while/body/dynamic_slice", 50_000)
    + line("small", "bf16[64]{0}", "%v", "narrow", "jvp()/while/decoder.logits/head/convert", 40_000)
    + line("adam", "bf16[64,32]{1,0}", "%x", "scaled", "mul", 30_000)
    + "  ROOT %zeros = f32[64]{0} broadcast(%v), dimensions={0}, "
    + estimate(20_000)
)


def test_step_is_the_sum_of_the_estimates_and_every_operation_has_its_part_and_kind(topology):
    found = forecast.forecast(read_module(program(STEP, BODIES)), topology)
    assert found.seconds == pytest.approx(440e-6)
    assert [(op.name, op.part, op.kind) for op in found.ops] == [
        ("up", "decoder", "product"),
        ("turn", "decoder", "layout copy"),
        ("norm", "decoder", "norm"),
        ("act", "vision", "elementwise"),
        ("slice", "decoder", "cut"),
        ("small", "head", "convert"),
        ("adam", forecast.REST, "elementwise"),
        ("zeros", forecast.REST, "fill"),
    ]
    assert found.ops[0].flops == 2 * 64 * 32 * 16
    by = {(group.part, group.kind): group.seconds for group in forecast.groups(found.ops)}
    assert by["decoder", "product"] == pytest.approx(90e-6)
    assert sum(by.values()) == pytest.approx(found.seconds)


def test_an_instruction_takes_at_least_the_time_of_its_bytes(topology):
    body = "  %x = f32[8000]{0} parameter(0)\n  ROOT %y = f32[8000]{0} negate(%x), "
    for cycles, nanoseconds in ((10, 64_000), (100_000, 100_000)):
        found = forecast.forecast(read_module(program(body + estimate(cycles))), topology)
        assert found.seconds == pytest.approx(nanoseconds * 1e-9)


def test_a_collective_that_waits_is_network_of_the_part_it_serves(topology):
    body = (
        "  %x = f32[2000]{0} parameter(0)\n"
        "  ROOT %sum = f32[2000]{0} all-reduce(%x), replica_groups=[1,4]<=[4], to_apply=%add, "
        'metadata={op_name="jit(step)/decoder/while/body/layers/mlp/up/dot_general"}'
    )
    add = "%add (p: f32[]) -> f32[] {\n  ROOT %p = f32[] parameter(0)\n}\n"
    found = forecast.forecast(read_module(program(body, add)), topology)
    (op,) = found.ops
    assert (op.part, op.kind) == ("decoder", "network")
    assert op.seconds == pytest.approx(2 * 8000 * 3 / 4 / topology.receive_rate(4))


def test_a_kernel_that_cannot_be_read_is_named_and_counts_by_its_bytes(topology):
    body = (
        "  %x = f32[8000]{0} parameter(0)\n"
        '  ROOT %kernel = f32[8000]{0} custom-call(%x), custom_call_target="tpu_custom_call"'
    )
    found = forecast.forecast(read_module(program(body)), topology)
    assert found.unread == ("kernel",)
    assert found.seconds == pytest.approx(64e-6)


def test_a_kernel_that_carries_a_collective_is_a_kernel_and_no_waiting_for_the_network(topology):
    carrying = """\
%carrying (p: f32[8000], q: f32[2000]) -> (f32[8000], f32[2000]) {
  %p = f32[8000]{0} parameter(0)
  %q = f32[2000]{0} parameter(1)
  %kernel = f32[8000]{0} custom-call(%p), custom_call_target="tpu_custom_call"
  %sum = f32[2000]{0} all-reduce(%q), channel_id=7, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %both = (f32[8000]{0}, f32[2000]{0}) tuple(%kernel, %sum)
}
"""
    body = (
        "  %x = f32[8000]{0} parameter(0)\n  %y = f32[2000]{0} parameter(1)\n"
        "  ROOT %fused = (f32[8000]{0}, f32[2000]{0}) fusion(%x, %y), kind=kCustom, calls=%carrying"
    )
    found = forecast.forecast(read_module(program(body, carrying)), topology)
    (op,) = found.ops
    assert (op.kind, found.unread) == ("kernel", ("fused",))
    assert op.seconds == pytest.approx(80e-6)  # all bytes read and written


def test_parts_of_paths_that_the_model_has():
    assert (
        forecast.part_of("jit(inner)/transpose(jvp(Owl2.hidden))/decoder/while/body/layers/mlp") == "decoder"
    )
    assert forecast.part_of("jit(inner)/jvp(Owl2.hidden)/Owl2.encode_images/abstractor/while") == "abstractor"
    assert forecast.part_of("jit(inner)/jvp(Owl2.hidden)/Owl2.embed/decoder.embed/jit(_take)") == "embedding"
    assert forecast.part_of("jit(inner)/jvp()/while/body/Owl2.logits/decoder.logits/head") == "head"
    assert forecast.part_of("jit(inner)/add") == forecast.REST
