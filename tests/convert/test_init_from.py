from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from owl2_jax.checkpoint.param_files import read_model_json, read_tokenizer, restore_params
from owl2_jax.convert.golden_pages import PagedRows
from owl2_jax.convert.hf_config import read_clip_config, read_language_config
from owl2_jax.convert.init_from import init_checkpoint
from owl2_jax.convert.resize import resize_position_table
from owl2_jax.convert.to_torch import convert_to_torch
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import flatten
from owl2_jax.model.config import Owl2Config, VisionConfig
from owl2_jax.model.owl2 import Owl2, abstract_params
from tests.convert.checkpoints import bits, rewrite, tensors
from tests.convert.starting_points import (
    LlamaSizes,
    clip_features,
    llama_logits,
    qwen_logits,
    write_clip,
    write_llama,
    write_qwen,
)
from tests.data.vocabularies import small_ranks

SMALL = {"image_size": 28, "num_queries": 3, "abstractor_layers": 1}


def start(tmp_path: Path, **arguments: Any) -> tuple[Owl2Config, dict]:
    config = init_checkpoint(
        tmp_path / "llama", tmp_path / "clip", tmp_path / "out", **{**SMALL, **arguments}
    )
    return config, restore_params(tmp_path / "out" / "params")


def logits(config: Owl2Config, params: dict, tokens: np.ndarray) -> list[jax.Array]:
    """Logits of a text, with all of its positions taken for text, and for an image's."""
    features = jnp.asarray(params["decoder"]["embedding"][tokens])[None]
    rows = PagedRows(np.ones((1, len(tokens)), np.int32), room=0)

    def run(m: Owl2, *inputs: Any) -> jax.Array:
        return m.logits(m.step(inputs[0], features, inputs[1], rows.empty_pages(config), inputs[2])[0])

    forward = jax.jit(lambda p, *inputs: Owl2(config).apply({"params": p}, *inputs, method=run))
    start = np.zeros((1, 1), np.int32)
    return [
        forward(params, *rows.prompts(tokens[None], np.full((1, 1), index), start, len(tokens)))
        for index in (-1, 0)
    ]


