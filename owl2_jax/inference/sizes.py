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
        as many as all sequences need at their longest, within `
