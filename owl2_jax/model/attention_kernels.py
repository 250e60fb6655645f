"""Kernels of attention among whole sequences, chosen in one place.

All of them compute `attention.dot_product`, the decoder's under the causal segment mask; they
differ in what they keep in fast memory, and name their context for a remat policy. A kernel has the signature
(q dtype[B, T, N, H], k dtype[B, T, K, H], v dtype[B, T, K, H],
segment_ids int32[B, T]) -> dtype[B, T, N, H]. The vision encoder's has no mask: `splash_everywhere`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from owl2_jax.core import axes
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.model import remat
from owl2_jax.model.attention import causal_segment_mask, dot_product, query_segments
from owl2_jax.model.config import SPLASH_BLOCK
from owl2_jax.model.layers import pieces

Array = jax.Array
Kernel = Callable[[Array, Array, Array, Array], Array]

# Rows and columns of a splash tile; a sequence must be a multiple of the smallest.
_SPLASH_BLOCKS: Final = (512, 384, 256, 128)
_LARGEST_WHOLE: Final = 1152  # tokens of a row that is one tile, where all see all: an image of 448 pixels
_CUDNN_MAX_HEAD_WIDTH: Final = 128


def xla(q: Array, k: Array, v: Array, segment_ids: Array) -> Array:
    """The written-out product: runs anywhere, holds [B, N, T, T] scores."""
    mask = causal_segment_mask(query_segments(segment_ids), segment_ids)
    return dot_product(q, k, v, mask, remat.CONTEXT)[0]


def splash(
    q: Array,
    k: Array,
    v: Array,
    segment_ids: Array,
    interpret: bool = False,
    block: int = SPLASH_BLOCK,
) -> Array:
    """Pallas splash attention for TPU: tiles that the mask rules out are never computed.

    On a mesh every device runs the kernel on its own rows and heads.

    Args:
      interpret: run the kernel's program without a TPU, slowly.
      block: rows and columns of a tile; where it does not divide T, the largest that does.

    Raises:
      Owl2Error: T is no multiple of 128.
    """
    length = q.shape[1]
    if not splash_fits(length):
        raise Owl2Error(
            f"splash attention needs rows of a multiple of {_SPLASH_BLOCKS[-1]} tokens, found {length} = "
            f"{length // 128} * 128 + {length % 128}; change data.row_length or set model.attention=xla"
        )
    return _splash_on_mesh(q, k, v, query_segments(segment_ids), segment_ids, interpret, block, causal=True)


def splash_everywhere(q: Array, k: Array, v: Array, length: int, interpret: bool = False) -> Array:
    """Splash attention of rows in which every token sees all.

    Args:
      q, k, v: dtype[B, T, N, H], T from `everywhere_tiles`.
      length: tokens of a row; those after them see each other alone.

    Returns:
      dtype[B, T, N, H].
    """
    total = q.shape[1]
    segments = jnp.broadcast_to((jnp.arange(total) < length).astype(jnp.int32), q.shape[:2])
    return _splash_on_mesh(q, k, v, segments, segments, interpret, total, causal=False)


def everywhere_tiles(name: str, x: Array, width: int) -> int:
    """Tokens to which rows dtype[B, T, E] are padded for `splash_everywhere`; 0 where it is not worth it.

    It is where the decoder's kernel `name` stands for splash, a row fits into one tile and at most an eighth
    of it is padding: an image of 224 pixels and 257 tokens would take as long as one of 384. On a mesh the
    rows divide over its devices.

    Args:
      width: of a head.
    """
    if name == "auto":
        name = best(jax.default_backend(), _SPLASH_BLOCKS[-1], x.dtype, width)
    count, length = x.shape[:2]
    padding = -length % _SPLASH_BLOCKS[-1]
    if name != "splash" or 8 * padding > length or length + padding > _LARGEST_WHOLE:
        return 0
    return length + padding if count % pieces((axes.IMAGES,)) == 0 else 0


def _splash_on_mesh(
    q: Array, k: Array, v: Array, query_ids: Array, key_ids: Array, interpret: bool, block: int, causal: bool
) -> Array:
    local = functools.partial(_splash_local, interpret=interpret, block=block, causal=causal)
    arguments = (q, k, v, query_ids, key_ids)
    if jax.sharding.get_abstract_mesh().empty:
        return local(*arguments)
    heads = nn.logical_to_mesh_axes((axes.BATCH, axes.LENGTH, axes.ACT_HEADS, None))
    rows = nn.logical_to_mesh_axes((axes.BATCH, axes.LENGTH))
    return jax.shard_map(local, in_specs=(heads, heads, heads, rows, rows), out_specs=heads, check_vma=False)(
        *arguments
    )


def splash_fits(length: int) -> bool:
    """Whether rows of `length` tokens divide into tiles."""
    return length % _SPLASH_BLOCKS[-1] == 0


def _splash_local(
    q: Array, k: Array, v: Array, query_ids: Array, key_ids: Array, interpret: bool, block: int, causal: bool
) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library

    _, length, heads, width = q.shape
    run = _splash_kernel(length, heads, interpret, block, causal)
    heads_first = [jnp.swapaxes(x, 1, 2) for x in (q * width**-0.5, k, v)]
    context = jax.vmap(lambda q, k, v, *ids: run(q, k, v, segment_ids=library.SegmentIds(*ids)))(
        *heads_first, query_ids, key_ids
    )
    return jnp.swapaxes(context, 1, 2).astype(q.dtype)


def _splash_kernel(length: int, heads: int, interpret: bool, wanted: int, causal: bool) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    block = next(size for size in (wanted, *_SPLASH_BLOCKS) if length % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    mask = masks.CausalMask((length, length)) if causal else masks.FullMask((length, length))
    return library.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=library.BlockSizes(**{f"block_{name}": block for name in names}),
        head_shards=1,
        q_seq_shards=1,
        # Policies that keep the context then keep all that the backward kernels need.
        residual_checkpoint_name=remat.CONTEXT,
        interpret=interpret,
    )


def cudnn(q: Array, k: Array, v: Array, segment_ids: Array) -> Array:
    """cuDNN's fused attention for NVIDIA GPUs; 16-bit activations alone.

    Raises:
      Owl2Error: float32 activations, or a head_dim that the kernel lacks.
    """
    width = q.shape[-1]
    if not cudnn_fits(q.dtype, width):
        raise Owl2Error(
            f"cuDNN attention takes 16-bit activations and head widths that are multiples of 8 up to "
            f"{_CUDNN_MAX_HEAD_WIDTH}, found {q.dtype} and {width}; set model.attention=xla or "
            "model.dtype=bfloat16"
        )
    return checkpoint_name(masked_attention(q, k, v, segment_ids, "cudnn"), remat.CONTEXT)


def cudnn_fits(dtype: DTypeLike, width: int) -> bool:
    """Whether cuDNN's kernel takes heads of this width in this dtype."""
    return jnp.dtype(dtype).itemsize == 2 and width % 8 == 0 and width <= _CUDNN_MAX_HEAD_WIDTH


