"""The sources of examples by the names that configs give them; a new kind is added here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from owl2_jax.core.errors import unknown_name
from owl2_jax.core.fields import check_arguments
from owl2_jax.data.sources.arrayrecord import ArrayRecordSource
from owl2_jax.data.sources.base import Example, RecordError, Source, Style
from owl2_jax.data.sources.coco import CocoCaptionsSource
from owl2_jax.data.sources.embedded import EmbeddedSource
from owl2_jax.data.sources.fields import Fields
from owl2_jax.data.sources.llava import LlavaSource
from owl2_jax.data.sources.parquet import ParquetSource
from owl2_jax.data.sources.scenes import ScenesSource
from owl2_jax.data.sources.tfds_builder import TfdsSource
from owl2_jax.data.sources.vqa import VqaSource
from owl2_jax.data.sources.webdataset import WebDatasetSource

# Kind, as a config names it -> class.
SOURCES: dict[str, type] = {
    "embedded": EmbeddedSource,
    "llava": LlavaSource,
    "arrayrecord": ArrayRecordSource,
    "parquet": ParquetSource,
    "webdataset": WebDatasetSource,
    "coco_captions": CocoCaptionsSource,
    "vqa": VqaSource,
    "tfds": TfdsSource,
    "scenes": ScenesSource,
}


def make_source(kind: str, **settings: Any) -> Source:
    """Builds the source of a `kind` of `SOURCES` with that class's settings.

    Raises:
      UnknownNameError: No such kind, or no such setting of it.
      Owl2Error: A setting is missing, or the source cannot be opened.
    """
    check_settings(kind, settings)
    return SOURCES[kind](**settings)


def read_as(kind: str, settings: dict[str, Any], reading: str) -> dict[str, Any]:
    """Settings of a source with the run's reading of dialogues, where its records are dialogues."""
    takes = kind in SOURCES and "reading" in inspect.signature(SOURCES[kind]).parameters
    return {"reading": reading, **settings} if takes else settings


def check_settings(kind: str, settings: Mapping[str, Any], where: str = "") -> None:
    """Checks the settings of a source before it is opened.

    Args:
      where: dotted path of the settings in the config, for messages.

    Raises:
      UnknownNameError: No such kind, or no such setting of it.
      Owl2Error: A setting is missing, of the wrong type or out of its range.
    """
    if kind not in SOURCES:
        raise unknown_name("source kind", kind, SOURCES)
    check_arguments(SOURCES[kind], settings, where or f"source {kind!r}")


__all__ = [
    "SOURCES",
    "ArrayRecordSource",
    "CocoCaptionsSource",
    "EmbeddedSource",
    "Example",
    "Fields",
    "LlavaSource",
    "ParquetSource",
    "RecordError",
    "ScenesSource",
    "Source",
    "Style",
    "TfdsSource",
    "VqaSource",
    "WebDatasetSource",
    "check_settings",
    "make_source",
    "read_as",
]
