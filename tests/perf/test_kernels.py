"""What a Pallas kernel's own program says: lowered for a TPU, which needs none."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from owl2_jax.model import attention_kernels
from owl2_jax.parallel.chips import CHIPS
from owl2_jax.perf import kernels
from owl2_jax.perf.hlo import Array, Instruction

FAR, NEAR = Array(1.0, False), Array(1.0, True)


def calls(function, *arguments):
    """Every kernel of a function, as the text of a compiled module would hold it."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",))
    text = lowered.as_text()
    configs = re.findall(r"backend_config = \"((?:[^\"\\]|\\.)*)\"", text)
    found = [config.replace("\\22", '"').replace('": ', '":').replace('{ "', '{"') for config in configs]
    return [
        Instruction("kernel", (FAR,), "custom-call", (), "", config.replace(', "', ',"'), False)
        for config in found
        if "custom_call_config" in config
    ]


def scaled_product(x_ref, y_ref, out_ref):
    @pl.when(pl.program_id(2) == 0)
    def start():
        out_ref[...] = jnp.zeros_like(out_ref)

    out_ref[...] += jnp.dot(x_ref[...], y_ref[...], preferred_element_type=jnp.float32) * 2.0


def blocked(x, y, semantics=("parallel", "parallel", "arbitrary")):
    """512 x 1024 times 1024 x 256 in blocks of 128 x 256 and 256 x 128: a grid of 4 x 2 x 4."""
    return pl.pallas_call(
        scaled_product,
        out_shape=jax.ShapeDtypeStruct((512, 256), jnp.float32),
        grid=(4, 2, 4),
        in_specs=[
            pl.BlockSpec((128, 256), lambda i, j, k: (i, k)),
            pl.BlockSpec((256, 128), lambda i, j, k: (k, j)),
        ],
        out_specs=pl.BlockSpec((128, 128), lambda i, j, k: (i, j)),
        compiler_params=pltpu.CompilerParams(dimension_semantics=semantics),
    )(x, y)


ARGUMENTS = jnp.ones((512, 1024), jnp.bfloat16), jnp.ones((1024, 256), jnp.bfloat16)


def test_products_vector_operations_and_blocks_of_a_kernel():
    (call,) = calls(blocked, *ARGUMENTS)
    work = kernels.read_kernel(call, (False, False))
    assert work.steps == 32
    assert work.flops == 2 * 512 * 1024 * 256
    # A product by 2 and a sum in every step, of 128 x 128 numbers.
    assert work.vectors == 32 * 2 * 128 * 128 / 1024
    # Both inputs move in every step, the result where the first two indices do.
    assert work.bytes == 32 * 2 * 2 * (128 * 256) + 8 * 4 * 128 * 128
    assert work.parallel
    assert kernels.read_kernel(call, (True, True)).bytes == 8 * 4 * 128 * 128


def test_time_is_the_longer_of_computing_and_fetching_after_every_steps_own():
    work = kernels.Work(steps=10, flops=197e12, vectors=6e9, bytes=0, parallel=True)
    assert work.seconds(CHIPS["v5e"]) == pytest.approx(2.0 + 10 * kernels.STEP_SECONDS)
    fetching = kernels.Work(steps=0, flops=197e12, vectors=0, bytes=3 * 819e9, parallel=True)
    assert fetching.seconds(CHIPS["v5e"]) == pytest.approx(3.0)


def test_a_grid_without_a_parallel_dimension_leaves_the_second_core_idle():
    (call,) = calls(functools.partial(blocked, semantics=("arbitrary",) * 3), *ARGUMENTS)
    alone = kernels.read_kernel(call, (False, False))
    assert not alone.parallel
    both = kernels.Work(alone.steps, alone.flops, alone.vectors, alone.bytes, True)
    assert alone.seconds(CHIPS["v5p"]) == pytest.approx(2 * both.seconds(CHIPS["v5p"]), rel=0.3)
    assert alone.seconds(CHIPS["v5e"]) == both.seconds(CHIPS["v5e"])