@pytest.mark.parametrize(
    "sizes", [LlamaSizes(), LlamaSizes(num_kv_heads=2), LlamaSizes(num_kv_heads=1, tied=True)]
)
def test_both_branches_compute_what_llama_computes(tmp_path: Path, sizes: LlamaSizes, toy_tokenizer) -> None:
    llama = write_llama(tmp_path / "llama", sizes, toy_tokenizer.bytes)
    write_clip(tmp_path / "clip")
    config, params = start(tmp_path)
    assert config.decoder.norm_eps == 1e-5
    tokens = np.asarray([1, 17, 230, 5])
    expected = llama_logits(llama, sizes, torch.from_numpy(tokens))
    # Four positions are one image of three queries and the end token.
    for actual in logits(config, params, tokens):
        np.testing.assert_allclose(actual, expected.numpy(), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("whole", [True, False])
def test_the_encoder_computes_what_clip_computes(tmp_path: Path, whole: bool, toy_tokenizer) -> None:
    write_llama(tmp_path / "llama", LlamaSizes(), toy_tokenizer.bytes)
    clip = write_clip(tmp_path / "clip", whole)
    config, params = start(tmp_path)
    pixels = torch.randn(2, 3, 28, 28)
    actual = Owl2(config).apply(
        {"params": params}, jnp.asarray(pixels.permute(0, 2, 3, 1).numpy()), method=lambda m, x: m.vision(x)
    )
    np.testing.assert_allclose(actual, clip_features(clip, pixels).numpy(), atol=2e-5, rtol=1e-4)


def test_position_table_is_resized_to_another_image_size(tmp_path: Path, toy_tokenizer) -> None:
    write_llama(tmp_path / "llama", LlamaSizes(), toy_tokenizer.bytes)
    clip = write_clip(tmp_path / "clip")
    config, params = start(tmp_path, image_size=70)
    assert config.vision.image_size == 70
    table = clip["vision_model.embeddings.position_embedding.weight"].numpy()
    np.testing.assert_array_equal(params["vision"]["position_embedding"], resize_position_table(table, 5))


def test_directory_is_complete_and_the_abstractor_comes_from_the_seed(tmp_path: Path, toy_tokenizer) -> None:
    write_llama(tmp_path / "llama", LlamaSizes(), toy_tokenizer.bytes)
    write_clip(tmp_path / "clip")
    config, params = start(tmp_path, seed=3)
    assert read_tokenizer(tmp_path / "out") == toy_tokenizer.bytes
    assert Owl2Config.from_dict(read_model_json(tmp_path / "out")["model"]) == config
    shapes = {name: leaf.shape for name, leaf in flatten(abstract_params(config)).items()}
    assert {name: leaf.shape for name, leaf in flatten(params).items()} == shapes
    queries = params["abstractor"]["queries"]
    assert 0.2 < queries.std() < 0.6
    for name, seed, equal in (("again", 3, True), ("other", 4, False)):
        init_checkpoint(tmp_path / "llama", tmp_path / "clip", tmp_path / name, **SMALL, seed=seed)
        other = restore_params(tmp_path / name / "params")
        assert (bits(other["abstractor"]["queries"]) == bits(queries)) == equal
        assert bits(other["decoder"]["head"]["kernel"]) == bits(params["decoder"]["head"]["kernel"])


def test_narrow_sources_stay_narrow(tmp_path: Path, toy_tokenizer) -> None:
    write_llama(tmp_path / "llama", LlamaSizes(), toy_tokenizer.bytes)
    write_clip(tmp_path / "clip")
    for name, file in (("llama", "model.safetensors"), ("clip", "pytorch_model.bin")):
        values = tensors(tmp_path / name)
        narrow = {key: v.bfloat16() if v.is_floating_point() else v for key, v in values.items()}
        rewrite(tmp_path / name, narrow, file)
    config, params = start(tmp_path)
    assert config.param_dtype == "bfloat16"
    assert {leaf.dtype for leaf in flatten(params).values()} == {np.dtype(ml_dtypes.bfloat16)}


BAD_SETTINGS = [
    ("llama", {"model_type": "qwen2"}, "model_type is 'qwen2', expected one of llama, mistral"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "llama3"}},
        "rope_scaling: rope_type is 'llama3'; only",
    ),
    ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
    ("llama", {"rope_parameters": {"type": "linear", "factor": 4.0, "rope_theta": 1e4}}, "type is 'linear'"),
    ("llama", {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "contradicts itself"),
    ("llama", {"model_type": "mistral"}, "sliding_window is 4096.*leaves it out means 4096"),
    ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings should be true or false, found 'yes'"),
    ("llama", {"attention_bias": True}, "attention_bias is True"),
    ("llama", {"mlp_bias": True}, "mlp_bias is True"),
    ("llama", {"sliding_window": 4096}, "sliding_window is 4096"),
    ("llama", {"head_dim": 16}, "head_dim is 16; only 8"),
    ("llama", {"vocab_size": 301}, r"\[300, 32\], expected \[301, 32\]"),
    ("llama", {"num_hidden_layers": 1}, r"not known: model\.layers\.1\."),
    ("clip", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'quick_gelu'"),
    ("clip", {"num_hidden_layers": 3}, r"missing: vision_model\.encoder\.layers\.2\."),
    ("clip", {"image_size": 42}, r"position_embedding\.weight is \[5, 16\], expected \[10, 16\]"),
]


@pytest.mark.parametrize(("which", "settings", "message"), BAD_SETTINGS)
def test_sources_that_do_not_fit(tmp_path: Path, which: str, settings: dict, message, toy_tokenizer) -> None:
    llama = settings if which == "llama" else {}
    write_llama(tmp_path / "llama", LlamaSizes(), toy_tokenizer.bytes, **llama)
    write_clip(tmp_path / "clip", whole=False, **(settings if which == "clip" else {}))
    with pytest.raises(Owl2Error, match=message):
        start(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip", "llama"]


def test_bad_arguments(tmp_path: Path, toy_tokenizer) -> None:
    write_llama(tmp_path / "llama", LlamaSizes(), toy_tokenizer.bytes)
    write_clip(tmp_path / "clip")
    for arguments, message in (
        ({"image_size": 30}, "must be a multiple of .* 14"),
        ({"image_size": 7}, "smaller than a patch"),
        ({"num_queries": 0}, "should be at least 1"),
    ):
        with pytest.raises(Owl2Error, match=message):
            start(tmp_path, **arguments)
    with pytest.raises(Owl2Error, match="model_type is 'clip', expected one of llama"):
        init_checkpoint(tmp_path / "clip", tmp_path / "llama", tmp_path / "out")
    (tmp_path / "llama" / "tokenizer.model").unlink()
    with pytest.raises(Owl2Error, match=r"has no tokenizer; copy tokenizer\.model"):
        start(tmp_path)


def test_scaling_in_the_old_spelling_is_refused() -> None:
    """Case `lrope_linear`."""
    values = json.loads((Path(__file__).parent / "cases/lrope_linear/config.json").read_text())
    with pytest.raises(Owl2Error, match="rope_parameters: type is 'linear'; only 'default' is supported"):
        read_language_config(values)
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    assert read_language_config(values).rope_theta == 500_000


def test_stale_head_of_a_tied_llama_is_not_read(tmp_path: Path, toy_tokenizer) -> None:
    llama = write_llama(tmp_path / "llama", LlamaSizes(), toy_tokenizer.bytes, tie_word_embeddings=True)
    write_clip(tmp_path / "clip")
    assert "lm_head.weight" in llama
    embedding = llama["model.embed_tokens.weight"].numpy()
    np.testing.assert_array_equal(start(tmp_path)[1]["decoder"]["head"]["kernel"], embedding.T)


def test_encoder_that_a_clip_describes_twice() -> None:
    """Old files of CLIP hold `vision_config_dict` too, which counts for transformers."""
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
             "num_hidden_layers": 24, "patch_size": 14}  # fmt: skip
    values = {"model_type": "clip", "vision_config": dict(large), "vision_config_dict": dict(large)}
    assert read_clip_config(values) == VisionConfig(image_size=224, norm_eps=1e-5)
    values["vision_config_dict"]["patch_size"] = 16
    with pytest.raises(Owl2Error, match="vision_config and vision_config_dict describe different encoders"):
        read_clip_config(values)
    with pytest.raises(Owl2Error, match="vision_config is missing"):
        read_clip_config({"model_type": "clip", "projection_dim": 768})


QWEN_SIZES = LlamaSizes(vocab_size=520)


def test_a_plain_qwen_makes_an_owl2_1_with_both_branches_alike(tmp_path: Path) -> None:
    theirs = write_qwen(tmp_path / "qwen", QWEN_SIZES, small_ranks())
    write_clip(tmp_path / "clip")
    config = init_checkpoint(tmp_path / "qwen", tmp_path / "clip", tmp_path / "start", **SMALL)
    decoder = config.decoder
    assert (decoder.adaptive, decoder.qkv_bias, decoder.mlp_dim) == ("qkv", True, QWEN_SIZES.mlp_dim)
    assert (decoder.trained_length, decoder.max_length) == (64, 128)
    assert (decoder.dynamic_ntk, decoder.logn) == (True, True)
    assert read_model_json(tmp_path / "start")["tokenizer"] == "qwen.tiktoken"
    assert (tmp_path / "start" / "qwen.tiktoken").read_bytes() == small_ranks()
    params = flatten(restore_params(tmp_path / "start" / "params"))
    place = "decoder/layers/attention"
    for name, image in (("q", "q_image"), ("k_text", "k_image"), ("v_text", "v_image")):
        for leaf in ("kernel", "bias"):
            np.testing.assert_array_equal(params[f"{place}/{name}/{leaf}"], params[f"{place}/{image}/{leaf}"])
    fused = theirs["transformer.h.1.attn.c_attn.weight"].numpy()
    keys = fused[32:64].reshape(4, 8, 32).transpose(2, 0, 1)
    np.testing.assert_array_equal(params[f"{place}/k_image/kernel"][1], keys)
    gate = theirs["transformer.h.0.mlp.w2.weight"].numpy()
    np.testing.assert_array_equal(params["decoder/layers/mlp/gate/kernel"][0], gate.T)
    convert_to_torch(tmp_path / "start", tmp_path / "hf")
    released = load_file(tmp_path / "hf" / "model.safetensors")
    for branch in (0, 1):
        name = f"transformer.h.1.attn.c_attn.multiway.{branch}"
        assert torch.equal(released[f"{name}.weight"], theirs["transformer.h.1.attn.c_attn.weight"])
        assert torch.equal(released[f"{name}.bias"], theirs["transformer.h.1.attn.c_attn.bias"])
    assert (tmp_path / "hf" / "qwen.tiktoken").read_bytes() == small_ranks()
    assert json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text()) == {
        "model_max_length": 128, "tokenizer_class": "QWenTokenizer",
    }  # fmt: skip


