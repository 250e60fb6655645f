"""Fakes for tests and examples: a model, parameters, a tokenizer, images and a batch, all small.

Everything is random but seeded, so two calls give the same values.
"""

from __future__ import annotations

import functools
import io
from typing import Any, Final

import jax
import numpy as np

from owl2_jax.core.axes import IGNORE_LABEL
from owl2_jax.data.sentence_pieces import train_tokenizer
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.data.tokenizers import open_tokenizer
from owl2_jax.model.config import AbstractorConfig, DecoderConfig, Owl2Config, VisionConfig
from owl2_jax.model.owl2 import init_params

TOY_VOCAB_SIZE = 300

_TOY_TEXT = (
    "USER: What shape is this? ASSISTANT: a red circle",
    "USER: Is there a blue triangle in the image? ASSISTANT: yes",
    "USER: How many squares do you see? ASSISTANT: no, three of them",
    "A chat between a curious user and an artificial intelligence assistant.",
)


# What makes `tiny_config` an mPLUG-Owl2.1, trained at a length that tests can pass.
OWL2_1: Final[dict[str, Any]] = {
    "decoder.num_kv_heads": 4, "decoder.adaptive": "qkv", "decoder.qkv_bias": True,
    "decoder.trained_length": 32, "decoder.dynamic_ntk": True, "decoder.logn": True,
}  # fmt: skip


def tiny_config(**changes: Any) -> Owl2Config:
    """Every part of the architecture, grouped-query attention included, at about 40 000 parameters.

    Args:
      changes: passed to `Owl2Config.replace`.
    """
    config = Owl2Config(
        vision=VisionConfig(width=16, num_layers=2, num_heads=2, mlp_dim=32, image_size=28),
        abstractor=AbstractorConfig(num_layers=1, num_heads=2, mlp_dim=24, num_queries=4),
        decoder=DecoderConfig(
            vocab_size=TOY_VOCAB_SIZE,
            width=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            mlp_dim=48,
            max_length=128,
        ),
    )
    return config.replace(**changes)


def tiny_params(config: Owl2Config | None = None, seed: int = 0, scale: float = 4.0) -> dict[str, Any]:
    """Random parameters of `config` (default `tiny_config()`).

    Args:
      scale: factor on embeddings and head, so that greedy answers vary with
        the prompt instead of repeating one token.
    """
    config = config or tiny_config()
    params = init_params(config, jax.random.key(seed))
    decoder = dict(params["decoder"])
    decoder["embedding"] = decoder["embedding"] * (10 * scale)
    decoder["head"] = {"kernel": decoder["head"]["kernel"] * scale}
    return {**params, "decoder": decoder}


@functools.cache
def toy_tokenizer() -> Tokenizer:
    """A tokenizer of `TOY_VOCAB_SIZE` pieces, trained on a few sentences when first asked for."""
    return open_tokenizer(train_tokenizer(_TOY_TEXT, TOY_VOCAB_SIZE))


def image(seed: int, size: int = 28) -> np.ndarray:
    """A random image, uint8[size, size, 3] RGB."""
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def image_file(seed: int, size: int = 28) -> bytes:
    """The same image as the bytes of a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image(seed, size)).save(stream, "PNG")
    return stream.getvalue()


def tiny_inputs(config: Owl2Config, rows: int = 4, length: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    """Arguments of `Owl2.__call__` by name, with labels: ragged rows of 0, 1, 2, 0, ... images.

    Returns:
      tokens, positions, segment_ids, labels int32[rows, length]; images
      uint8[M, H, W, 3]; image_index, image_starts int32[rows, 2].
    """
    span, rng = config.tokens_per_image, np.random.default_rng(seed)
    counts = [row % 3 for row in range(rows)]
    tokens = rng.integers(3, config.decoder.vocab_size, (rows, length)).astype(np.int32)
    lengths = np.array([length - 2 * (row % 2) for row in range(rows)])
    real = np.arange(length) < lengths[:, None]
    starts, index = np.zeros((rows, 2), np.int32), np.full((rows, 2), -1, np.int32)
    labels, used = np.where(real, tokens, IGNORE_LABEL), 0
    for row, count in enumerate(counts):
        for place in range(count):
            start = 1 + place * (span + 1)
            index[row, place], starts[row, place] = used, start
            tokens[row, start : start + span] = 0
            labels[row, start : start + span] = IGNORE_LABEL
            used += 1
    size = config.vision.image_size
    return {
        "tokens": np.where(real, tokens, 0).astype(np.int32),
        "positions": np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        "segment_ids": real.astype(np.int32),
        "images": np.stack([image(seed * 1000 + i, size) for i in range(used)]) if used
        else np.zeros((0, size, size, 3), np.uint8),
        "image_index": index,
        "image_starts": starts,
        "labels": labels.astype(np.int32),
    }  # fmt: skip
