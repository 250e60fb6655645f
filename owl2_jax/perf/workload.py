"""A jitted function with the shapes of its arguments, ready to be lowered or run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from owl2_jax.core.tree import PyTree
from owl2_jax.model import attention_kernels, flops
from owl2_jax.model.config import Owl2Config


@dataclass(frozen=True)
class Shape:
    """Sizes of a call.

    Attributes:
      rows: B over all chips.
      length: T; for decoding the cache's length.
      images: M over all chips.
      images_per_row: I.
      max_targets: positions of a row that get logits in training; 0 for all.
      shards: parts of a training batch that share no image.
    """

    rows: int
    length: int
    images: int
    images_per_row: int
    max_targets: int = 0
    shards: int = 1

    @property
    def targets(self) -> int:
        """Most positions of a row that get logits in training."""
        return min(self.max_targets or self.length, self.length)


@dataclass(frozen=True)
class Workload:
    """A function ready to be lowered or run.

    Attributes:
      name: "train", "prefill" or "decode".
      function: jitted.
      arguments: shapes with shardings.
      parts: {"parameters": subtree, ...} of the arguments, for a table of memory.
      flops: by part of the model, of one call.
      tokens: positions that a call computes.
      carried: number of the argument that the first result replaces.
      materialize: makes arrays for `arguments`.
      conditions: whether these inputs may meet what the program asks for: an image among the tokens,
        a row that is sampled. A forecast counts the longer branch then.
    """

    name: str
    function: jax.stages.Wrapped
    arguments: tuple[PyTree, ...]
    parts: dict[str, PyTree]
    flops: dict[str, flops.Flops]
    tokens: int
    carried: int
    materialize: Callable[[], tuple[PyTree, ...]]
    conditions: bool = True


def with_kernel(config: Owl2Config, length: int, mesh: Mesh) -> Owl2Config:
    """The configuration with the kernel that "auto" attention is for rows of `length` tokens on a mesh.

    Its FLOPs are a lower bound for steps over pages, whose kernels mask what these leave out.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return config.replace(attention=attention_kernels.resolved(config, length))