@pytest.mark.parametrize(
    ("queries", "keys", "share"), [(1, 1, 1), (4, 4, 10 / 16), (4, 2, 6 / 8), (2, 4, 6 / 8)]
)
def test_causal_share_of_blocks(queries, keys, share):
    assert kernels.causal_share(queries, keys) == share


def test_splash_attention_forward_and_backward_count_the_blocks_their_mask_leaves():
    length, heads, width = 1024, 2, 128
    shape = jax.ShapeDtypeStruct((1, length, heads, width), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def loss(q, k, v, ids):
        return attention_kernels.splash(q, k, v, ids).astype(jnp.float32).sum()

    found = calls(jax.grad(loss, (0, 1, 2)), shape, shape, shape, ids)
    product = 2 * heads * length**2 * width * 3 / 4  # 3 of 4 blocks of 512 x 512
    counted = sorted(kernels.read_kernel(call, (True,) * 11).flops for call in found)
    # Forward two products, queries' gradient three, keys' and values' four.
    assert counted == [2 * product, 3 * product, 4 * product]


@pytest.mark.parametrize(
    ("length", "tile", "pairs"), [(1024, 512, 3), (2048, 512, 10), (256, 256, 1), (4096, 512, 36)]
)
def test_flash_attention_counts_the_tiles_on_and_below_the_diagonal(length, tile, pairs):
    """Some of them in loops, whose ends are sums of constants."""
    heads, width = 4, 128
    shape = jax.ShapeDtypeStruct((1, length, heads, width), jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def loss(q, k, v, ids):
        return attention_kernels.flash(q, k, v, ids).astype(jnp.float32).sum()

    found = [
        kernels.read_kernel(call, (True,) * 11)
        for call in calls(jax.grad(loss, (0, 1, 2)), *[shape] * 3, ids)
    ]
    product = 2 * heads * pairs * tile**2 * width
    # Forward two products; backward scores, gradients of weights, queries, keys and values.
    assert sorted(work.flops for work in found) == [2 * product, 5 * product]
    registers = heads * pairs * tile**2 / 1024
    assert all(10 * registers < work.vectors < 30 * registers and work.parallel for work in found)


def repeated(x_ref, y_ref, out_ref):
    """A product as often as a loop from 2 to 5 runs."""
    multiply = lambda _, total: total + jnp.dot(x_ref[...], y_ref[...], preferred_element_type=jnp.float32)
    out_ref[...] = jax.lax.fori_loop(2, 5, multiply, jnp.zeros_like(out_ref))


def test_a_loop_runs_as_often_as_its_bounds_say():
    call_it = pl.pallas_call(repeated, out_shape=jax.ShapeDtypeStruct((128, 128), jnp.float32), grid=(1,))
    block = jnp.ones((128, 128), jnp.bfloat16)
    (call,) = calls(call_it, block, block)
    assert kernels.read_kernel(call, (False, False)).flops == 3 * 2 * 128**3


def repeated_by_data(count_ref, x_ref, y_ref, out_ref):
    """A product by itself, and another as often as an array says."""
    multiply = lambda _, total: total + jnp.dot(x_ref[...], y_ref[...], preferred_element_type=jnp.float32)
    out_ref[...] = jax.lax.fori_loop(0, count_ref[0], multiply, multiply(0, jnp.zeros_like(out_ref)))


@pytest.mark.parametrize("products", [None, 1, 4, 9])
def test_a_loop_over_data_runs_as_often_as_the_kernel_estimates(products):
    one, steps = 2 * 128**3, 2
    estimate = None if products is None else pl.CostEstimate(steps * products * one, 0, 0)
    call_it = pl.pallas_call(
        repeated_by_data,
        out_shape=jax.ShapeDtypeStruct((128, 128), jnp.float32),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(steps,),
            in_specs=[pl.BlockSpec((128, 128), lambda i, count: (0, 0))] * 2,
            out_specs=pl.BlockSpec((128, 128), lambda i, count: (0, 0)),
        ),
        cost_estimate=estimate,
    )
    block = jnp.ones((128, 128), jnp.bfloat16)
    (call,) = calls(call_it, jnp.ones(1, jnp.int32), block, block)
    found = kernels.read_kernel(call, (False,) * 3)
    # A loop may be written as one of several at a time and one of what is left; each counts once then.
    expected = (2, 3) if products is None else (products,)
    assert found.flops / (steps * one) in expected


def turned(x_ref, out_ref):
    out_ref[...] = pltpu.roll(x_ref[...], 64, 1).T


def test_what_moves_numbers_within_registers_counts_as_what_computes():
    call_it = pl.pallas_call(turned, out_shape=jax.ShapeDtypeStruct((128, 256), jnp.float32), grid=(1,))
    (call,) = calls(call_it, jnp.ones((256, 128), jnp.float32))
    assert kernels.read_kernel(call, (False,)).vectors == 2 * 256 * 128 / 1024


PAGE = (16, 8, 128)
PAGES_AT_A_TIME, PLACES = 4, 10


def walk_through_pages(lengths_ref, table_ref, x_ref, pages_ref, out_ref, buffers, semaphore):
    """For every row, for every block of its pages: the scratch buffer filled, and the queries doubled."""

    def blocks(state):
        number, _ = state
        pltpu.make_async_copy(pages_ref.at[pl.ds(table_ref[0, number], 4)], buffers.at[0], semaphore).start()
        out_ref[...] += x_ref[...] * 2.0
        return number + 1, number

    def rows(number):
        jax.lax.while_loop(lambda state: state[0] < lengths_ref[number], blocks, (0, 0))
        return number + 1

    jax.lax.while_loop(lambda number: number < lengths_ref[0], rows, 0)


def paged(rows, tokens, memory=pl.ANY, pages=4096):
    """8 queries at a time over pages in main memory, by a grid of 1 x tokens / 8."""
    float32 = jnp.float32
    queries = pl.BlockSpec((8, 128), lambda heads, block, *tables: (block, 0))
    call = pl.pallas_call(
        walk_through_pages,
        out_shape=jax.ShapeDtypeStruct((tokens, 128), float32),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(1, tokens // 8),
            in_specs=[queries, pl.BlockSpec(memory_space=memory)],
            out_specs=queries,
            scratch_shapes=[pltpu.VMEM((2, PAGES_AT_A_TIME, *PAGE), float32), pltpu.SemaphoreType.DMA],
        ),
    )
    shapes = [((rows,), jnp.int32), ((rows, PLACES), jnp.int32), ((tokens, 128), float32)]
    found = calls(call, *[jax.ShapeDtypeStruct(*each) for each in [*shapes, ((pages, *PAGE), float32)]])
    return kernels.read_kernel(found[0], (False,) * 4)


@pytest.mark.parametrize(
    ("rows", "tokens", "visits"),
    [(32, 8, 32), (32, 64, 32), (2, 64, 8)],
    ids=["one block of queries", "less blocks than rows", "more blocks than rows"],
)
def test_a_kernel_over_pages_walks_through_the_pages_of_its_table(rows, tokens, visits):
    work = paged(rows, tokens)
    walked = visits * -(-PLACES // PAGES_AT_A_TIME)
    page, block = 4 * 16 * 8 * 128, 4 * 8 * 128
    assert work.bytes == walked * PAGES_AT_A_TIME * page + 2 * (tokens // 8) * block
    # A product by 2 and a sum for every block of pages, of 8 x 128 numbers.
    assert work.vectors == walked * 2
    assert work.steps == tokens // 8


def test_how_many_pages_there_are_beside_those_of_the_table_changes_nothing():
    assert paged(32, 8, pages=4096) == paged(32, 8, pages=2**20)


def test_what_is_no_program_is_told():
    call = Instruction("kernel", (FAR,), "custom-call", (), "", "metadata={}", False)
    with pytest.raises(ValueError, match="no program in the call of kernel"):
        kernels.read_kernel(call, ())
    broken = 'backend_config={"custom_call_config":{"body":"TUzvUg=="}}'
    with pytest.raises(ValueError, match="cannot be read"):
        kernels.read_kernel(Instruction("kernel", (FAR,), "custom-call", (), "", broken, False), ())
