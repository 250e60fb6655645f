"""Sources of examples, one file per kind of data."""

from __future__ import annotations

from typing import Any

from owl2_jax.core.errors import unknown_name
from owl2_jax.data.sources.base import Example, RecordError, Source
from owl2_jax.data.sources.embedded import EmbeddedSource

# Kind, as a config names it -> class.
SOURCES: dict[str, type] = {
    "embedded": EmbeddedSource,
}


def make_source(kind: str, **settings: Any) -> Source:
    """Builds the source of a `kind` of `SOURCES` with that class's settings.

    Raises:
      UnknownNameError: No such kind.
    """
    if kind not in SOURCES:
        raise unknown_name("source kind", kind, SOURCES)
    return SOURCES[kind](**settings)


__all__ = ["SOURCES", "EmbeddedSource", "Example", "RecordError", "Source", "make_source"]
