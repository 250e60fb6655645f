"""The configs of the full model: the numbers of the recipes, groups that cover it, checked arguments."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from owl2_jax.config import load_config
from owl2_jax.core import tree
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.mixture import round_shares
from owl2_jax.data.sources.registry import SOURCES
from owl2_jax.model.owl2 import abstract_params
from owl2_jax.training import param_groups

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ("pretrain_7b", "instruct_7b", "finetune_7b", "lora_7b")
SIZE, SIZE_224 = 8_197_859_328, 8_197_859_328 - (1024 - 256) * 1024
VISION, ABSTRACTOR, IMAGE_BRANCH = 303_966_208, 81_473_536, 1_074_003_968


def load(name, argument="", *overrides):
    return load_config(f"{CONFIGS}/{name}.py:{argument}", overrides)


def table(config):
    shapes = abstract_params(config.model)
    specs = param_groups.assign_groups(shapes, config.train)
    return {row["group"]: row for row in param_groups.table(shapes, specs, config.train)}


def totals(config):
    """(all, trained) parameters."""
    rows = table(config).values()
    return tuple(sum(row["parameters"] for row in rows if row["lr"] or not only) for only in (False, True))


def test_stage_1_has_the_numbers_of_the_paper():
    config = load("pretrain_7b")
    train, data = config.train, config.data
    assert (config.model.vision.image_size, config.model.vision.num_patches) == (224, 256)
    assert (config.model.abstractor.num_queries, config.model.dtype) == (64, "bfloat16")
    assert (train.num_steps, data.rows, data.row_length, data.pack) == (42_500, 8192, 256, False)
    assert train.num_steps * data.rows == 348_160_000  # the paper's "about 400 million"
    assert (train.optimizer.b1, train.optimizer.b2, train.optimizer.eps) == (0.9, 0.98, 1e-6)
    assert (train.optimizer.weight_decay, train.optimizer.clip_norm) == (0.05, 1.0)
    assert (train.schedule.peak_lr, train.schedule.end_lr, train.schedule.warmup_steps) == (1e-4, 1e-6, 1000)
    assert data.augment is not None
    assert set(data.datasets) == {"coco", "cc3m", "cc12m", "coyo", "laion_en", "datacomp"}
    assert sum(one.weight for one in data.datasets.values()) == pytest.approx(400e6)
    trained = VISION - (SIZE - SIZE_224) + ABSTRACTOR + IMAGE_BRANCH
    assert totals(config) == (SIZE_224, trained)
    assert table(config)["rest_of_decoder"]["lr"] is None


def test_stage_2_has_the_numbers_of_the_paper():
    config = load("instruct_7b")
    train, data = config.train, config.data
    assert (config.model.vision.image_size, config.model.vision.num_patches) == (448, 1024)
    assert (train.num_steps, data.rows, data.row_length, data.pack) == (4800, 256, 2048, False)
    assert (train.optimizer.b1, train.optimizer.b2, train.optimizer.eps) == (0.9, 0.999, 1e-8)
    assert (train.optimizer.weight_decay, train.optimizer.clip_norm) == (0.0, 1.0)
    assert (train.schedule.peak_lr, train.schedule.end_lr, train.schedule.warmup_steps) == (2e-5, 0.0, 250)
    assert data.augment is None
    assert len(data.datasets) == 12
    assert totals(config) == (SIZE, SIZE)


@pytest.mark.parametrize(("name", "peak"), [("pretrain_7b", 1e-4), ("instruct_7b", 2e-5)])
def test_vision_rates_decay_by_0_9_per_layer(name, peak):
    rows = table(load(name))
    assert rows["vision_last_norm"]["lr"] == pytest.approx((peak, peak))
    assert rows["vision_layers"]["lr"] == pytest.approx((peak * 0.9**24, peak * 0.9))
    assert rows["vision_below_layers"]["lr"] == pytest.approx((peak * 0.9**25, peak * 0.9**25))


@pytest.mark.parametrize("name", ["finetune_7b", "lora_7b"])
def test_the_released_scripts(name):
    config = load(name, "examples=10000,devices=4")
    train, data = config.train, config.data
    assert (data.rows, train.accumulate_steps, data.row_length) == (2 * 8 * 4, 8, 2048)
    assert (train.num_steps, train.schedule.warmup_steps) == (157, 5)  # 10000 / 64, and 3 % of it
    assert (data.template, data.image_mode) == ("v1", "pad")
    assert (train.optimizer.b2, train.optimizer.weight_decay) == (0.999, 0.0)
    rows = table(config)
    assert rows["vision"]["lr"] is None
    assert rows["abstractor"]["lr"] == pytest.approx((2e-5, 2e-5))
    if name == "finetune_7b":
        assert totals(config) == (SIZE, SIZE - VISION)
        assert rows["decoder"]["lr"] == pytest.approx((2e-5, 2e-5))
        return
    lora = config.model.lora
    assert (lora.rank, lora.alpha, lora.dropout) == (128, 256.0, 0.05)
    assert lora.targets == ("q", "k_text", "k_image", "v_text", "v_image", "out", "gate", "up", "down")
    # Rank times inputs and outputs of six square maps and three of the MLP, in 32 layers.
    adapters = 32 * 128 * (6 * (4096 + 4096) + 3 * (4096 + 11008))
    assert rows["adapters"]["parameters"] == adapters
    assert rows["adapters"]["lr"] == pytest.approx((1e-4, 1e-4))
    assert totals(config) == (SIZE + adapters, ABSTRACTOR + adapters)
    assert rows["decoder"]["state_bytes"] == 0


def test_arguments_are_typed_and_named():
    config = load("instruct_7b", "image_size=336,num_queries=32,accumulate=4")
    assert (config.model.vision.image_size, config.model.abstractor.num_queries) == (336, 32)
    assert config.train.accumulate_steps == 4
    assert load("lora_7b", "base=int8,data=my/file.json").model.lora.base == "int8"
    for name in NAMES:
        with pytest.raises(Owl2Error, match="unknown config argument 'imagesize'; did you mean 'image_size'"):
            load(name, "imagesize=336")
        with pytest.raises(Owl2Error, match=r"argument num_queries: expected a whole number, found '32\.5'"):
            load(name, "num_queries=32.5")
        with pytest.raises(Owl2Error, match=r"vision.image_size 300 must be a multiple of vision.patch_size"):
            load(name, "image_size=300")
    with pytest.raises(Owl2Error, match="'int4'"):
        load("lora_7b", "base=int4")


def test_any_field_can_be_overridden():
    overrides = (
        "model.lora.rank=16",
        "model.lora.targets=['q', 'v_text']",
        "data.datasets.finetune.weight=2",
        "train.groups.abstractor.trainable=False",
        "train.groups.2.weight_decay=0.1",
        "train.best.metric=heldout/loss",
    )
    config = load("lora_7b", "", *overrides)
    assert (config.model.lora.rank, config.model.lora.targets) == (16, ("q", "v_text"))
    assert config.data.datasets["finetune"].weight == 2
    assert [(group.name, group.trainable) for group in config.train.groups][1] == ("abstractor", False)
    assert config.train.groups[2].weight_decay == 0.1
    assert config.train.best.metric == "heldout/loss"
    with pytest.raises(Owl2Error, match=r"unknown member of train\.groups 'abstracter'; did you mean 'abstr"):
        load("lora_7b", "", "train.groups.abstracter.lr=1")
    with pytest.raises(Owl2Error, match="set exactly one of total_steps"):
        load("lora_7b", "", "train.total_steps=5")


@pytest.mark.parametrize("name", NAMES)
def test_sources_know_every_option(name):
    for one in load(name).data.datasets.values():
        assert set(one.options) <= set(inspect.signature(SOURCES[one.kind]).parameters)


def test_instruct_reads_by_size():
    datasets = load("instruct_7b").data.datasets
    lengths = list(range(1000, 1000 + len(datasets)))
    settings = [(one.weight, one.epochs) for one in datasets.values()]
    assert round_shares(list(datasets), lengths, *zip(*settings, strict=True)) == lengths


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_its_source_beside_it(name):
    """A line that sets a number says where the number comes from; what has a name needs no number."""
    lines = (CONFIGS / f"{name}.py").read_text().partition('"""\n\n')[2].splitlines()
    bare = [
        line
        for line in lines
        if any(letter.isdigit() for letter in line.partition(":")[2].partition("#")[0]) and "#" not in line
    ]
    allowed = ('"images": ', '"tokenizer"', '"images_per_row"', '"shards"', "chosen = parse_argument")
    assert [line for line in bare if not line.strip().startswith(allowed)] == []


def test_patterns_of_groups_need_every_leaf():
    shapes = abstract_params(load("pretrain_7b").model)
    assert len(tree.flatten(shapes)) == 61
    with pytest.raises(Owl2Error, match=r"rule 'decoder/\.\*_imge/\.\*' matches no parameter"):
        table(load("pretrain_7b", "", "train.groups.4.pattern=decoder/.*_imge/.*"))
