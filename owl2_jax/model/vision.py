"""CLIP ViT encoder (Radford et al. 2021) with QuickGELU; every token leaves through the last norm."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from owl2_jax.core import axes
from owl2_jax.core.pixels import CLIP_MEAN, CLIP_STD
from owl2_jax.model import attention, attention_kernels, initializers, remat
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.layers import LayerNorm, Linear, biased_linear, partitioned, quick_gelu

Array = jax.Array

# Statistics of CLIP's training images, RGB in 0..1 (Radford et al. 2021).


def normalize_pixels(images: Array) -> Array:
    """uint8[M, H, W, 3] RGB to float32 with CLIP's mean and deviation; float input passes."""
    if images.dtype != jnp.uint8:
        return images
    mean, std = np.asarray(CLIP_MEAN, np.float32), np.asarray(CLIP_STD, np.float32)
    return (images.astype(jnp.float32) / 255.0 - mean) / std


class FusedProjections(Linear):
    """Queries, keys and values of one kernel, `out_shape` (N, 3, H).

    Attributes:
      apart: multiply with each third of the kernel by itself, and leave heads side by side. What is cut from
        one product would be copied for an attention kernel, and so would heads that come apart.
    """

    apart: bool = False

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """dtype[M, P, E] to three of dtype[M, P, N, H]; apart, of dtype[M, P, N * H]."""
        if not self.apart:
            together = super().__call__(x)
            together = nn.with_logical_constraint(together, (axes.IMAGES, None, axes.ACT_HEADS, None, None))
            return [together[:, :, :, part] for part in range(3)]
        (kernel, scale), bias = self._stored_weights(), self._bias()
        heads, _, width = self.out_axes
        parts = []
        for part in range(3):
            third = self._gathered(kernel[:, :, part], (heads, width))
            y = x.astype(self.dtype) @ third.reshape(x.shape[-1], -1)
            y = y if scale is None else y * scale[:, part].reshape(-1)
            y = y + bias[:, part].reshape(-1)
            parts.append(nn.with_logical_constraint(y, (axes.IMAGES, None, axes.ACT_HEADS)))
        return parts


class VisionAttention(nn.Module):
    """Full self-attention with one fused projection laid out per head as (head, {q, k, v}, H)."""

    config: Owl2Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """dtype[M, P + 1, E] to the same."""
        vision = self.config.vision
        heads, width = vision.num_heads, vision.head_dim
        # Only the written-out product has probabilities to show.
        shows = self.is_mutable_collection("intermediates")
        flash = not shows and attention_kernels.sees_by_flash(self.config, *x.shape[:2])
        project = biased_linear(self.config, FusedProjections)(
            (vision.width,), (heads, 3, width),
            (axes.VISION_EMBED,), (axes.HEADS, axes.QKV, axes.HEAD_DIM),
            kernel_init=initializers.alike_qkv, name="qkv", apart=flash,
        )  # fmt: skip
        if flash:
            context = attention_kernels.flash_everywhere(*project(x), width)
            context = context.reshape(*x.shape[:2], heads, width)
        else:
            context, probabilities = attention.dot_product(*project(x), None)
            self.sow("intermediates", "attention", probabilities)
        return biased_linear(self.config)(
            (heads, width), (vision.width,), (axes.HEADS, axes.HEAD_DIM), (axes.VISION_EMBED,),
            kernel_init=initializers.mixing_out, name="out",
        )(context)  # fmt: skip


class VisionMlp(nn.Module):
    """CLIP's MLP: a linear map, quick GELU, a linear map."""

    config: Owl2Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """dtype[M, P + 1, E] to the same shape."""
        vision = self.config.vision
        linear = biased_linear(self.config)
        # Stored in pieces of the wider axis: of the narrower, 256 chips would have four rows each, and a
        # TPU's tiles have eight.
        embed, hidden = (None,), (axes.VISION_HIDDEN,)
        x = linear((vision.width,), (vision.mlp_dim,), embed, hidden, name="fc1")(x)
        x = nn.with_logical_constraint(quick_gelu(x), (axes.IMAGES, None, axes.ACT_HIDDEN))
        return linear((vision.mlp_dim,), (vision.width,), hidden, embed, name="fc2")(x)


class VisionBlock(nn.Module):
    """Pre-norm block; the signature is that of a scan body."""

    config: Owl2Config

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        """dtype[M, P + 1, E] to the same shape."""
        vision = self.config.vision

        def norm(name: str) -> LayerNorm:
            return LayerNorm(
                vision.width, vision.norm_eps, axes.VISION_EMBED, self.config.param_dtype, name=name
            )

        x = x + VisionAttention(self.config, name="attention")(norm("attention_norm")(x))
        x = x + VisionMlp(self.config, name="mlp")(norm("mlp_norm")(x))
        x = nn.with_logical_constraint(x, (axes.IMAGES, None, axes.ACT_EMBED))
        self.sow("intermediates", "hidden", x)
        return x, None


class VisionEncoder(nn.Module):
    """Patches and a class token through `num_layers` blocks (spec of ViT-L/14, section 1)."""

    config: Owl2Config

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Encodes images.

        Args:
          images: uint8[M, H, W, 3] RGB, or float32 already normalised; H = W =
            `config.vision.image_size`.

        Returns:
          dtype[M, P + 1, E], the class token first.
        """
        config, vision = self.config, self.config.vision
        x = self._embed(normalize_pixels(images).astype(config.dtype))
        norm = {"eps": vision.norm_eps, "axis": axes.VISION_EMBED, "param_dtype": config.param_dtype}
        x = LayerNorm(vision.width, name="pre_norm", **norm)(x)
        self.sow("intermediates", "embedded", x)
        blocks = nn.scan(
            remat.remat_block(VisionBlock, config.remat),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            length=vision.num_layers,
            unroll=config.scan_unroll,
            metadata_params={nn.PARTITION_NAME: axes.LAYERS},
        )
        x, _ = blocks(config, name="layers")(x, None)
        return LayerNorm(vision.width, name="post_norm", **norm)(x)

    def _embed(self, pixels: Array) -> Array:
        """Patch projection, class token and position table: [M, H, W, 3] to [M, P + 1, E]."""
        config, vision = self.config, self.config.vision
        count, grid, patch = pixels.shape[0], vision.grid_size, vision.patch_size
        # Cutting patches by reshape makes the strided convolution one matrix product.
        patches = pixels.reshape(count, grid, patch, grid, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x = Linear(
            (patch, patch, 3), (vision.width,), (None, None, None), (axes.VISION_EMBED,),
            dtype=config.dtype, param_dtype=config.param_dtype, name="patch_embed",
        )(patches.reshape(count, grid * grid, patch, patch, 3))  # fmt: skip
        small = nn.initializers.normal(vision.width**-0.5)
        class_token = self.param(
            "cls_token", partitioned(small, (axes.VISION_EMBED,)), (vision.width,), config.param_dtype
        )
        table = self.param(
            "position_embedding",
            partitioned(initializers.sine_positions, (axes.POSITIONS, axes.VISION_EMBED)),
            (vision.num_patches + 1, vision.width),
            config.param_dtype,
        )
        class_tokens = jnp.broadcast_to(class_token.astype(x.dtype), (count, 1, vision.width))
        return jnp.concatenate([class_tokens, x], axis=1) + table.astype(x.dtype)
