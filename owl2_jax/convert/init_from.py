"""The start of stage 1: LLaMA-2 or Qwen in both branches, CLIP in the encoder, a random abstractor."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from owl2_jax.checkpoint.output_directory import refuse_existing
from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.convert.coverage import check_coverage
from owl2_jax.convert.hf_config import is_tied, read_clip_config, read_language_config
from owl2_jax.convert.qwen_weight_names import QWEN
from owl2_jax.convert.resize import resize_position_table, resized_config
from owl2_jax.convert.source import Source
from owl2_jax.convert.to_flax import by_leaf, exact_dtype, leaf_shapes, materialize, streamed_leaves
from owl2_jax.convert.tokenizer_files import read_tokenizer_file, why_no_tokenizer
from owl2_jax.convert.weight_names import CLIP, LLAMA, pairs, tied_head, tied_names
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tokenizer_files import file_name
from owl2_jax.core.tree import flatten, unflatten
from owl2_jax.model.abstractor import Abstractor
from owl2_jax.model.config import AbstractorConfig, DecoderConfig, Owl2Config, VisionConfig

# Parts of a CLIP checkpoint that are not its image encoder.
_CLIP_OTHER: Final = (
    "text_model.", "text_projection", "visual_projection", "logit_scale",
    "vision_model.embeddings.position_ids",
)  # fmt: skip


def init_checkpoint(
    language: str | Path,
    clip: str | Path,
    output: str | Path,
    *,
    image_size: int = 224,
    num_queries: int = 64,
    abstractor_layers: int = 6,
    seed: int = 0,
    dtype: str | None = None,
) -> Owl2Config:
    """Writes a model directory to start stage 1 from.

    Args:
      language: a directory of LLaMA's architecture (grouped-query attention and
        tied embeddings allowed), which makes an mPLUG-Owl2, or of Qwen's, which
        makes an mPLUG-Owl2.1.
      clip: a CLIP directory, whole or image encoder only.
      output: must not exist yet.
      image_size: pixels; CLIP's position table is resized when its own differs.
      num_queries: of the abstractor.
      abstractor_layers: of the abstractor; its MLP is 2.75 times the width.
      seed: of the abstractor's random parameters.
      dtype: "float32" or "bfloat16"; by default the narrowest of the two that
        changes no weight of either source.

    Returns:
      The configuration of the new model.

    Raises:
      Owl2Error: a damaged source, one of another architecture or whose sizes
        do not fit, or an output that exists or does not fit on the disk.
    """
    refuse_existing(output)
    text, images = Source(language), Source(clip)
    settings, where = text.config(), str(text.config_path)
    decoder, tied = read_language_config(settings, where), is_tied(settings, where)
    vision = read_clip_config(images.config(), str(images.config_path))
    native = Owl2Config(vision, _abstractor_config(vision, num_queries, abstractor_layers), decoder)
    shapes = leaf_shapes(native)
    rules = QWEN if decoder.qkv_bias else LLAMA
    text_pairs, image_pairs = list(pairs(rules, shapes)), list(pairs(CLIP, shapes))
    unread = tied_names(text_pairs) if tied else set()
    if tied:
        text_pairs = tied_head(text_pairs, text.specs)
    check_coverage(text.specs, text_pairs, _frequencies(decoder), text.where, unread.__contains__)
    check_coverage(images.specs, image_pairs, {}, images.where, lambda n: n.startswith(_CLIP_OTHER))
    widest = {exact_dtype(text, text_pairs), exact_dtype(images, image_pairs)}
    dtype = dtype or ("float32" if "float32" in widest else "bfloat16")
    config = resized_config(native.replace(dtype=dtype, param_dtype=dtype), image_size, None)

    leaves: dict[str, Any] = {
        **streamed_leaves(text, by_leaf(text_pairs), shapes, dtype),
        **streamed_leaves(images, by_leaf(image_pairs), shapes, dtype),
        **random_abstractor(config, seed),
    }
    table = "vision/position_embedding"
    leaves[table] = resize_position_table(materialize(leaves[table]), config.vision.grid_size)
    pieces = read_tokenizer_file(language, None, decoder.vocab_size)
    if pieces is None:
        raise Owl2Error(why_no_tokenizer(language))
    write_model_directory(
        output, model_json(config.to_dict(), tokenizer=file_name(pieces)), unflatten(leaves), pieces
    )
    return config


def random_abstractor(config: Owl2Config, seed: int) -> dict[str, np.ndarray]:
    """{path: values} of the abstractor's leaves, from its own initializers."""
    image = jnp.zeros((1, config.vision.num_patches + 1, config.vision.width), config.dtype)
    init = jax.jit(partial(Abstractor(config).init, jax.random.key(seed)))
    params = nn.meta.unbox(init(image)["params"])
    return {f"abstractor/{path}": np.asarray(values) for path, values in flatten(params).items()}


def _abstractor_config(vision: VisionConfig, num_queries: int, num_layers: int) -> AbstractorConfig:
    """The released proportions: heads as in the encoder, an MLP of 2.75 widths."""
    if num_queries < 1 or num_layers < 1:
        raise Owl2Error(f"num_queries {num_queries} and abstractor layers {num_layers} should be at least 1")
    return AbstractorConfig(num_layers, vision.num_heads, vision.width * 11 // 4, num_queries)


def _frequencies(decoder: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Tensors of LLaMA that a checkpoint may hold and that are computed here."""
    return {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": (decoder.head_dim // 2,)
        for layer in range(0 if decoder.qkv_bias else decoder.num_layers)
    }
