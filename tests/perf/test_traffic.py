"""Counted bytes against programs whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.perf import kernels
from owl2_jax.perf.hlo import read_module
from owl2_jax.perf.traffic import traffic

LAYERS, ROWS, WIDTH = 5, 64, 128
F32 = 4


def compiled_module(function, *arguments, **options):
    return read_module(jax.jit(function, **options).lower(*arguments).compile().as_text())


def test_collectives_in_a_scan_count_once_per_iteration():
    mesh = make_mesh({"fsdp": 4, "tensor": 2})

    def layer(x, _):
        return lax.psum(x, "tensor") * 0.5, None

    run = jax.shard_map(
        lambda x: lax.scan(layer, x, None, length=LAYERS)[0],
        mesh=mesh, in_specs=P("fsdp"), out_specs=P("fsdp"), check_vma=False,
    )  # fmt: skip
    found = traffic(compiled_module(run, jnp.ones((ROWS, WIDTH))))
    assert found.unknown_loops == 0
    (reduce,) = found.collectives
    assert (reduce.op, reduce.group, reduce.times) == ("all-reduce", 2, LAYERS)
    # A ring moves every byte out and back, except the own half.
    assert reduce.received == 2 * (ROWS // 4) * WIDTH * F32 / 2


@pytest.mark.parametrize(
    ("collective", "op", "share"),
    [
        (lambda x: lax.all_gather(x, "fsdp", tiled=True), "all-gather", 7),
        (lambda x: lax.psum_scatter(x, "fsdp", tiled=True), "reduce-scatter", 7 / 8),
        (lambda x: lax.all_to_all(x, "fsdp", 1, 0, tiled=True), "all-to-all", 7 / 8),
        (lambda x: lax.ppermute(x, "fsdp", [(i, (i + 1) % 8) for i in range(8)]), "collective-permute", 1),
    ],
)
def test_received_bytes_of_each_collective(collective, op, share):
    mesh = make_mesh({"fsdp": 8})
    run = jax.shard_map(collective, mesh=mesh, in_specs=P("fsdp"), out_specs=P("fsdp"), check_vma=False)
    (found,) = traffic(compiled_module(run, jnp.ones((ROWS, WIDTH)))).collectives
    local = ROWS // 8 * WIDTH * F32
    assert (found.op, found.received) == (op, share * local)


def test_of_a_kernels_operands_only_what_it_fetches_counts(monkeypatch):
    module = read_module(
        "HloModule m, is_scheduled=true\n\n"
        "ENTRY %main (pages: f32[1000]) -> f32[8] {\n"
        "  %pages = f32[1000]{0} parameter(0)\n"
        '  ROOT %kernel = f32[8]{0} custom-call(%pages), custom_call_target="tpu_custom_call"\n'
        "}\n"
    )
    whole = 1008 * F32
    assert traffic(module).memory_bytes == whole  # its program cannot be read
    for fetched, expected in ((100.0, 100.0), (2.0 * whole, whole)):
        work = kernels.Work(steps=1, flops=0, vectors=0, bytes=fetched, parallel=False)
        monkeypatch.setattr(kernels, "read_kernel", lambda call, on_chip, work=work: work)
        assert traffic(module).memory_bytes == expected


def test_scanned_weights_are_read_once_in_slices():
    def run(x, weights):
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    # A slice is read, written, and read by the product.
    weights = jnp.ones((LAYERS, 512, 512))
    found = traffic(compiled_module(run, jnp.ones((4, 512)), weights))
    assert weights.nbytes <= found.memory_bytes < 3.1 * weights.nbytes


def test_updating_a_row_in_place_does_not_count_the_whole_array():
    def run(cache, row):
        return lax.fori_loop(
            0, 8, lambda i, cache: lax.dynamic_update_index_in_dim(cache, row + i, i, 0), cache
        )

    cache = jnp.ones((4096, 128))
    found = traffic(compiled_module(run, cache, jnp.ones((128,)), donate_argnums=0))
    assert found.memory_bytes < cache.nbytes / 4


# One gather that the TPU compiler spread over the fusions between its start and its end.
SPREAD = """\
%fused (p: bf16[1,64]) -> bf16[16,64] {
  %p = bf16[1,64]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[16,64]{1,0} all-gather(%p), channel_id=7, replica_groups=mesh['a'=4] {'a'}
}

%all-reduce-scatter (q: f32[16,64]) -> f32[4,64] {
  %q = f32[16,64]{1,0} parameter(0)
  %all-reduce.2 = f32[16,64]{1,0} all-reduce(%q), channel_id=8, replica_groups=[4,4]<=[16]
  ROOT %slice = f32[4,64]{1,0} slice(%all-reduce.2), slice={[0:4], [0:64]}
}

