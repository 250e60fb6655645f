"""Kernels of attention among whole sequences, chosen in one place.

All of them compute `attention.dot_product`, the decoder's under the causal segment mask; they
differ in what they keep in fast memory, and name their context for a remat policy. A kernel has the signature
(q dtype[B, T, N, H], k dtype[B, T, K, H], v dtype[B, T, K, H],
segment_ids int32[B, T]) -> dtype[B, T, N, H]. Two take heads side by side, dtype[B, T, N * H], as the
products around them do: `flash_turning`, and the vision encoder's, `flash_everywhere`.
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

from owl2_jax.core import axes, platforms
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.model import flash_attention, flash_plan, remat
from owl2_jax.model.attention import causal_segment_mask, dot_product, query_segments
from owl2_jax.model.config import SPLASH_BLOCK, Owl2Config
from owl2_jax.model.layers import pieces, side_by_side

Array = jax.Array
Kernel = Callable[[Array, Array, Array, Array], Array]

# Rows and columns of a splash tile; a sequence must be a multiple of the smallest.
_SPLASH_BLOCKS: Final = (512, 384, 256, 128)
_CUDNN_MAX_HEAD_WIDTH: Final = 128


def xla(q: Array, k: Array, v: Array, segment_ids: Array) -> Array:
    """The written-out product: runs anywhere, holds [B, N, T, T] scores."""
    mask = causal_segment_mask(query_segments(segment_ids), segment_ids)
    return dot_product(q, k, v, mask, remat.CONTEXT)[0]


def flash(q: Array, k: Array, v: Array, segment_ids: Array, interpret: bool = False) -> Array:
    """Our Pallas attention for TPU, of rows that lie in fast memory whole; see `flash_attention`.

    The tokens of a segment follow each other here.

    Args:
      interpret: run the kernel's program without a TPU, slowly.

    Raises:
      Owl2Error: a row or a head_dim that it does not take, or heads that do not divide over devices.
    """
    flat = (side_by_side(part) for part in (q, k, v))
    return flash_turning(*flat, (), segment_ids, q.shape[-1], interpret).reshape(q.shape)


def flash_turning(
    q: Array, k: Array, v: Array, angles: flash_plan.Angles, segment_ids: Array, head_dim: int,
    interpret: bool = False,
) -> Array:  # fmt: skip
    """The same, which turns queries and keys by the rotary embedding on the way.

    On a mesh every device runs the kernel on its own rows and heads.

    Args:
      q: dtype[B, T, N * H]. k, v: dtype[B, T, K * H].
      angles: from `rotary.rolled_angles`, float32[B, T, H] each; or none, for no turn.
      segment_ids: int32[B, T].
      head_dim: H.
      interpret: run the kernel's program without a TPU, slowly.

    Returns:
      dtype[B, T, N * H].
    """
    length, ways = q.shape[1], pieces((axes.ACT_HEADS,))
    if not flash_attention.fits(length, head_dim, q.dtype):
        other = fitting("old tpu", length, q.dtype, head_dim)[-1]
        raise Owl2Error(
            "flash attention takes heads of a multiple of 128 channels in rows of at most "
            f"{flash_attention.longest(head_dim, q.dtype)} tokens of {q.dtype}; found {head_dim} channels "
            f"and {length} tokens (data.row_length); set model.attention={other}"
        )
    if any(x.shape[-1] // head_dim % ways for x in (q, k)):
        raise Owl2Error(
            f"{q.shape[-1] // head_dim} heads of queries and {k.shape[-1] // head_dim} of keys do not divide "
            f"over {ways} devices; choose a mesh whose tensor axis divides both, or set model.attention=xla"
        )
    rows, heads = (axes.BATCH, axes.LENGTH, None), (axes.BATCH, axes.LENGTH, axes.ACT_HEADS)
    spans = (axes.BATCH, None, axes.LENGTH)
    return _on_mesh(
        functools.partial(flash_attention.flash, head_dim=head_dim, interpret=interpret),
        [heads] * 3 + [rows] * len(angles) + [spans] * 2,
        (q, k, v, angles, flash_attention.causal_spans(segment_ids)),
    )


def flash_everywhere(q: Array, k: Array, v: Array, head_dim: int, interpret: bool = False) -> Array:
    """The same where every token sees all; q, k, v and what it returns are dtype[M, T, N * H]."""
    local = functools.partial(flash_attention.flash, head_dim=head_dim, interpret=interpret)
    return _on_mesh(local, [(axes.IMAGES, None, axes.ACT_HEADS)] * 3, (q, k, v, (), ()))


def sees_by_flash(config: Owl2Config, count: int, length: int) -> bool:
    """Whether the vision encoder's attention is `flash_everywhere`, for so many images of `length` tokens.

    It is on a TPU, or where a kernel for TPU is asked for by name, if a row is no longer than flash takes,
    heads fill registers, and on a mesh images and heads divide over its devices.
    """
    if config.attention not in ("auto", "flash", "splash"):
        return False  # which asks for no device: shapes are found before several hosts have met
    heads, left = divmod(config.vision.num_heads, pieces((axes.ACT_HEADS,)))
    divides = not left and count % pieces((axes.IMAGES,)) == 0
    takes = flash_attention.fits_narrow(length, heads, config.vision.head_dim, config.dtype)
    platform = platforms.current_platform()
    wanted = platform == "tpu" if config.attention == "auto" else platform != "old tpu"
    return divides and takes and wanted


def _on_mesh(local: Callable[..., Array], names: list[tuple[str | None, ...]], arguments: Any) -> Array:
    """Every device runs a kernel on its own rows and heads.

    Args:
      names: axes of every array among the arguments; the result lies as the first of them.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return local(*arguments)
    arrays, tree = jax.tree.flatten(arguments)
    specs = tuple(nn.logical_to_mesh_axes(each) for each in names)
    return jax.shard_map(
        lambda *arrays: local(*tree.unflatten(arrays)), in_specs=specs, out_specs=specs[0], check_vma=False
    )(*arrays)


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
    local = functools.partial(_splash_local, interpret=interpret, block=block)
    heads, rows = (axes.BATCH, axes.LENGTH, axes.ACT_HEADS, None), (axes.BATCH, axes.LENGTH)
    return _on_mesh(local, [heads] * 3 + [rows] * 2, (q, k, v, query_segments(segment_ids), segment_ids))


