"""How large an engine is: sequences, pages and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from owl2_jax.core.fields import check_values
from owl2_jax.core.ranges import Count, between

DEFAULT_CACHE_BYTES: Final = 256 * 2**20

_Bytes = Annotated[int, between(1, 2**40)]


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine; answers do not depend on them.

    Attributes:
      sequences: most that run at a time.
      page_size: positions of a page of the key/value cache.
      cache_bytes: device memory for the pages, which are all made at the start; None for
        as many as all sequences need at their longest, within `DEFAULT_CACHE_BYTES`.
      chunk_tokens: most prompt tokens between two tokens of an answer.
      chunk_images: most images that are encoded between two tokens of an answer.
      decode_steps: most tokens of an answer between two looks at the queue.
      feature_bytes: device memory for features of images.
      prefix_cache: prompts that begin alike share pages.
    """

    sequences: Count = 32
    page_size: Count = 16
    cache_bytes: _Bytes | None = None
    chunk_tokens: Count = 256
    chunk_images: Count = 8
    decode_steps: Count = 8
    feature_bytes: _Bytes = 64 * 2**20
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        check_values(self, "engine")