ENTRY %main (x: bf16[1,64], y: f32[16,64]) -> f32[4,64] {
  %x = bf16[1,64]{1,0} parameter(0)
  %y = f32[16,64]{1,0} parameter(1)
  %begin = bf16[16,64]{1,0} fusion(%x), kind=kCustom, calls=%fused
  %end = bf16[16,64]{1,0} fusion(%x), kind=kCustom, calls=%fused
  ROOT %scattered = f32[4,64]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_notations_of_the_tpu_compiler():
    by_op = {collective.op: collective for collective in traffic(read_module(SPREAD)).collectives}
    assert len(by_op) == 2
    assert (by_op["all-gather"].group, by_op["all-gather"].received) == (4, 16 * 64 * 2 * 3 / 4)
    assert (by_op["reduce-scatter"].group, by_op["reduce-scatter"].received) == (4, 16 * 64 * 4 * 3 / 4)
    assert not by_op["all-gather"].blocks
    assert by_op["reduce-scatter"].blocks


@pytest.mark.parametrize(
    ("more", "blocks"), [("", True), (', backend_config={"window_config":{"estimated_cycles":"9"}}', False)]
)
def test_a_collective_in_a_single_fusion_blocks_unless_that_computes(more, blocks):
    once = SPREAD.replace("  %end = bf16[16,64]{1,0} fusion(%x), kind=kCustom, calls=%fused\n", "")
    module = read_module(once.replace("calls=%fused", f"calls=%fused{more}"))
    by_op = {collective.op: collective for collective in traffic(module).collectives}
    assert by_op["all-gather"].blocks == blocks


# Two loops nested in each other: a gather that is started ahead, and a reduction that everything waits for;
# their groups in the two notations of the list and of its iota.
NESTED = """\
%inner_condition (a: (s32[], bf16[8,64])) -> pred[] {
  %a = (s32[], bf16[8,64]{1,0}) parameter(0)
  %three = s32[] constant(3)
  %i = s32[] get-tuple-element(%a), index=0
  ROOT %less = pred[] compare(%i, %three), direction=LT
}

%inner (b: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %b = (s32[], bf16[8,64]{1,0}) parameter(0)
  %x = bf16[8,64]{1,0} get-tuple-element(%b), index=1
  %start = (bf16[8,64]{1,0}, bf16[32,64]{1,0}) all-gather-start(%x), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %done = bf16[32,64]{1,0} all-gather-done(%start)
  ROOT %t = (s32[], bf16[8,64]{1,0}) tuple(%b, %done)
}

%outer_condition (c: (s32[], bf16[8,64])) -> pred[] {
  ROOT %c = (s32[], bf16[8,64]{1,0}) parameter(0)
}

%outer (d: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %d = (s32[], bf16[8,64]{1,0}) parameter(0)
  %w = (s32[], bf16[8,64]{1,0}) while(%d), condition=%inner_condition, body=%inner
  %y = bf16[8,64]{1,0} get-tuple-element(%w), index=1
  %both = (bf16[8,64]{1,0}, f32[16]{0}) all-reduce(%y, %y), channel_id=2, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %t.1 = (s32[], bf16[8,64]{1,0}) tuple(%d, %y)
}

%add (p: bf16[], q: bf16[]) -> bf16[] {
  %p = bf16[] parameter(0)
  %q = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%p, %q)
}

ENTRY %main (x: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %x.1 = (s32[], bf16[8,64]{1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[8,64]{1,0}) while(%x.1), condition=%outer_condition, body=%outer, backend_config={"known_trip_count":{"n":"5"}}
}
"""  # noqa: E501


def test_nested_loops_multiply_and_started_collectives_do_not_block():
    by_op = {collective.op: collective for collective in traffic(read_module(NESTED)).collectives}
    gather, reduce = by_op["all-gather"], by_op["all-reduce"]
    assert (gather.group, gather.times, gather.blocks) == (4, 15, False)
    assert gather.received == 32 * 64 * 2 * 3 / 4
    assert (reduce.group, reduce.times, reduce.blocks) == (4, 5, True)
    assert reduce.received == 2 * (8 * 64 * 2 + 16 * 4) * 3 / 4


PIECE, WHOLE, FLAG = "bf16[4,64]{1,0}", "bf16[16,64]{1,0}", "u32[]"
PIECE_BYTES = 4 * 64 * 2


@pytest.mark.parametrize(
    ("operands", "started", "received"),
    [
        ("%x", f"(({PIECE}), {PIECE}, {FLAG}) all-to-all-start", PIECE_BYTES * 3 / 4),
        ("%x", f"({PIECE}, {WHOLE}) all-gather-start", PIECE_BYTES * 3),
        ("%x, %x", f"({PIECE}, {PIECE}, {WHOLE}, {WHOLE}) all-gather-start", 2 * PIECE_BYTES * 3),
        ("%x", f"(({PIECE}), bf16[1,64]{{1,0}}, {FLAG}) reduce-scatter-start", PIECE_BYTES * 3 / 4),
        ("%x", f"{PIECE} all-reduce-start", 2 * PIECE_BYTES * 3 / 4),
    ],
)
def test_a_collective_that_is_started_ahead_counts_what_it_brings_once(operands, started, received):
    text = f"""\
ENTRY %main (x: bf16[4,64]) -> bf16[4,64] {{
  %x = {PIECE} parameter(0)
  ROOT %start = {started}({operands}), channel_id=1, replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
}}
"""
    (each,) = traffic(read_module("HloModule m\n\n" + text)).collectives
    assert (each.received, each.blocks) == (received, False)


# For three-dimensional tori the compiler writes a gather as a sum: each chip puts its piece into zeros.
AS_SUM = """\
%add (p: bf16[], q: bf16[]) -> bf16[] {
  ROOT %p = bf16[] parameter(0)
}

ENTRY %main (x: bf16[4,64], zeros: bf16[16,64], at: s32[]) -> bf16[16,64] {
  %x = bf16[4,64]{1,0} parameter(0)
  %zeros = bf16[16,64]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %padded = bf16[16,64]{1,0} dynamic-update-slice(%zeros, %x, %at, %at)
  ROOT %sum = bf16[16,64]{1,0} all-reduce(%padded), channel_id=1, replica_groups=mesh['axis_0'=4] {'axis_0'}, to_apply=%add
}
"""  # noqa: E501


def test_a_gather_that_was_written_as_a_sum_costs_what_the_sum_does():
    (found,) = traffic(read_module(AS_SUM)).collectives
    assert (found.op, found.group, found.received) == ("all-reduce", 4, 2 * 16 * 64 * 2 * 3 / 4)
