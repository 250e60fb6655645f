"""The few static sizes of an engine's programs, and of what lies on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.engine_config import DEFAULT_CACHE_BYTES, DEFAULT_CACHE_SHARE, EngineConfig
from owl2_jax.model.config import Owl2Config

_LOOKED = 16
_MOST_PROMPTS = 32  # of a step


@dataclass(frozen=True)
class StepSize:
    """A step program: T tokens of S rows."""

    tokens: int
    rows: int


@dataclass(frozen=True)
class Memory:
    """Of accelerators.

    Attributes:
      free: bytes that are left for pages, over all devices that pages are cut over.
      lanes: that a head is filled up to.
    """

    free: int
    lanes: int = 1


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
      looked: tokens of an answer whose attention is looked at together.
    """

    pages: int
    pages_per_sequence: int
    decode: tuple[StepSize, ...]
    chunks: tuple[StepSize, ...]
    images: tuple[int, ...]
    features: int
    looked: int

    @classmethod
    def of(
        cls, config: EngineConfig, model: Owl2Config, ways: int = 1, memory: Memory | None = None
    ) -> Sizes:
        """Counts what the configuration comes to.

        Args:
          ways: pieces that a mesh cuts tokens and images into.
          memory: of accelerators; None for a CPU.

        Raises:
          Owl2Error: the cache is smaller than one sequence at its longest, a share of a CPU's memory
            is asked for, or sequences do not divide over the mesh.
        """
        if config.sequences % ways:
            raise Owl2Error(
                f"engine sequences {config.sequences} do not divide over the {ways} batch pieces of the mesh"
            )
        each = -(-model.decoder.max_length // config.page_size)
        return cls(
            pages=_pages(config, model, each, memory),
            pages_per_sequence=each,
            decode=tuple(StepSize(rows, rows) for rows in decode_rows(config.sequences, ways)),
            chunks=chunk_sizes(config.chunk_tokens, config.sequences, ways),
            images=tuple(sorted({ways, -(-config.chunk_images // ways) * ways})),
            features=_features(config, model),
            looked=-(-_LOOKED // ways) * ways,
        )


def _pages(config: EngineConfig, model: Owl2Config, each: int, memory: Memory | None) -> int:
    """How many pages there are, when a sequence needs `each` at its longest."""
    size, longest = config.page_size, model.decoder.max_length
    bytes_ = page_bytes(model, size, 1 if memory is None else memory.lanes)
    if memory is None and config.cache_share is not None:
        raise Owl2Error(
            f"engine cache_share {config.cache_share} is a share of an accelerator's memory, and this is a "
            "CPU; give the size of the cache itself (--cache-mib)"
        )
    given = config.cache_bytes
    if given is None and memory is not None:
        left = memory.free - _features(config, model) * _feature_bytes(model)
        given = max(int((config.cache_share or DEFAULT_CACHE_SHARE) * left), 0)
    held = (DEFAULT_CACHE_BYTES if given is None else given) // bytes_
    if given is not None and held <= each:
        what = "cache_bytes" if config.cache_bytes is not None else "cache of what the device has left,"
        raise Owl2Error(
            f"engine {what} {given} make {held} pages of {size} positions; one sequence of {longest} "
            f"positions needs {each} and one to copy from: give at least {(each + 1) * bytes_}"
        )
    most = held if config.cache_bytes is not None else min(held, config.sequences * each)
    return max(most, each + 1)


def page_bytes(model: Owl2Config, page_size: int, lanes: int = 1) -> int:
    """Bytes of one page of all layers, keys and values; heads are filled up to whole `lanes`."""
    decoder = model.decoder
    width = -(-decoder.head_dim // lanes) * lanes
    numbers = 2 * decoder.num_layers * decoder.num_kv_heads * width * page_size
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
        sizes.add(StepSize(count, min(count, sequences, _MOST_PROMPTS)))
    return tuple(sorted(sizes, key=lambda size: size.tokens))


def _features(config: EngineConfig, model: Owl2Config) -> int:
    """As many images as the memory holds, but at least those of the fullest chunk."""
    fullest = config.chunk_tokens // model.tokens_per_image + 2
    return max(fullest, min(config.feature_bytes // _feature_bytes(model), 4096))


def _feature_bytes(model: Owl2Config) -> int:
    """Of one image."""
    return model.tokens_per_image * model.decoder.width * np.dtype(model.dtype).itemsize


def describe_cache(config: EngineConfig, model: Owl2Config, pages: int) -> str:
    """The cache in a line for people: pages, tokens and memory."""
    mib = pages * page_bytes(model, config.page_size) / 2**20
    return (
        f"cache: {pages} pages of {config.page_size} positions for {pages * config.page_size} tokens of up "
        f"to {config.sequences} sequences, {mib:.0f} MiB"
    )