@pytest.mark.parametrize("length", [4, 80])
def test_both_branches_compute_what_qwen_computes_also_beyond_its_length(tmp_path: Path, length: int) -> None:
    theirs = write_qwen(tmp_path / "qwen", QWEN_SIZES, small_ranks())
    write_clip(tmp_path / "clip")
    small = {**SMALL, "num_queries": length - 1}  # all positions are one image of these and the end token
    config = init_checkpoint(tmp_path / "qwen", tmp_path / "clip", tmp_path / "start", **small)
    params = restore_params(tmp_path / "start" / "params")
    tokens = np.random.default_rng(0).integers(0, 520, length)
    expected = qwen_logits(theirs, QWEN_SIZES, torch.from_numpy(tokens)).numpy()
    for actual in logits(config, params, tokens):
        np.testing.assert_allclose(actual, expected, atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_length": None}, "seq_length is None, expected the length .* dynamic NTK and log-n"),
        ({"kv_channels": 16}, "kv_channels is 16; only 8"),
        ({"intermediate_size": 97}, "intermediate_size is 97; expected twice"),
        ({"no_bias": False}, "no_bias is False; only True is supported"),
        ({"multiway": True}, "multiway is True; expected a plain Qwen"),
        ({"rotary_pct": 0.5}, "rotary_pct is 0.5"),
    ],
)
def test_a_qwen_that_is_no_start_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    write_qwen(tmp_path / "qwen", QWEN_SIZES, small_ranks(), **changes)
    write_clip(tmp_path / "clip")
    with pytest.raises(Owl2Error, match=message):
        init_checkpoint(tmp_path / "qwen", tmp_path / "clip", tmp_path / "start", **SMALL)
