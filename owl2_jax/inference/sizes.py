"""How large an engine is: slots, batches and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from owl2_jax.core.fields import check_values
from owl2_jax.core.ranges import Count, Whole, between
from owl2_jax.inference.buckets import length_buckets
from owl2_jax.model.config import Owl2Config


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine; answers do not depend on them.

    Attributes:
      slots: requests decoded together.
      prefill_rows: most prompts in one prefill.
      decode_steps: most tokens per slot between two looks at the queue.
      feature_bytes: device memory for features of images.
      shortest_cache: positions per slot at first; the cache grows when a
        request needs more.
      reuse_from: shared positions at the beginning of two prompts (an image,
        earlier turns) from which on they are copied and not run again; 0 for never.
    """

    slots: Count = 32
    prefill_rows: Count = 64
    decode_steps: Count = 8
    feature_bytes: Annotated[int, between(1, 2**40)] = 64 * 2**20
    shortest_cache: Count = 64
    reuse_from: Whole = 32

    def __post_init__(self) -> None:
        check_values(self, "engine")

    def cache_lengths(self, longest: int) -> tuple[int, ...]:
        """Positions per slot that the cache may have, ascending; `longest` is the model's limit."""
        return length_buckets(longest, self.shortest_cache)

    @classmethod
    def for_throughput(cls, model: Owl2Config, cache_bytes: int = 256 * 2**20, ways: int = 1) -> EngineConfig:
        """Sizes for many requests at once: as many slots as fit into `cache_bytes`, about 8 to 256.

        Args:
          ways: pieces that a mesh cuts the slots into; their number is a multiple of it.
        """
        decoder = model.decoder
        position = 2 * decoder.num_layers * decoder.num_kv_heads * decoder.head_dim
        slot = position * np.dtype(model.dtype).itemsize * decoder.max_length
        slots = min(max(cache_bytes // slot, 8), 256)
        return cls(slots=-(-slots // ways) * ways)
