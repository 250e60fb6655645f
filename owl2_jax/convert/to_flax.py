"""Released PyTorch weights to our parameters."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from owl2_jax.checkpoint.array_store import StreamedLeaf, longest_axis, piece_length
from owl2_jax.checkpoint.output_directory import refuse_existing
from owl2_jax.checkpoint.overlap import read_ahead
from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.convert import buffers
from owl2_jax.convert.coverage import check_coverage
from owl2_jax.convert.finite import cast
from owl2_jax.convert.formats import format_of
from owl2_jax.convert.hf_config import is_tied, read_hf_config
from owl2_jax.convert.ops import Linear, QkvPart, Same, Shape
from owl2_jax.convert.source import Source
from owl2_jax.convert.tokenizer_files import read_tokenizer_file
from owl2_jax.convert.weight_names import HEAD, Pair, pairs, tied_head, tied_names
from owl2_jax.core.tokenizer_files import file_name
from owl2_jax.core.tree import Params, flatten, unflatten
from owl2_jax.model.config import AbstractorConfig, DecoderConfig, LoraConfig, Owl2Config, VisionConfig


def leaf_shapes(config: Owl2Config) -> dict[str, Shape]:
    """{path of a parameter: its shape, layers stacked}, as the model makes it."""
    return dict(_leaf_shapes(config.vision, config.abstractor, config.decoder, config.lora))


@functools.lru_cache(maxsize=16)
def _leaf_shapes(
    vision: VisionConfig, abstractor: AbstractorConfig, decoder: DecoderConfig, lora: LoraConfig | None
) -> tuple[tuple[str, Shape], ...]:
    """Tracing the model takes half a second, and one command asks several times."""
    from owl2_jax.model.owl2 import abstract_params  # brings JAX, which damaged files should not wait for

    abstract = flatten(abstract_params(Owl2Config(vision, abstractor, decoder, lora=lora)))
    return tuple((path, tuple(leaf.shape)) for path, leaf in abstract.items())


class ReleasedCheckpoint:
    """A directory in the released format whose tensors are known to fit its configuration.

    Attributes:
      config: with `param_dtype` the narrowest of float32 and bfloat16 that
        holds every stored weight exactly.
      source: the tensors.
      pairs: what is read, {our path: its tensors in order of layers}.

    Raises:
      Owl2Error: a damaged file, or a disagreement with config.json.
    """

    def __init__(self, directory: str | Path) -> None:
        self.source = Source(directory)
        settings, where = self.source.config(), str(self.source.config_path)
        config, tied = read_hf_config(settings, where), is_tied(settings, where)
        _check_wide(self.source, {HEAD.theirs} if tied else set())
        listed = list(pairs(format_of(config).rules, leaf_shapes(config)))
        unread = tied_names(listed) if tied else set()
        if tied:
            listed = tied_head(listed, self.source.specs)
        optional = {name: spec.shape for name, spec in buffers.buffer_shapes(config).items()}
        check_coverage(self.source.specs, listed, optional, self.source.where, unread.__contains__)
        self.config = config.replace(param_dtype=exact_dtype(self.source, listed))
        self.shapes = leaf_shapes(config)
        self.pairs = by_leaf(listed)
        self._check_buffers()

    def _check_buffers(self) -> None:
        for name, expected in buffers.buffers(self.config):
            if name in self.source.specs:
                buffers.check_buffer(name, self.source.read(name), expected, self.source.where)


def _check_wide(source: Source, unread: Container[str]) -> None:
    """Raises `Owl2Error` for float64 values that float32 does not hold, before anything slow begins."""
    for name, spec in source.specs.items():
        if spec.dtype == np.float64 and name not in unread:
            cast(source.read(name), np.dtype(np.float32), f"{source.where}: {name}")


def exact_dtype(source: Source, listed: Iterable[Pair]) -> str:
    """The narrowest name that changes no weight: float32 unless all are bfloat16; float16 fits float32."""
    dtypes = {source.specs[pair.theirs].dtype for pair in listed}
    return "bfloat16" if dtypes == {np.dtype(ml_dtypes.bfloat16)} else "float32"


def by_leaf(listed: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Groups tensors by the leaf that they fill."""
    grouped: dict[str, list[Pair]] = {}
    for pair in listed:
        grouped.setdefault(pair.rule.ours, []).append(pair)
    return grouped


