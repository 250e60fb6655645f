"""A released directory loaded into memory, or onto a mesh, without converting it first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl2_jax.checkpoint.param_files import is_released_directory, model_json
from owl2_jax.convert.to_flax import ReleasedCheckpoint, materialize, streamed_leaves
from owl2_jax.convert.tokenizer_files import read_tokenizer_file
from owl2_jax.core.tokenizer_files import file_name
from owl2_jax.core.tree import Params, PyTree, flatten, unflatten
from owl2_jax.model.config import Owl2Config

__all__ = ["Loaded", "is_released_directory", "load_hf"]


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
      config: sizes and dtypes.
      params: nested dict of arrays.
      model: what `model.json` of a model directory would say.
      tokenizer: bytes of its file; None when the directory has none.
    """

    config: Owl2Config
    params: Params
    model: dict[str, Any]
    tokenizer: bytes | None


def load_hf(
    path: str | Path,
    *,
    dtype: str | None = None,
    shardings: PyTree = None,
    each: Callable[[str, Any], Mapping[str, Any]] | None = None,
) -> Loaded:
    """Loads a directory in the released format.

    Args:
      path: holds config.json, weights and (for text) its tokenizer.
      dtype: of the parameters, "float32" or "bfloat16"; by default the
        narrowest of the two that changes no value.
      shardings: one sharding for all leaves, or a tree of them: leaves then go
        to their devices one after the other. None gives numpy arrays.
      each: as `restore_params` takes it.

    Raises:
      Owl2Error: a missing, damaged or unfitting file.
    """
    import jax

    checkpoint = ReleasedCheckpoint(path)
    dtype = dtype or checkpoint.config.param_dtype
    config = checkpoint.config.replace(dtype=dtype, param_dtype=dtype)
    tokenizer = read_tokenizer_file(path, None, config.decoder.vocab_size)
    by_path = flatten(shardings) if isinstance(shardings, Mapping) else None
    leaves: dict[str, Any] = {}
    for name, leaf in streamed_leaves(checkpoint.source, checkpoint.pairs, checkpoint.shapes, dtype).items():
        values = materialize(leaf)
        sharding = shardings if by_path is None else by_path[name]
        values = values if sharding is None else jax.device_put(values, sharding)
        leaves |= {name: values} if each is None else each(name, values)
    model = model_json(config.to_dict(), tokenizer=None if tokenizer is None else file_name(tokenizer))
    return Loaded(config, unflatten(dict(sorted(leaves.items()))), model, tokenizer)
