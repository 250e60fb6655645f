from __future__ import annotations

import json
import re
import resource
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import torch

from owl2_jax.checkpoint.param_files import (
    read_model_json,
    read_tokenizer,
    resolve_checkpoint,
    restore_params,
)
from owl2_jax.convert.hf_config import read_hf_config
from owl2_jax.convert.to_flax import convert_to_jax, load_hf_params
from owl2_jax.convert.tokenizer_files import why_no_tokenizer
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import flatten
from owl2_jax.loading import load_model
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import abstract_params
from tests.convert.checkpoints import GOLDEN, LAYOUTS, bits, copy, edit_config, rewrite, tensors

CASES = Path(__file__).parent / "cases"
TOKENIZER = GOLDEN / "text" / "tokenizer.model"


def with_vocabulary(directory: Path, vocab_size: int) -> Path:
    """The checkpoint with a larger vocabulary, so that the golden tokenizer fits it."""
    values = tensors(directory)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        values[name] = torch.randn(vocab_size, 48)
    rewrite(directory, values)
    edit_config(directory, vocab_size=vocab_size)
    return directory


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_value_lands_where_the_table_says(layout: str, tmp_path: Path) -> None:
    config, params = load_hf_params(GOLDEN / layout)
    flat = flatten(params)
    abstract = flatten(abstract_params(config))
    assert {n: (a.shape, a.dtype) for n, a in flat.items()} == {
        n: (a.shape, a.dtype) for n, a in abstract.items()
    }
    theirs = tensors(GOLDEN / layout)
    layer, decoder = 1, config.decoder
    if decoder.qkv_bias:
        weight = np.split(theirs[f"transformer.h.{layer}.attn.c_attn.multiway.1.weight"].numpy(), 3)[1]
    else:
        weight = theirs[f"model.layers.{layer}.self_attn.k_proj.multiway.1.weight"].numpy()
    kernel = flat["decoder/layers/attention/k_image/kernel"][layer]
    expected = weight.reshape(decoder.num_kv_heads, decoder.head_dim, decoder.width).transpose(2, 0, 1)
    np.testing.assert_array_equal(kernel, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_streamed_directory_equals_what_is_loaded_at_once(layout: str, tmp_path: Path) -> None:
    config, params = load_hf_params(GOLDEN / layout)
    convert_to_jax(GOLDEN / layout, tmp_path / "out")
    found = resolve_checkpoint(tmp_path / "out")
    assert Owl2Config.from_dict(read_model_json(tmp_path / "out")["model"]) == config
    restored = flatten(restore_params(found.params))
    assert restored.keys() == flatten(params).keys()
    for name, values in flatten(params).items():
        assert bits(restored[name]) == bits(values), name


@pytest.mark.parametrize(
    ("kind", "stored"),
    [(torch.bfloat16, "bfloat16"), (torch.float16, "float32"), (torch.float32, "float32")],
)
def test_by_default_no_value_changes(tmp_path: Path, kind: torch.dtype, stored: str) -> None:
    directory = copy("B/hf", tmp_path / "hf")
    expected = {name: value.to(kind) for name, value in tensors(directory).items()}
    rewrite(directory, expected)
    model = convert_to_jax(directory, tmp_path / "out")
    assert model["model"]["param_dtype"] == stored
    head = restore_params(tmp_path / "out" / "params")["decoder"]["head"]["kernel"]
    assert head.dtype.name == stored
    np.testing.assert_array_equal(head.astype(np.float32), expected["lm_head.weight"].float().numpy().T)


def test_asked_for_bfloat16_rounds_as_pytorch_does(tmp_path: Path) -> None:
    convert_to_jax(GOLDEN / "B/hf", tmp_path / "out", dtype="bfloat16")
    head = restore_params(tmp_path / "out" / "params")["decoder"]["head"]["kernel"]
    assert head.dtype == ml_dtypes.bfloat16
    assert bits(head) == bits(tensors(GOLDEN / "B/hf")["lm_head.weight"].bfloat16().T)


def test_checkpoint_without_buffers(tmp_path: Path) -> None:
    directory = copy("A/hf", tmp_path / "hf")
    values = tensors(directory)
    rewrite(directory, {n: v for n, v in values.items() if "inv_freq" not in n and "pos_embed" not in n})
    jax.tree.map(
        np.testing.assert_array_equal, load_hf_params(directory)[1], load_hf_params(GOLDEN / "A/hf")[1]
    )


def test_tokenizer_comes_along(tmp_path: Path) -> None:
    directory = with_vocabulary(copy("B/hf", tmp_path / "hf"), 512)
    assert convert_to_jax(directory, tmp_path / "none")["tokenizer"] is None
    convert_to_jax(directory, tmp_path / "given", tokenizer=TOKENIZER)
    (directory / "tokenizer.model").write_bytes(TOKENIZER.read_bytes())
    convert_to_jax(directory, tmp_path / "beside")
    for output in ("given", "beside"):
        assert read_tokenizer(tmp_path / output) == TOKENIZER.read_bytes()


def test_tokenizer_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(Owl2Error, match=r"512 pieces, the model only 128 embeddings; .*tokenizer\.model"):
        convert_to_jax(GOLDEN / "A/hf", tmp_path / "out", tokenizer=TOKENIZER)
    with pytest.raises(Owl2Error, match=r"absent is missing"):
        convert_to_jax(GOLDEN / "A/hf", tmp_path / "out", tokenizer=tmp_path / "absent")
    (tmp_path / "text").write_text("no model")
    with pytest.raises(Owl2Error, match="is no SentencePiece model"):
        convert_to_jax(GOLDEN / "A/hf", tmp_path / "out", tokenizer=tmp_path / "text")
    assert not (tmp_path / "out").exists()


def test_tokenizer_json_alone_is_named_with_what_to_add(tmp_path: Path) -> None:
    directory = with_vocabulary(copy("B/hf", tmp_path / "hf"), 512)
    (directory / "tokenizer.json").write_text("{}")
    assert convert_to_jax(directory, tmp_path / "out")["tokenizer"] is None
    assert re.search(r"has tokenizer\.json alone, .*; copy tokenizer\.model", why_no_tokenizer(directory))
    with pytest.raises(Owl2Error, match=r"has tokenizer\.json alone, .*; copy tokenizer\.model"):
        load_model(directory)
    (directory / "tokenizer.json").unlink()
    with pytest.raises(Owl2Error, match=r"has no tokenizer; copy tokenizer\.model"):
        load_model(directory)


def test_what_else_a_tokenizer_may_be_is_named(tmp_path: Path) -> None:
    directory = with_vocabulary(copy("B/hf", tmp_path / "hf"), 512)
    path = directory / "tokenizer.model"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    for content, message in (
        (pointer, "git lfs pull"),
        (b'{"a": 1}', "is JSON, expected"),
        (b"", "is no Sent"),
        (b"# Readme", r"is no SentencePiece model, or damaged; give the tokenizer\.model of the original$"),
    ):
        path.write_bytes(content)
        with pytest.raises(Owl2Error, match=rf"tokenizer\.model .*{message}"):
            convert_to_jax(directory, tmp_path / "out")
    path.unlink()
    path.mkdir()
    with pytest.raises(Owl2Error, match=r"tokenizer\.model is a folder"):
        convert_to_jax(directory, tmp_path / "out")


@pytest.mark.parametrize("rows", [513, 576])
def test_padded_vocabulary_is_accepted_and_a_far_larger_one_refused(tmp_path: Path, rows: int) -> None:
    directory = with_vocabulary(copy("B/hf", tmp_path / "hf"), rows)
    model = convert_to_jax(directory, tmp_path / "out", tokenizer=TOKENIZER)
    assert model["model"]["decoder"]["vocab_size"] == rows
    other = with_vocabulary(copy("B/hf", tmp_path / "large"), 4096)
    with pytest.raises(Owl2Error, match=r"512 pieces, the model 4096 embeddings, .* more than 1024 spare"):
        convert_to_jax(other, tmp_path / "x", tokenizer=TOKENIZER)


def drop(directory: Path) -> None:
    values = tensors(directory)
    del values["model.norm.weight"], values["model.layers.1.mlp.up_proj.weight"]
    values["model.norm.weights"] = torch.zeros(48)
    rewrite(directory, values)


def reshape(directory: Path) -> None:
    values = tensors(directory)
    values["model.layers.0.mlp.up_proj.weight"] = values["model.layers.0.mlp.up_proj.weight"].T
    rewrite(directory, values)


def retype(directory: Path) -> None:
    values = tensors(directory)
    rewrite(directory, values | {"model.norm.weight": torch.zeros(48, dtype=torch.int32)})


def add(directory: Path) -> None:
    rewrite(directory, tensors(directory) | {"model.layers.0.extra.weight": torch.zeros(3)})


def spoil(directory: Path) -> None:
    name = "model.visual_abstractor.encoder.layers.1.crossattention.attention.k_pos_embed"
    values = tensors(directory)
    rewrite(directory, values | {name: values[name] + 1})


BAD_CHECKPOINTS = [
    (
        drop,
        r"2 missing: .*norm\.weight \(nearest: model\.norm\.weights\); 1 not known: model\.norm\.weights",
    ),
    (reshape, r"1 of another shape.*mlp\.up_proj\.weight is \[48, 96\], expected \[96, 48\]"),
    (retype, r"1 no float: model\.norm\.weight \(int32\)"),
    (add, r"1 not known: model\.layers\.0\.extra\.weight"),
    (spoil, r"buffer .*k_pos_embed differs by 1"),
    (lambda d: edit_config(d, vocab_size=130), r"\[128, 48\], expected \[130, 48\]"),
    (lambda d: edit_config(d, num_key_value_heads=2), r"k_proj.* is \[48, 48\], expected \[24, 48\]"),
    (
        lambda d: edit_config(d, num_attention_heads=8, num_key_value_heads=8),
        r"inv_freq is \[6\], expected \[3\]",
    ),
    (lambda d: edit_config(d, rope_theta=500.0), r"inv_freq differs .* rope_theta"),
    (lambda d: edit_config(d, num_hidden_layers=4), r"13 missing: model\.layers\.3\."),
    (lambda d: edit_config(d, visual_config__visual_model__image_size=30), "must be a multiple of"),
    (lambda d: (d / "config.json").unlink(), r"config\.json is missing"),
]


@pytest.mark.parametrize(("damage", "message"), BAD_CHECKPOINTS)
def test_bad_checkpoints_are_one_clear_error_and_leave_nothing(tmp_path: Path, damage, message: str) -> None:
    directory = copy("A/hf", tmp_path / "hf")
    damage(directory)
    with pytest.raises(Owl2Error, match=message) as error:
        convert_to_jax(directory, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_existing_output_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(Owl2Error, match="exists; choose another name"):
        convert_to_jax(tmp_path / "absent", tmp_path / "out")


def test_disk_that_fills_up(tmp_path: Path) -> None:
    """A limit on file sizes stands in for the disk; it fails the write of a large chunk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, hard))
    try:
        with pytest.raises(Owl2Error, match=r"no space left while writing .*out; nothing was kept"):
            convert_to_jax(GOLDEN / "A/hf", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_theta_of_rope_parameters_is_read(tmp_path: Path) -> None:
    """Case `rope_default5e5`: config.json beside the weights of an export."""
    config = read_hf_config(json.loads((CASES / "rope_default5e5/config.json").read_text()))
    assert config.decoder.rope_theta == 500_000


def without_buffers(directory: Path) -> Path:
    """The checkpoint without the fixed tensors, so that another theta fits it."""
    values = tensors(directory)
    rewrite(directory, {n: v for n, v in values.items() if not n.endswith(("inv_freq", "pos_embed"))})
    return directory


def test_theta_of_rope_parameters_reaches_the_model(tmp_path: Path) -> None:
    directory = without_buffers(copy("B/hf", tmp_path / "hf"))
    values = json.loads((directory / "config.json").read_text())
    del values["rope_theta"], values["rope_scaling"]
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    (directory / "config.json").write_text(json.dumps(values))
    assert convert_to_jax(directory, tmp_path / "out")["model"]["decoder"]["rope_theta"] == 500_000
    for spelling in ("type", "rope_type"):
        edit_config(directory, rope_parameters={spelling: "linear", "factor": 4.0, "rope_theta": 500000.0})
        with pytest.raises(Owl2Error, match=f"rope_parameters: {spelling} is 'linear'; only 'default'"):
            convert_to_jax(directory, tmp_path / "scaled")
    edit_config(directory, rope_parameters={"rope_theta": 500000.0}, rope_theta=10000.0)
    with pytest.raises(Owl2Error, match=r"rope_theta is 10000\.0, rope_parameters\.rope_theta is 500000\.0"):
        convert_to_jax(directory, tmp_path / "contradiction")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_tied_head_is_the_embedding_whatever_lies_beside_it(tmp_path: Path, name: str) -> None:
    """Case `tie_true`."""
    directory = copy("B/hf", tmp_path / "hf")
    edit_config(directory, tie_word_embeddings=True)
    stale = tensors(directory)
    embedding = stale["model.embed_tokens.weight"].numpy()
    alone = {key: value for key, value in stale.items() if key != "lm_head.weight"}
    odd = {**alone, "lm_head.weight": torch.zeros(3, 5)}
    other = {**alone, "lm_head.weight": alone["model.embed_tokens.weight"]}
    del other["model.embed_tokens.weight"]
    for values in (stale, alone, odd, other):
        rewrite(directory, values, name)
        params = load_hf_params(directory)[1]["decoder"]
        np.testing.assert_array_equal(params["embedding"], embedding)
        np.testing.assert_array_equal(params["head"]["kernel"], embedding.T)
    edit_config(directory, tie_word_embeddings=False)
    with pytest.raises(Owl2Error, match=r"missing: model\.embed_tokens\.weight"):
        load_hf_params(directory)


BAD_NUMBERS = [
    (torch.float64, 1e300, "float32", r"has values beyond float32 \(largest 1e\+300\)$"),
    (torch.float64, 1e300, "bfloat16", r"has values beyond float32 \(largest 1e\+300\)$"),
    (torch.float32, 3.4e38, "bfloat16", "has values beyond bfloat16 .*; use --dtype float32"),
    (torch.float32, float("nan"), "float32", "no finite numbers"),
    (torch.float16, float("inf"), "float32", "no finite numbers"),
    (torch.bfloat16, float("-inf"), "bfloat16", "no finite numbers"),
    (torch.float64, float("nan"), "float32", "no finite numbers"),
]


@pytest.mark.parametrize(("kind", "number", "dtype", "message"), BAD_NUMBERS)
def test_numbers_that_are_or_become_infinite_are_refused_with_their_tensor(
    tmp_path: Path, kind: torch.dtype, number: float, dtype: str, message: str
) -> None:
    name = "pytorch_model.bin" if kind == torch.float64 else "model.safetensors"
    directory = copy("B/hf", tmp_path / "hf")
    values = tensors(directory)
    bad = values["model.layers.1.mlp.up_proj.weight"].to(kind)
    bad[3, 4] = number
    rewrite(directory, {**values, "model.layers.1.mlp.up_proj.weight": bad}, name)
    with pytest.raises(Owl2Error, match=rf"model\.layers\.1\.mlp\.up_proj\.weight.*{message}"):
        convert_to_jax(directory, tmp_path / "out", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_huge_sizes_of_a_damaged_config_are_refused_at_once(tmp_path: Path) -> None:
    directory = copy("B/hf", tmp_path / "hf")
    for name, message in (
        (
            "visual_config__visual_abstractor__num_learnable_queries",
            "must be at most 1048576, found 16777216",
        ),
        ("vocab_size", r"expected \[(1, )?16777216, "),
    ):
        usual = json.loads((directory / "config.json").read_text())
        edit_config(directory, **{name: 1 << 24})
        with pytest.raises(Owl2Error, match=message):
            load_hf_params(directory)
        edit_config(directory, **{name: 1 << 40})
        with pytest.raises(Owl2Error, match="whole number up to 16777216, found 1099511627776"):
            load_hf_params(directory)
        (directory / "config.json").write_text(json.dumps(usual))
