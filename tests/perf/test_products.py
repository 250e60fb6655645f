"""Operations of matrix products, as a compiler writes them."""

import jax
import jax.numpy as jnp
import pytest

from owl2_jax.perf import products
from owl2_jax.perf.hlo import read_module
from tests.perf.scheduled import program


def count(line, left, right):
    body = f"  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n  ROOT %c = {line}"
    module = read_module(program(body))
    main = module.computations["main"]
    return products.flops(main["c"], main, module)


@pytest.mark.parametrize(
    ("line", "left", "right", "expected"),
    [
        (
            "bf16[2048,11008]{1,0} convolution(%a, %b), dim_labels=bf_io->bf",
            "bf16[2048,4096]{1,0}", "bf16[4096,11008]{1,0}", 2 * 2048 * 4096 * 11008,
        ),
        (  # sixteen heads as a dilated window: every output meets one number of the input
            "f32[16,64,1089]{2,1,0} convolution(%a, %b), window={size=16 stride=15 lhs_dilate=16}, "
            "dim_labels=0bf_0oi->0bf",
            "bf16[16,64,32]{2,1,0}", "bf16[16,1089,32]{2,1,0}", 2 * 16 * 64 * 1089 * 32,
        ),
        (  # heads as padding around one row
            "bf16[4096,32,128]{2,0,1} convolution(%a, %b), window={size=32 pad=31_31 rhs_reversal=1}, "
            "dim_labels=fb0_0oi->b0f",
            "bf16[2048,4096,1]{2,1,0}", "bf16[32,128,2048]{2,1,0}", 2 * 4096 * 32 * 128 * 2048,
        ),
        (  # heads as a window that is summed
            "bf16[64,4096,1]{1,0,2} convolution(%a, %b), window={size=32}, dim_labels=b0f_o0i->bf0",
            "bf16[64,32,128]{2,1,0}", "bf16[4096,32,128]{2,1,0}", 2 * 64 * 4096 * 32 * 128,
        ),
        ("f32[8]{0} add(%a, %b)", "f32[8]{0}", "f32[8]{0}", 0),
    ],
)  # fmt: skip
def test_a_product_written_as_a_convolution(line, left, right, expected):
    assert count(line, left, right) == expected


def test_products_of_a_compiled_program_inside_of_fusions_too():
    def run(x, y):
        return jnp.tanh(jnp.einsum("bik,bkj->bij", x, y)) @ jnp.ones((32, 8))

    text = jax.jit(run).lower(jnp.ones((4, 16, 64)), jnp.ones((4, 64, 32))).compile().as_text()
    module = read_module(text)
    entry = module.computations[module.entry]
    called = [c for i in entry.values() if i.op == "call" for c in i.called()]
    found = sum(
        products.flops(i, module.computations[name], module)
        for name in [module.entry, *called]
        for i in module.computations[name].values()
    )
    assert found == 2 * 4 * 16 * 64 * 32 + 2 * 4 * 16 * 32 * 8
