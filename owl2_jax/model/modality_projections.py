"""Queries, keys and values of a decoder layer: text's projections, and those that images have for themselves.

This is half of the modality-adaptive module (mPLUG-Owl2, section 3.2); the
other half are the norms of `decoder_layer.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from owl2_jax.core import axes
from owl2_jax.model import image_positions
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.initializers import near_tokens
from owl2_jax.model.layers import Linear, side_by_side
from owl2_jax.model.lora import FusedLoraAdapter, layer_linear

Array = jax.Array
Written = TypeVar("Written")
# (what is written so far, keys, values, their tokens int32[n] or None for all) -> the same with these
Write = Callable[[Written, Array, Array, Array | None], Written]

# Projections that every token goes through. Where inference has put the kernels of heads that belong
# together side by side, under one name, they are a single product.
TEXT_PROJECTIONS: Final = ("q", "k_text", "v_text")
MERGED: Final = "q_k_text_v_text"

# Tokens of images that are projected together, where a flat batch has more than twice as many tokens, or its
# keys and values are written somewhere.
_IMAGES_AT_A_TIME: Final = 512


class ModalityProjections(nn.Module):
    """Queries, keys and values, some of which images have a copy of."""

    config: Owl2Config

    @nn.compact
    def __call__(
        self,
        x: Array,
        is_image: Array | None,
        starts: Array | None,
        write: Write[Written] | None = None,
        into: Written | None = None,
    ) -> list[Array] | tuple[Array, Written]:
        """Projects every token as what it is.

        Args:
          x: dtype[B, T, D], normed.
          is_image: bool[B, T], the modality indicator, or None without images.
          starts: int32[B, I], first positions of images; None in a flat batch, where any token may be an
            image's.
          write: of a flat batch whose keys and values are wanted nowhere else: puts those of tokens
            int32[n] into something, first all as text's, then those of images over them.
          into: what it is first given.

        Returns:
          Queries, dtype[B, T, N, H], keys and values, dtype[B, T, K, H]; or queries and what was written.
        """
        text = self._text_projections(x)
        adapted = self.config.decoder.adapted_projections
        if write is not None:
            return self._write(text, write, into, x, is_image if adapted else None)
        if is_image is None or not adapted:
            return text
        if starts is None:
            return self._select_images(text, x, is_image)
        if self.config.image_kv == "select":
            images = self._image_projections(x)
            put = lambda text, image: jnp.where(is_image[:, :, None], image, text)
        elif self.config.image_kv == "product":
            places = image_positions.places(starts, x.shape[1], self.config.tokens_per_image, x.dtype)
            images = self._image_projections(image_positions.take_by_product(x, places))
            put = lambda text, image: image_positions.put_by_product(text, is_image, places, image)
        else:
            span = self.config.tokens_per_image
            images = self._image_projections(image_positions.take_images(x, starts, span))
            put = lambda text, image: image_positions.put_images(text, starts, image)
        for number, which in enumerate("qkv"):
            if which in adapted:
                # Heads stay side by side, as products make them: apart, they would be copied.
                flat = (side_by_side(part) for part in (text[number], images[which]))
                text[number] = put(*flat).reshape(text[number].shape)
        return text

    def _select_images(self, text: list[Array], x: Array, is_image: Array) -> list[Array]:
        """The projections of tokens of which any may be an image's; without one nothing is computed."""

        def select(module: ModalityProjections, x: Array, text: list[Array]) -> list[Array]:
            images = module._image_projections(x)
            return [
                jnp.where(is_image[:, :, None, None], images[which], part) if which in images else part
                for which, part in zip("qkv", text, strict=True)
            ]

        def put(parts: list[Array], images: dict[str, Array], at: Array) -> list[Array]:
            return [
                _put(part, images[which], at) if which in images else part
                for which, part in zip("qkv", parts, strict=True)
            ]

        def replace(module: ModalityProjections, x: Array, text: list[Array]) -> list[Array]:
            return module._each_image(put, list(text), x, is_image)

        projected = replace if x.shape[0] > 2 * _IMAGES_AT_A_TIME else select
        return nn.cond(jnp.any(is_image), projected, lambda _, x, text: list(text), self, x, list(text))

    def _write(
        self, text: list[Array], write: Write[Written], into: Written, x: Array, is_image: Array | None
    ) -> tuple[Array, Written]:
        """Queries, and keys and values written somewhere.

        The loop over images runs in any case: a condition around it would have what is written copied.
        """
        q, k, v = text
        into = write(into, k, v, None)
        if is_image is None:
            return q, into

        def put(carry: tuple[Array, Written], images: dict[str, Array], at: Array) -> tuple[Array, Written]:
            q, into = carry
            q = _put(q, images["q"], at) if "q" in images else q
            if images.keys() == {"q"}:
                return q, into
            k_image, v_image = (
                images[which] if which in images else part.at[at].get(mode="clip")
                for which, part in (("k", k), ("v", v))
            )
            return q, write(into, k_image, v_image, at)

        return self._each_image(put, (q, into), x, is_image)

    def _each_image(
        self,
        put: Callable[[Written, dict[str, Array], Array], Written],
        carry: Written,
        x: Array,
        is_image: Array,
    ) -> Written:
        """Takes the tokens of images out of many, some at a time, and puts their projections somewhere.

        For the loop a TPU copies the kernels, which few tokens are not worth.
        """
        count, size = x.shape[0], _IMAGES_AT_A_TIME
        places = jnp.nonzero(is_image[:, 0], size=count + size, fill_value=count)[0]
        blocks = (jnp.sum(is_image, dtype=jnp.int32) + size - 1) // size

        def going(_: ModalityProjections, carry: tuple[Array, Written]) -> Array:
            return carry[0] < blocks

        def step(module: ModalityProjections, carry: tuple[Array, Written]) -> tuple[Array, Written]:
            number, parts = carry
            at = jax.lax.dynamic_slice_in_dim(places, number * size, size)
            return number + 1, put(parts, module._image_projections(x.at[at].get(mode="clip")), at)

        return nn.while_loop(going, step, self, (jnp.zeros((), jnp.int32), carry))[1]

    def _text_projections(self, x: Array) -> list[Array]:
        """Queries, keys and values as for text, likewise."""
        heads = self._heads()
        if self.has_variable("params", MERGED):
            text = self._merged_projections(x)
        else:
            text = [
                self._project(name, count, self._heads_axis(which))(x)
                for name, (which, count) in zip(TEXT_PROJECTIONS, heads.items(), strict=True)
            ]
        return self._with_adapter("qkv_text", dict(zip("qkv", text, strict=True)), x)

    def _merged_projections(self, x: Array) -> list[Array]:
        """Likewise of one kernel, whose heads come with their queries first."""
        decoder = self.config.decoder
        group = (decoder.num_heads // decoder.num_kv_heads + 2, decoder.head_dim)
        project = layer_linear(
            self.config, MERGED, (decoder.width,), (decoder.num_kv_heads, *group),
            (axes.EMBED,), (axes.KV_HEADS, axes.QKV, axes.HEAD_DIM), use_bias=decoder.qkv_bias,
        )  # fmt: skip
        merged = project(x)
        queries = merged[..., :-2, :].reshape(*x.shape[:-1], decoder.num_heads, decoder.head_dim)
        return [queries, merged[..., -2, :], merged[..., -1, :]]

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
        if name.startswith(("q", "k")):
            settings["bias_init"] = near_tokens(decoder.num_kv_heads)
        return layer_linear(self.config, name, (decoder.width,), shape, (axes.EMBED,), names, **settings)


def _put(whole: Array, parts: Array, at: Array) -> Array:
    """Parts [n, ...] in the place of tokens int32[n]; those beyond the last are dropped."""
    return whole.at[at].set(parts, mode="drop")
