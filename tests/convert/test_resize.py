from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from owl2_jax.checkpoint.param_files import (
    model_json,
    read_model_json,
    read_tokenizer,
    restore_params,
    write_model_directory,
)
from owl2_jax.convert.resize import (
    bicubic_resize,
    resize_checkpoint,
    resize_position_table,
    resize_queries,
)
from owl2_jax.convert.to_flax import convert_to_jax, leaf_shapes
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.core.tree import flatten
from owl2_jax.model.config import Owl2Config
from tests.convert.checkpoints import GOLDEN, bits


@pytest.mark.parametrize(("old", "new"), [(16, 32), (32, 16), (2, 5), (5, 13), (24, 16), (3, 1), (1, 4)])
def test_bicubic_equals_pytorch(old: int, new: int) -> None:
    image = np.random.default_rng(0).normal(size=(old, old, 6)).astype(np.float32)
    batch = torch.from_numpy(image).double().permute(2, 0, 1)[None]  # float32 sums differ by processor
    expected = F.interpolate(batch, (new, new), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(bicubic_resize(image, new, new), expected.numpy(), rtol=1e-6, atol=1e-7)


def test_bicubic_of_sides_that_differ() -> None:
    image = np.random.default_rng(0).normal(size=(4, 7, 3)).astype(np.float32)
    batch = torch.from_numpy(image).double().permute(2, 0, 1)[None]  # float32 sums differ by processor
    expected = F.interpolate(batch, (6, 5), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(bicubic_resize(image, 6, 5), expected.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_class_row_stays_and_dtype_too(dtype) -> None:
    table = np.random.default_rng(0).normal(size=(5, 8)).astype(dtype)
    resized = resize_position_table(table, 4)
    assert (resized.shape, resized.dtype) == ((17, 8), table.dtype)
    np.testing.assert_array_equal(resized[0], table[0])
    np.testing.assert_array_equal(resize_position_table(table, 2), table)


def test_queries_keep_their_index() -> None:
    queries = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(resize_queries(queries, 2), queries[:2])
    np.testing.assert_array_equal(resize_queries(queries, 7), queries[[0, 1, 2, 0, 1, 2, 0]])


def test_checkpoint_of_another_size_changes_two_leaves_only(tmp_path: Path) -> None:
    convert_to_jax(GOLDEN / "B/hf", tmp_path / "model")
    config = resize_checkpoint(tmp_path / "model", tmp_path / "out", image_size=84, num_queries=5)
    assert (config.vision.image_size, config.tokens_per_image) == (84, 6)
    assert Owl2Config.from_dict(read_model_json(tmp_path / "out")["model"]) == config
    old = flatten(restore_params(tmp_path / "model" / "params"))
    new = flatten(restore_params(tmp_path / "out" / "params"))
    assert {name: leaf.shape for name, leaf in new.items()} == leaf_shapes(config)
    changed = {name for name in old if bits(old[name]) != bits(new[name])}
    assert changed == {"vision/position_embedding", "abstractor/queries"}
    np.testing.assert_array_equal(new["abstractor/queries"], old["abstractor/queries"][:5])


def test_one_size_at_a_time_and_the_tokenizer_comes_along(
    tmp_path: Path, tiny_config, tiny_params, toy_tokenizer
) -> None:
    model = model_json(tiny_config.to_dict(), prompt_format=PromptFormat(image_mode="pad"))
    write_model_directory(tmp_path / "model", model, tiny_params, toy_tokenizer.bytes)
    assert resize_checkpoint(tmp_path / "model", tmp_path / "a", image_size=56).abstractor.num_queries == 4
    assert resize_checkpoint(tmp_path / "a", tmp_path / "b", num_queries=6).vision.image_size == 56
    assert read_tokenizer(tmp_path / "b") == toy_tokenizer.bytes
    assert read_model_json(tmp_path / "b")["image_mode"] == "pad"


def test_module_is_left_out_and_made_of_copies_of_the_text_branch(
    tmp_path: Path, tiny_config, tiny_params, toy_tokenizer
) -> None:
    write_model_directory(
        tmp_path / "full", model_json(tiny_config.to_dict()), tiny_params, toy_tokenizer.bytes
    )
    resize_checkpoint(tmp_path / "full", tmp_path / "none", adaptive="none")
    resize_checkpoint(tmp_path / "none", tmp_path / "norms", adaptive="norms")
    config = resize_checkpoint(tmp_path / "norms", tmp_path / "copies", adaptive="full")
    assert config == tiny_config
    full, none, copies = (
        flatten(restore_params(tmp_path / name / "params")) for name in ("full", "none", "copies")
    )
    left_out = {name for name in full if name not in none}
    assert left_out == {name for name in full if "_image/" in name}
    for name, leaf in copies.items():
        same = name.replace("_image/", "_text/") if name in left_out else name
        np.testing.assert_array_equal(leaf, full[same])


def test_sizes_that_do_not_fit_leave_nothing(tmp_path: Path) -> None:
    convert_to_jax(GOLDEN / "A/hf", tmp_path / "model")
    for sizes, message in (
        ({"image_size": 30}, r"image_size 30 must be a multiple of vision\.patch_size 14"),
        ({"image_size": 0}, "smaller than a patch"),
        ({"num_queries": 0}, "should be at least 1"),
    ):
        with pytest.raises(Owl2Error, match=message):
            resize_checkpoint(tmp_path / "model", tmp_path / "out", **sizes)
    (tmp_path / "taken").touch()
    with pytest.raises(Owl2Error, match="exists"):
        resize_checkpoint(tmp_path / "model", tmp_path / "taken", num_queries=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "taken"]


@pytest.mark.parametrize("sizes", [{}, {"image_size": 28, "num_queries": 4, "adaptive": "full"}])
def test_a_copy_is_refused_and_says_what_is_there_already(tmp_path: Path, sizes, monkeypatch) -> None:
    message = (
        "nothing to resize: .*A/hf has 28 pixels, 4 queries and the module 'full' already; "
        "give another image size, number of queries or module, or use it as it is"
    )
    with pytest.raises(Owl2Error, match=message):
        resize_checkpoint(GOLDEN / "A/hf", tmp_path / "out", **sizes)
    assert list(tmp_path.iterdir()) == []


def test_released_directory_is_resized_without_converting_it_first(tmp_path: Path) -> None:
    convert_to_jax(GOLDEN / "B/hf", tmp_path / "model")
    for source, output in ((tmp_path / "model", "ours"), (GOLDEN / "B/hf", "released")):
        resize_checkpoint(source, tmp_path / output, image_size=112, num_queries=6, adaptive="norms")
    assert read_model_json(tmp_path / "released") == read_model_json(tmp_path / "ours")
    found, expected = (flatten(restore_params(tmp_path / name / "params")) for name in ("released", "ours"))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_owl2_1_is_resized_as_owl2_is(tmp_path: Path) -> None:
    """From a released directory too; what has a bias keeps it."""
    convert_to_jax(GOLDEN / "F/hf", tmp_path / "model")
    for source, output in ((tmp_path / "model", "ours"), (GOLDEN / "F/hf", "released")):
        config = resize_checkpoint(source, tmp_path / output, image_size=112, num_queries=6, adaptive="q")
    assert (config.vision.image_size, config.tokens_per_image, config.decoder.adaptive) == (112, 7, "q")
    decoder = config.decoder
    assert (decoder.trained_length, decoder.dynamic_ntk, decoder.logn) == (32, True, True)
    old, found, expected = (
        flatten(restore_params(tmp_path / name / "params")) for name in ("model", "released", "ours")
    )
    assert found.keys() == expected.keys() == leaf_shapes(config).keys()
    changed = {"vision/position_embedding", "abstractor/queries"}
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert (bits(values) == bits(old[name])) == (name not in changed), name
    assert {name.split("/")[-2] for name in expected if "_image/" in name} == {"q_image"}


def test_a_query_of_images_starts_as_the_query_of_text(tmp_path: Path) -> None:
    convert_to_jax(GOLDEN / "F/hf", tmp_path / "qkv")
    resize_checkpoint(tmp_path / "qkv", tmp_path / "none", adaptive="none")
    config = resize_checkpoint(tmp_path / "none", tmp_path / "all", adaptive="norms+q+kv")
    assert config.decoder.adaptive == "all"
    params = flatten(restore_params(tmp_path / "all" / "params"))
    for leaf in ("kernel", "bias"):
        place = "decoder/layers/attention"
        np.testing.assert_array_equal(params[f"{place}/q_image/{leaf}"], params[f"{place}/q/{leaf}"])
    with pytest.raises(Owl2Error, match=r"unknown model\.decoder\.adaptive 'qk'"):
        resize_checkpoint(tmp_path / "qkv", tmp_path / "other", adaptive="qk")
