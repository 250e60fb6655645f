"""Queries, keys and values of a decoder layer: text's projections, and those that images have for themselves.

This is half of the modality-adaptive module (mPLUG-Owl2, section 3.2); the
other half are the norms of `decoder_layer.py`.
"""

from __future__ import annotations

from typing import Any, Final

import jax
import jax.numpy as jnp
from flax import linen as nn

from owl2_jax.core import axes
from owl2_jax.model import image_positions
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.initializers import near_tokens
from owl2_jax.model.layers import Linear
from owl2_jax.model.lora import FusedLoraAdapter, layer_linear

Array = jax.Array

# Projections that every token goes through. Where inference has put their kernels one after the other
# along the heads, under one name, they are a single product.
TEXT_PROJECTIONS: Final = ("q", "k_text", "v_text")
MERGED: Final = "q_k_text_v_text"


class ModalityProjections(nn.Module):
    """Queries, keys and values, some of which images have a copy of."""

    config: Owl2Config

    @nn.compact
    def __call__(self, x: Array, is_image: Array | None, starts: Array | None) -> list[Array]:
        """Projects every token as what it is.

        Args:
          x: dtype[B, T, D], normed.
          is_image: bool[B, T], the modality indicator, or None without images.
          starts: int32[B, I], first positions of images; None in a flat batch, where any token may be an
            image's.

        Returns:
          Queries, dtype[B, T, N, H], keys and values, dtype[B, T, K, H].
        """
        text = self._text_projections(x)
        adapted = self.config.decoder.adapted_projections
        if is_image is None or not adapted:
            return text
        if starts is None:
            return self._select_images(text, x, is_image)
        if self.config.image_kv == "select":
            images, mask = self._image_projections(x), is_image[:, :, None, None]
            put = lambda text, image: jnp.where(mask, image, text)
        else:
            span = self.config.tokens_per_image
            images = self._image_projections(image_positions.take_images(x, starts, span))
            put = lambda text, image: image_positions.put_images(text, starts, image)
        return [put(part, images[which]) if which in adapted else part
                for which, part in zip("qkv", text, strict=True)]  # fmt: skip

    def _select_images(self, text: list[Array], x: Array, is_image: Array) -> list[Array]:
        """The projections of tokens of which any may be an image's; without one nothing is computed."""

        def select(module: ModalityProjections, x: Array, text: list[Array]) -> list[Array]:
            images = module._image_projections(x)
            return [
                jnp.where(is_image[:, :, None, None], images[which], part) if which in images else part
                for which, part in zip("qkv", text, strict=True)
            ]

        return nn.cond(jnp.any(is_image), select, lambda _, x, text: list(text), self, x, list(text))

    def _text_projections(self, x: Array) -> list[Array]:
        """Queries, keys and values as for text, likewise."""
        heads = self._heads()
        if self.has_variable("params", MERGED):
            merged = self._project(MERGED, sum(heads.values()), axes.HEADS)(x)
            text = jnp.split(merged, (heads["q"], heads["q"] + heads["k"]), axis=2)
        else:
            text = [
                self._project(name, count, self._heads_axis(which))(x)
                for name, (which, count) in zip(TEXT_PROJECTIONS, heads.items(), strict=True)
            ]
        return self._with_adapter("qkv_text", dict(zip("qkv", text, strict=True)), x)

    def _image_projections(self, x: Array) -> dict[str, Array]:
        """What has a copy for images, by "q", "k" and "v": dtype[..., N or K, H] of dtype[..., D]."""
        heads = self._heads()
        images = {
            which: self._project(f"{which}_image", heads[which], self._heads_axis(which))(x)
            for which in self.config.decoder.adapted_projections
        }
        return dict(zip(images, self._with_adapter("qkv_image", images, x), strict=True))

    def _with_adapter(self, name: str, parts: dict[str, Array], x: Array) -> list[Array]:
        """The projections with what an adapter of all three adds, where there is one."""
        lora, decoder = self.config.lora, self.config.decoder
        if lora is None or name not in lora.targets:
            return list(parts.values())
        outputs = {
            which: ((part.shape[-2], decoder.head_dim), (self._heads_axis(which), axes.HEAD_DIM))
            for which, part in parts.items()
        }
        adapter = FusedLoraAdapter(
            (decoder.width,), (axes.EMBED,), outputs, dtype=self.config.dtype, lora=lora, name=name
        )
        more = adapter(x)
        return [part + more[which] for which, part in parts.items()]

    def _heads(self) -> dict[str, int]:
        decoder = self.config.decoder
        return {"q": decoder.num_heads, "k": decoder.num_kv_heads, "v": decoder.num_kv_heads}

    def _heads_axis(self, which: str) -> str:
        return axes.HEADS if which == "q" else axes.KV_HEADS

    def _project(self, name: str, heads: int, heads_axis: str) -> Linear:
        decoder = self.config.decoder
        shape = (heads, decoder.head_dim)
        names = (heads_axis, axes.HEAD_DIM)
        settings: dict[str, Any] = {"use_bias": decoder.qkv_bias}
        if name != MERGED and name.startswith(("q", "k")):
            settings["bias_init"] = near_tokens(decoder.num_kv_heads)
        return layer_linear(self.config, name, (decoder.width,), shape, (axes.EMBED,), names, **settings)
