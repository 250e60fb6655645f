"""Released PyTorch weights to our parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from owl2_jax.convert import buffers
from owl2_jax.convert.coverage import check_coverage
from owl2_jax.convert.hf_config import read_hf_config
from owl2_jax.convert.ops import QkvPart, Shape
from owl2_jax.convert.rules import OWL2, Pair, pairs
from owl2_jax.convert.source import Source
from owl2_jax.core.tree import flatten, unflatten
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.owl2 import abstract_params


def leaf_shapes(config: Owl2Config) -> dict[str, Shape]:
    """{path of a parameter: its shape, layers stacked}, as the model makes it."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(abstract_params(config)).items()}


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
        config = read_hf_config(self.source.config(), str(self.source.directory / "config.json"))
        listed = list(pairs(OWL2, leaf_shapes(config)))
        optional = {name: spec.shape for name, spec in buffers.buffer_shapes(config).items()}
        check_coverage(self.source.specs, listed, optional, str(self.source.directory))
        self.config = config.replace(param_dtype=exact_dtype(self.source, listed))
        self.shapes = leaf_shapes(config)
        self.pairs = by_leaf(listed)
        self._check_buffers()

    def _check_buffers(self) -> None:
        for name, expected in buffers.buffers(self.config):
            if name in self.source.specs:
                buffers.check_buffer(name, self.source.read(name), expected, str(self.source.directory))


def exact_dtype(source: Source, listed: Iterable[Pair]) -> str:
    """ "bfloat16" when all weights are, else "float32", which also holds float16 exactly."""
    dtypes = {source.specs[pair.theirs].dtype for pair in listed}
    return "bfloat16" if dtypes == {np.dtype(ml_dtypes.bfloat16)} else "float32"


def by_leaf(listed: Iterable[Pair]) -> dict[str, list[Pair]]:
    """Groups tensors by the leaf that they fill."""
    grouped: dict[str, list[Pair]] = {}
    for pair in listed:
        grouped.setdefault(pair.rule.ours, []).append(pair)
    return grouped


def put(leaf: np.ndarray, pair: Pair, theirs: np.ndarray) -> None:
    """Writes one tensor of theirs into its place in a leaf of ours, cast to the leaf's dtype."""
    target = leaf if pair.layer is None else leaf[pair.layer]
    if isinstance(pair.rule.op, QkvPart):
        target = target[..., pair.rule.op.part, :]
    target[...] = pair.rule.op.to_ours(theirs, pair.shape)


def read_params(
    source: Source, grouped: Mapping[str, list[Pair]], shapes: Mapping[str, Shape], dtype: Any
) -> dict[str, Any]:
    """Reads whole leaves into memory: nested dict of `dtype` arrays."""
    leaves = {}
    for path, listed in grouped.items():
        leaves[path] = np.empty(shapes[path], dtype)
        for pair in listed:
            put(leaves[path], pair, source.read(pair.theirs))
    return unflatten(leaves)


def load_hf_params(path: str | Path, dtype: str = "float32") -> tuple[Owl2Config, dict[str, Any]]:
    """Loads a released directory into memory.

    Args:
      path: directory with config.json and weights (safetensors or pickled,
        whole or in shards).
      dtype: of the parameters, "float32" or "bfloat16".

    Returns:
      The configuration (param_dtype is `dtype`), and the nested dict of numpy
      arrays; `jax.tree.map(jnp.asarray, ...)` of it is what `Owl2.apply` takes as
      "params".

    Raises:
      Owl2Error: a missing, damaged or unfitting file.
    """
    checkpoint = ReleasedCheckpoint(path)
    config = checkpoint.config.replace(param_dtype=dtype)
    width = np.dtype(np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
    return config, read_params(checkpoint.source, checkpoint.pairs, checkpoint.shapes, width)
