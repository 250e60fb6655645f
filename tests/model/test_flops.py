"""Counted FLOPs against those of the traced programs, product by product."""

import math

import jax
import jax.numpy as jnp
import pytest

from owl2_jax.core.tree import combine, flatten, partition
from owl2_jax.model import flops, presets, remat
from owl2_jax.model.config import LoraConfig
from owl2_jax.model.owl2 import Owl2, abstract_params
from owl2_jax.testing import tiny


def traced_flops(function, *arguments):
    """FLOPs of all matrix products in a traced function, scans multiplied out.

    The rotation of queries and keys, and what takes and puts tokens of images, are products of their own
    precision and count as elementwise work.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general" and not equation.params["precision"]:
            contracted = equation.params["dimension_numbers"][0][0]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            total += times * _count(inner) if hasattr(inner, "eqns") else 0
    return total


def small(**changes):
    return tiny.tiny_config(**{"decoder.num_layers": 3, "abstractor.num_layers": 2, **changes})


def inputs(config, rows=4, length=24, images=3, slots=2):
    row, size = jnp.zeros((rows, length), jnp.int32), config.vision.image_size
    slot = jnp.zeros((rows, slots), jnp.int32)
    return row, row, row + 1, jnp.zeros((images, size, size, 3), jnp.uint8), slot, slot


def work(config):
    return flops.batch_work(config, rows=4, length=24, images=3, images_per_row=2)


@pytest.mark.parametrize("image_kv", ["gather", "product", "select"])
def test_forward_equals_the_traced_program(image_kv):
    config = small(image_kv=image_kv)
    traced = traced_flops(
        lambda params: Owl2(config).apply({"params": params}, *inputs(config)), abstract_params(config)
    )
    assert flops.total(flops.forward_flops(config, work(config))).executed == traced


def test_a_module_of_queries_and_adapters_of_all_three_count_as_traced():
    lora = LoraConfig(rank=3, targets=("qkv_text", "qkv_image"))
    config = small(**{"decoder.adaptive": "qkv", "decoder.qkv_bias": True, "lora": lora})
    traced = traced_flops(
        lambda params: Owl2(config).apply({"params": params}, *inputs(config)), abstract_params(config)
    )
    assert flops.total(flops.forward_flops(config, work(config))).executed == traced


def test_the_work_of_owl2_1_is_what_its_sizes_say():
    """2048 tokens with one image, from the sizes in the release's papers and configs."""
    config = presets.preset("owl2_1_7b")
    found = flops.forward_flops(config, flops.batch_work(config, 1, 2048, images=1, images_per_row=1))
    tokens, layers, width, mlp, vocabulary, image = 2048, 32, 4096, 11008, 151_936, 65
    square = width * width
    projections = 2 * layers * (tokens * 3 + image * 3 + tokens) * square  # fused, its image copy, output
    looked_at = layers * 2 * 2 * width * tokens * (tokens + 1) / 2  # scores and context, causal
    assert found["decoder"].forward == projections + looked_at + 2 * layers * tokens * 3 * width * mlp
    assert found["head"].forward == 2 * tokens * width * vocabulary
    total = flops.total(found).forward
    assert total / 1e12 == pytest.approx(31.1, abs=0.05)
    # What the page on the two models says of them.
    owl2 = presets.preset("owl2_7b")
    other = flops.total(flops.forward_flops(owl2, flops.batch_work(owl2, 1, 2048, 1, 1))).forward
    assert other / 1e12 == pytest.approx(29.1, abs=0.05)
    assert 2 * layers * image * square / 1e12 == pytest.approx(0.07, abs=0.005)


def train_program(config, trained):
    names = {name: trained(name) for name in flatten(abstract_params(config))}
    kept, rest = partition(abstract_params(config), names)

    def loss(kept, rest):
        return Owl2(config).apply({"params": combine(kept, rest)}, *inputs(config)).sum()

    return traced_flops(jax.grad(loss), kept, rest)


@pytest.mark.parametrize("policy", remat.POLICIES)
def test_training_equals_the_traced_program_under_every_remat_policy(policy):
    config = small(remat=policy)
    counted = flops.total(flops.train_flops(config, work(config)))
    assert counted.executed == pytest.approx(train_program(config, lambda name: True), rel=1e-9)


STAGES = {
    "stage 1": lambda name: not name.startswith("decoder") or "_image" in name,
    "head": lambda name: name.startswith("decoder/head"),
    "decoder": lambda name: name.startswith("decoder"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_weights_need_no_gradient_of_their_own(stage):
    config = small()
    counted = flops.total(flops.train_flops(config, work(config), STAGES[stage]))
    assert counted.executed == pytest.approx(train_program(config, STAGES[stage]), rel=0.02)


def test_fused_attention_skips_masked_pairs_and_computes_scores_again():
    config = presets.preset("owl2_7b").replace(remat="context")
    work = flops.batch_work(config, rows=1, length=2048, images=0, images_per_row=0)

    def executed(attention):
        return flops.train_flops(config.replace(attention=attention), work)["decoder"].executed

    def model(attention):
        return flops.train_flops(config.replace(attention=attention), work)["decoder"].model

    pairs = 2 * 2048 * 2048 * 4096 * 32
    share = 2049 / 4096
    # Scores and context forward; written out: two each backward and the scores once more.
    for kernel, backward in (("flash", 5), ("splash", 7), ("cudnn", 5)):
        less = executed("xla") - executed(kernel)
        assert less == pytest.approx(pairs * (2 + 4 + 1 - share * (2 + backward)))
        assert model("xla") == model(kernel)


def test_image_branch_costs_at_most_two_percent_when_gathered():
    config = presets.preset("owl2_7b")

    def decoder(config, slots):
        work = flops.batch_work(config, rows=1, length=2048, images=slots, images_per_row=slots)
        return flops.forward_flops(config, work)["decoder"].executed

    text_only = decoder(config, 0)
    assert decoder(config, 1) / text_only < 1.02
    assert decoder(config.replace(image_kv="select"), 1) / text_only > 1.15


def test_parameters_times_two_is_close_to_flops_per_token():
    config = presets.preset("owl2_7b")
    work = flops.batch_work(config, rows=1, length=2048, images=0, images_per_row=0)
    counted = flops.total(flops.forward_flops(config, work))
    assert counted.model / 2048 == pytest.approx(2 * (6_476_000_000 + 131_072_000), rel=0.05)


def test_decode_looks_at_the_cache():
    config = small()
    one = flops.Work(rows=4, length=1, images=0, image_tokens=0, logits=4, keys=64)
    by_part = flops.forward_flops(config, one)
    decoder = config.decoder
    attention = 2 * 2 * decoder.num_layers * 4 * 64 * decoder.width
    without = flops.forward_flops(config, flops.Work(4, 1, 0, 0, 4))["decoder"].forward
    assert by_part["decoder"].forward - without == attention - attention / 64
    assert by_part["vision"] == flops.Flops()