def splash_fits(length: int) -> bool:
    """Whether rows of `length` tokens divide into tiles."""
    return length % _SPLASH_BLOCKS[-1] == 0


def _splash_local(
    q: Array, k: Array, v: Array, query_ids: Array, key_ids: Array, interpret: bool, block: int
) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library

    _, length, heads, width = q.shape
    run = _splash_kernel(length, heads, interpret, block)
    heads_first = [jnp.swapaxes(x, 1, 2) for x in (q * width**-0.5, k, v)]
    context = jax.vmap(lambda q, k, v, *ids: run(q, k, v, segment_ids=library.SegmentIds(*ids)))(
        *heads_first, query_ids, key_ids
    )
    return jnp.swapaxes(context, 1, 2).astype(q.dtype)


def _splash_kernel(length: int, heads: int, interpret: bool, wanted: int) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    block = next(size for size in (wanted, *_SPLASH_BLOCKS) if length % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    return library.make_splash_mha(
        masks.MultiHeadMask([masks.CausalMask((length, length))] * heads),
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
    """The fastest kernel of `platforms.current_platform` that takes these shapes."""
    name = best(platforms.current_platform(), q.shape[1], q.dtype, q.shape[-1])
    return kernel(name, block)(q, k, v, segment_ids)


def resolved(config: Owl2Config, length: int) -> str:
    """The kernel of whole rows of so many tokens; "auto" is the best of `platforms.current_platform`."""
    if config.attention != "auto":
        return config.attention
    return best(platforms.current_platform(), length, config.dtype, config.decoder.head_dim)


def best(platform: str, length: int, dtype: DTypeLike, width: int) -> str:
    """Name of the kernel for a platform, as `platforms.current_platform` says it, and shape."""
    return fitting(platform, length, dtype, width)[-1]


def fitting(platform: str, length: int, dtype: DTypeLike, width: int) -> list[str]:
    """Names of the kernels that run there, the best one last."""
    fits = {
        "splash": platform in ("tpu", "old tpu") and splash_fits(length),
        "flash": platform == "tpu" and flash_attention.fits(length, width, dtype),
        "cudnn": platform == "gpu" and cudnn_fits(dtype, width),
    }
    return ["xla", *(name for name, does in fits.items() if does)]


KERNELS: Final[dict[str, Kernel]] = {
    "xla": xla, "flash": flash, "splash": splash, "cudnn": cudnn, "auto": auto,
}  # fmt: skip


def kernel(name: str, splash_block: int = SPLASH_BLOCK) -> Kernel:
    """The named kernel. Raises `UnknownNameError` with the nearest names."""
    if name not in KERNELS:
        raise unknown_name("attention kernel", name, KERNELS)
    takes_block = name in ("splash", "auto")
    return functools.partial(KERNELS[name], block=splash_block) if takes_block else KERNELS[name]
