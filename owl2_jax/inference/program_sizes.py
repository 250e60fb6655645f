"""The few static sizes of an engine's programs, and of what lies on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.sizes import DEFAULT_CACHE_BYTES, EngineConfig
from owl2_jax.model.config import Owl2Config


@dataclass(frozen=True)
class StepSize:
    """A step program: T tokens of S rows."""

    tokens: int
    rows: int


@dataclass(frozen=True)
class Sizes:
    """What an engine's configuration comes to for one model.

    Attributes:
      pages: P, of each layer.
      pages_per_sequence: W.
      decode: step programs in which every row has one token, ascending.
      chunks: step programs for prompts, ascending.
      images: numbers of images that are encoded together, ascending.
      features: F, rows of the feature pool.
    """

    pages: int
    pages_per_sequence: int
    decode: tuple[StepSize, ...]
    chunks: tuple[StepSize, ...]
    images: tuple[int, ...]
    features: int

    @classmethod
    def of(cls, config: EngineConfig, model: Owl2Config, ways: int = 1) -> Sizes:
        """Args: ways: pieces that a mesh cuts tokens and images into.

        Raises:
          Owl2Error: the cache is smaller than one sequence at its longest, or sequences do not
            divide over the mesh.
        """
        if config.sequences % ways:
            raise Owl2Error(
                f"engine sequences {config.sequences} do not divide over the {ways} batch pieces of the mesh"
            )
        longest = model.decoder.max_length
        each = -(-longest // config.page_size)
        wanted = config.sequences * each
        held = (config.cache_bytes or DEFAULT_CACHE_BYTES) // page_bytes(model, config.page_size)
        if held <= each and config.cache_bytes is not None:
            raise Owl2Error(
                f"engine cache_bytes {config.cache_bytes} make {held} pages of {config.page_size} positions; "
                f"one sequence of {longest} positions needs {each} and one to copy from: "
                f"give at least {(each + 1) * page_bytes(model, config.page_size)}"
            )
        pages = held if config.cache_bytes is not None else min(held, wanted)
        return cls(
            pages=max(pages, each + 1),
            pages_per_sequence=each,
            decode=tuple(StepSize(rows, rows) for rows in decode_rows(config.sequences, ways)),
            chunks=chunk_sizes(config.chunk_tokens, config.sequences, ways),
            images=tuple(sorted({ways, -(-config.chunk_images // ways) * ways})),
            features=_features(config, model),
        )


def page_bytes(model: Owl2Config, page_size: int) -> int:
    """Bytes of one page of all layers, keys and values."""
    decoder = model.decoder
    numbers = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim * page_size
    return numbers * np.dtype(model.dtype).itemsize


def decode_rows(sequences: int, ways: int = 1) -> tuple[int, ...]:
    """All, a half, and quarters of that down to one: at most five numbers, multiples of `ways`."""
    sizes = {sequences}
    size = sequences // 2
    while size > ways and len(sizes) < 4:
        sizes.add(-(-size // ways) * ways)
        size //= 4 if len(sizes) > 2 else 2
    return tuple(sorted(sizes | {ways}))


def chunk_sizes(tokens: int, sequences: int, ways: int = 1) -> tuple[StepSize, ...]:
    """The whole chunk and an eighth of it."""
    sizes = set()
    for part in (1, 8):
        count = max(-(-tokens // part // ways) * ways, ways)
        sizes.add(StepSize(count, min(count, sequences, 16)))
    return tuple(sorted(sizes, key=lambda size: size.tokens))


def _features(config: EngineConfig, model: Owl2Config) -> int:
    """As many images as the memory holds, but at least those of the fullest chunk."""
    item = model.tokens_per_image * model.decoder.width * np.dtype(model.dtype).itemsize
    fullest = config.chunk_tokens // model.tokens_per_image + 2
    return max(fullest, min(config.feature_bytes // item, 4096))