def blocks(source: Source, listed: Sequence[Pair], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The values of one leaf: layer by layer as [1, ...], or in pieces when it is not stacked."""
    if listed[0].layer is None and rows_axis(listed[0]) is not None:
        yield from _by_rows(source, listed[0], dtype)
        return
    by_layer: dict[int | None, list[Pair]] = {}
    for pair in listed:
        by_layer.setdefault(pair.layer, []).append(pair)
    tensors = (
        [cast(source.read(pair.theirs, pair.rows), dtype, f"{source.where}: {pair.theirs}") for pair in parts]
        for parts in by_layer.values()
    )
    for (layer, parts), theirs in zip(by_layer.items(), read_ahead(tensors), strict=True):
        values = _assemble(parts, theirs)
        yield values if layer is None else values[None]


def rows_axis(pair: Pair) -> int | None:
    """The axis of our matrix that counts the rows of theirs, where ours is cut along it; else None.

    Embedding and head of a large vocabulary are the largest matrices of all: such a one is
    moved in pieces, as read or written as a whole it would be in memory two or three times.
    """
    op, axis = pair.rule.op, longest_axis(pair.shape)
    if len(pair.shape) != 2 or op not in (Linear(), Same()):
        return None
    return axis if axis == (1 if op == Linear() else 0) else None


def _by_rows(source: Source, pair: Pair, dtype: np.dtype) -> Iterator[np.ndarray]:
    count, step = pair.their_shape[0], piece_length(pair.shape, dtype)
    starts = range(0, count, step)
    read = (source.read(pair.theirs, slice(start, min(start + step, count))) for start in starts)
    for theirs in read_ahead(read):
        theirs = cast(theirs, dtype, f"{source.where}: {pair.theirs}")
        yield pair.rule.op.to_ours(theirs, theirs.shape[::-1] if rows_axis(pair) else theirs.shape)


def _assemble(parts: Sequence[Pair], theirs: Sequence[np.ndarray]) -> np.ndarray:
    """One layer's tensor of ours, from one of theirs or from separate q, k and v."""
    tensors = [pair.rule.op.to_ours(tensor, pair.shape) for pair, tensor in zip(parts, theirs, strict=True)]
    if isinstance(parts[0].rule.op, QkvPart):
        return np.stack(tensors, axis=-2)
    (tensor,) = tensors
    return tensor


def streamed_leaves(
    source: Source, grouped: Mapping[str, Sequence[Pair]], shapes: Mapping[str, Shape], dtype: str
) -> dict[str, StreamedLeaf]:
    """{path: leaf} that reads its tensors when it is written."""
    width = numpy_dtype(dtype)
    return {
        path: StreamedLeaf(
            shapes[path], width, functools.partial(blocks, source, listed, width), listed[0].layer is not None
        )
        for path, listed in grouped.items()
    }


def materialize(leaf: StreamedLeaf) -> np.ndarray:
    """The whole leaf in memory."""
    values = np.empty(leaf.shape, leaf.dtype)
    before, start = (slice(None),) * leaf.axis, 0
    for block in leaf.blocks():
        end = start + block.shape[leaf.axis]
        values[(*before, slice(start, end))] = block
        start = end
    return values


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype of "float32", "float16" or "bfloat16"."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def load_hf_params(path: str | Path, dtype: str = "float32") -> tuple[Owl2Config, Params]:
    """Loads a released directory into memory.

    Args:
      path: directory with config.json and weights (safetensors or pickled,
        whole or in shards).
      dtype: of the parameters, "float32" or "bfloat16".

    Returns:
      The configuration (dtype and param_dtype are `dtype`), and the nested dict of numpy
      arrays; `jax.tree.map(jnp.asarray, ...)` of it is what `Owl2.apply` takes as
      "params".

    Raises:
      Owl2Error: a missing, damaged or unfitting file.
    """
    checkpoint = ReleasedCheckpoint(path)
    leaves = streamed_leaves(checkpoint.source, checkpoint.pairs, checkpoint.shapes, dtype)
    params = unflatten({name: materialize(leaf) for name, leaf in leaves.items()})
    return checkpoint.config.replace(dtype=dtype, param_dtype=dtype), params


def convert_to_jax(
    source: str | Path, output: str | Path, *, dtype: str | None = None, tokenizer: str | Path | None = None
) -> dict[str, Any]:
    """Converts a released directory to a model directory, one layer or piece of a tensor in memory at a time.

    Args:
      source: released directory.
      output: model directory to make.
      dtype: of the stored parameters, "float32" or "bfloat16"; by default the
        narrowest of the two that changes no value.
      tokenizer: its file; by default `tokenizer.model` or `qwen.tiktoken` in
        `source`, and none when it has none.

    Returns:
      The content of the new `model.json`.

    Raises:
      Owl2Error: a missing, damaged or unfitting file, or an output that
        exists or does not fit on the disk.
    """
    refuse_existing(output)
    checkpoint = ReleasedCheckpoint(source)
    dtype = dtype or checkpoint.config.param_dtype
    config = checkpoint.config.replace(dtype=dtype, param_dtype=dtype)
    leaves = streamed_leaves(checkpoint.source, checkpoint.pairs, checkpoint.shapes, config.param_dtype)
    pieces = read_tokenizer_file(source, tokenizer, config.decoder.vocab_size)
    model = model_json(config.to_dict(), tokenizer=None if pieces is None else file_name(pieces))
    write_model_directory(output, model, unflatten(leaves), pieces)
    return model
