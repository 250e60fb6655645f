"""One alphabet for shapes, and the logical axis names that sharding rules map.

Letters, used by every docstring and einsum of the project:

  B batch rows      T decoder tokens   S keys (cache length)
  N heads           K key/value heads  H head_dim
  D decoder width   E vision width     F hidden width of an MLP
  V vocabulary      P patches          Q queries
  I images of a row  M images of a batch    L layers

An image is Q + 1 decoder tokens: Q queries and the learned end token.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

# Axes of parameters.
LAYERS: Final = "layers"
EMBED: Final = "embed"  # D, the width that stays along the residual stream
HEADS: Final = "heads"  # N
KV_HEADS: Final = "kv_heads"  # K
HEAD_DIM: Final = "head_dim"  # H
HIDDEN: Final = "hidden"  # F
VOCAB: Final = "vocab"  # V
VISION_EMBED: Final = "vision_embed"  # E
VISION_HIDDEN: Final = "vision_hidden"  # F of the vision encoder
QKV: Final = "qkv"  # the three parts of a fused projection
POSITIONS: Final = "positions"  # rows of a position table
QUERIES: Final = "queries"  # Q

# Axes of activations.
BATCH: Final = "batch"  # B
TOKENS: Final = "tokens"  # T of a flat batch, where each device computes on some of them
LENGTH: Final = "length"  # T
IMAGES: Final = "images"  # M
CACHE: Final = "cache"  # S
ACT_EMBED: Final = "act_embed"  # D or E of an activation
ACT_HEADS: Final = "act_heads"  # N or K of an activation
ACT_HIDDEN: Final = "act_hidden"  # F of an activation
ACT_VOCAB: Final = "act_vocab"  # V of the logits

PARAMETER_AXES: Final = (
    LAYERS, EMBED, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, VOCAB, VISION_EMBED, VISION_HIDDEN, QKV, POSITIONS,
    QUERIES,
)  # fmt: skip
ACTIVATION_AXES: Final = (BATCH, TOKENS, LENGTH, IMAGES, CACHE, ACT_EMBED, ACT_HEADS, ACT_HIDDEN, ACT_VOCAB)


def stored(names: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """Names of a parameter's axes as it lies in memory, apart from those of its copy in use.

    Sharding rules map both, so that a layer can gather a weight it uses and
    hand its gradient back in pieces.
    """
    return tuple(name and f"stored_{name}" for name in names)


# Axes of a device mesh, outermost first: neighbours along `tensor` stand closest together.
MeshAxis = Literal["dcn", "data", "fsdp", "tensor"]
MESH_AXES: Final[tuple[MeshAxis, ...]] = get_args(MeshAxis)

# Values in token and label arrays that are not token ids.
IMAGE_TOKEN: Final = -200  # an image placeholder in unexpanded ids
IGNORE_LABEL: Final = -100  # a position without loss
