"""A model to make another one of: a model, run or released directory, leaf by leaf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from owl2_jax.checkpoint.array_store import StreamedLeaf, is_stacked
from owl2_jax.checkpoint.param_files import (
    ParamsReader,
    check_fit,
    model_json,
    read_model_json,
    read_tokenizer,
    resolve_checkpoint,
)
from owl2_jax.convert.load import is_released_directory
from owl2_jax.convert.ops import Shape
from owl2_jax.convert.to_flax import ReleasedCheckpoint, leaf_shapes, materialize, streamed_leaves
from owl2_jax.convert.tokenizer_files import read_tokenizer_file
from owl2_jax.core.tokenizer_files import file_name
from owl2_jax.model.config import Owl2Config


@dataclass(frozen=True)
class OpenedModel:
    """What a directory holds; values are read when asked for.

    Attributes:
      config: sizes and dtypes.
      model: the content of its `model.json`, or of the one that `owl2 convert to-jax` would write.
      tokenizer: bytes of its file; None when there is none.
      leaves: every parameter by name, as it is stored.
    """

    config: Owl2Config
    model: dict[str, Any]
    tokenizer: bytes | None
    leaves: Mapping[str, StreamedLeaf]

    @property
    def shapes(self) -> dict[str, Shape]:
        """{leaf name: shape}."""
        return {name: tuple(leaf.shape) for name, leaf in self.leaves.items()}

    def read(self, name: str) -> np.ndarray:
        """One whole parameter."""
        return materialize(self.leaves[name])


def open_model(path: str | Path) -> OpenedModel:
    """Opens a model, run or released directory.

    Raises:
      Owl2Error: it is missing, damaged or does not fit its own configuration.
    """
    return _open_released(path) if is_released_directory(path) else _open_ours(path)


def _open_ours(path: str | Path) -> OpenedModel:
    found = resolve_checkpoint(path)
    model = read_model_json(found.directory)
    config = Owl2Config.from_dict(model["model"])
    reader, shapes = ParamsReader(found.params), leaf_shapes(config)
    check_fit(reader.shapes, shapes, str(found.params))
    leaves = {name: _stored(reader, name) for name in shapes}
    return OpenedModel(config, model, read_tokenizer(found.directory), leaves)


def _stored(reader: ParamsReader, name: str) -> StreamedLeaf:
    """A leaf as it is stored, read when it is written."""
    stacked = is_stacked(name)

    def blocks() -> Iterator[np.ndarray]:
        if not stacked:
            yield from reader.blocks(name)
            return
        for block in reader.blocks(name):
            yield from (block[layer : layer + 1] for layer in range(len(block)))

    return StreamedLeaf(reader.shapes[name], reader.dtypes[name], blocks, stacked)


def _open_released(path: str | Path) -> OpenedModel:
    checkpoint = ReleasedCheckpoint(path)
    dtype = checkpoint.config.param_dtype
    config = checkpoint.config.replace(dtype=dtype)
    tokenizer = read_tokenizer_file(path, None, config.decoder.vocab_size)
    leaves = streamed_leaves(checkpoint.source, checkpoint.pairs, checkpoint.shapes, dtype)
    model = model_json(config.to_dict(), tokenizer=None if tokenizer is None else file_name(tokenizer))
    return OpenedModel(config, model, tokenizer, leaves)