def masked_attention(q: Array, k: Array, v: Array, segment_ids: Array, implementation: str) -> Array:
    """`jax.nn.dot_product_attention` under the causal segment mask."""
    mask = query_segments(segment_ids)[:, :, None] == segment_ids[:, None, :]
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], is_causal=True, implementation=implementation
    )


def auto(q: Array, k: Array, v: Array, segment_ids: Array, block: int = SPLASH_BLOCK) -> Array:
    """The fastest kernel of the default device that takes these shapes."""
    return kernel(resolved("auto", q), block)(q, k, v, segment_ids)


def resolved(name: str, q: Array) -> str:
    """The kernel that `name` stands for with queries dtype[B, T, N, H]; "auto" is the device's best."""
    return name if name != "auto" else best(jax.default_backend(), q.shape[1], q.dtype, q.shape[-1])


def best(platform: str, length: int, dtype: DTypeLike, width: int) -> str:
    """Name of the kernel for a platform ("tpu", "gpu", "cpu") and shape."""
    if platform == "tpu" and splash_fits(length):
        return "splash"
    if platform == "gpu" and cudnn_fits(dtype, width):
        return "cudnn"
    return "xla"


KERNELS: Final[dict[str, Kernel]] = {"xla": xla, "splash": splash, "cudnn": cudnn, "auto": auto}


def kernel(name: str, splash_block: int = SPLASH_BLOCK) -> Kernel:
    """The named kernel. Raises `UnknownNameError` with the nearest names."""
    if name not in KERNELS:
        raise unknown_name("attention kernel", name, KERNELS)
    takes_block = name in ("splash", "auto")
    return functools.partial(KERNELS[name], block=splash_block) if takes_block else KERNELS[name]
