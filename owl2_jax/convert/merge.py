"""A checkpoint with LoRA adapters to one without: every adapter added to the matrix it stands beside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from owl2_jax.checkpoint.array_store import StreamedLeaf, is_stacked
from owl2_jax.checkpoint.output_directory import refuse_existing
from owl2_jax.checkpoint.param_files import (
    ParamsReader,
    check_fit,
    read_model_json,
    read_tokenizer,
    resolve_checkpoint,
    write_model_directory,
)
from owl2_jax.convert.to_flax import leaf_shapes, numpy_dtype
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import unflatten
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.lora_merge import beside, merged_leaf


def merge_checkpoint(checkpoint: str | Path, output: str | Path) -> Owl2Config:
    """Writes the model directory `output`: the model of `checkpoint` without adapters.

    One matrix of one layer is in memory at a time. A base in int8 becomes
    floating point numbers of the model's `param_dtype` again.

    Args:
      checkpoint: model or run directory of a model with adapters.
      output: must not exist yet.

    Returns:
      The configuration of the merged model.

    Raises:
      Owl2Error: a model without adapters, a damaged checkpoint, or an output
        that exists or does not fit on the disk.
    """
    refuse_existing(output)
    found = resolve_checkpoint(checkpoint)
    model = read_model_json(found.directory)
    config = Owl2Config.from_dict(model["model"])
    if config.lora is None:
        raise Owl2Error(f"{checkpoint} has no LoRA adapters to merge; it can be used as it is")
    reader, shapes = ParamsReader(found.params), leaf_shapes(config)
    check_fit(reader.shapes, shapes, str(found.params))
    merged = config.replace(lora=None)
    leaves = {name: _leaf(name, reader, config) for name in leaf_shapes(merged)}
    write_model_directory(
        output, {**model, "model": merged.to_dict()}, unflatten(leaves), read_tokenizer(found.directory)
    )
    return merged


def _leaf(name: str, reader: ParamsReader, config: Owl2Config) -> StreamedLeaf:
    """A merged leaf, made layer by layer when it is written."""
    names = [name, *(part for part in beside(name) if part in reader.shapes)]
    changed, stacked = len(names) > 1, is_stacked(name)

    def blocks() -> Iterator[np.ndarray]:
        if not stacked:
            yield from reader.blocks(name)
            return
        for parts in zip(*(_layers(reader, part) for part in names), strict=True):
            flat = dict(zip(names, parts, strict=True))
            yield np.asarray(merged_leaf(name, flat, config)) if changed else flat[name]

    dtype = numpy_dtype(config.param_dtype) if changed else reader.dtypes[name]
    return StreamedLeaf(reader.shapes[name], dtype, blocks, stacked)


def _layers(reader: ParamsReader, name: str) -> Iterator[np.ndarray]:
    """A stacked leaf as [1, ...] pieces."""
    for block in reader.blocks(name):
        yield from (block[layer : layer + 1] for layer in range(len(block)))
