"""How large an engine is: sequences, pages and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import check_values
from owl2_jax.core.ranges import Count, PartKept, between

DEFAULT_CACHE_BYTES: Final = 256 * 2**20  # of a CPU's memory
DEFAULT_CACHE_SHARE: Final = 0.9  # of an accelerator's, of what it has left; steps need the rest

_Bytes = Annotated[int, between(1, 2**40)]


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine; answers do not depend on them.

    Attributes:
      sequences: most that run at a time.
      page_size: positions of a page of the key/value cache.
      cache_bytes: device memory for the pages, which are all made at the start; None for
        as many as all sequences need at their longest, within `cache_share` of what an
        accelerator has left, or on a CPU within `DEFAULT_CACHE_BYTES`.
      cache_share: of an accelerator's memory, once parameters and features are there; None
        for `DEFAULT_CACHE_SHARE`.
      chunk_tokens: most prompt tokens between two tokens of an answer.
      chunk_images: most images that are encoded between two tokens of an answer.
      decode_steps: most tokens of an answer between two looks at the queue.
      feature_bytes: device memory for features of images.
      prefix_cache: prompts that begin alike share pages.
    """

    sequences: Count = 32
    page_size: Count = 16
    cache_bytes: _Bytes | None = None
    cache_share: PartKept | None = None
    chunk_tokens: Count = 256
    chunk_images: Count = 8
    decode_steps: Count = 8
    feature_bytes: _Bytes = 64 * 2**20
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        check_values(self, "engine")
        if self.cache_bytes is not None and self.cache_share is not None:
            raise Owl2Error(
                f"engine cache_bytes {self.cache_bytes} and cache_share {self.cache_share} both say how "
                "large the cache is; leave one of them out"
            )
