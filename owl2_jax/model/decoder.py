"""One decoder with the modality-adaptive module (mPLUG-Owl2, section 3.2), described by its config.

LLaMA-2 (mPLUG-Owl2) and Qwen (mPLUG-Owl2.1) differ in what a layer has twice, for
text and for images, in the biases of queries, keys and values, and in what
happens beyond the trained length; everything else is shared.
"""

from __future__ import annotations

from typing import Any, Final

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from owl2_jax.core import axes
from owl2_jax.model import attention, attention_kernels, image_positions, paged_kernels, remat, rotary
from owl2_jax.model.cache import Cache, write
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.layers import (
    FusedAdapter,
    Linear,
    Scale,
    at_least_float32,
    gather_weight,
    partitioned,
    rms_normalize,
)
from owl2_jax.model.pages import PagedBatch, Pages, write_tokens
from owl2_jax.model.rotary import apply_rope

Array = jax.Array
Carry = tuple[Array, Array | None, Array | None]  # the stream, and keys and values of a cache or of pages

# Projections that every token goes through. Where inference has put their kernels one after the other
# along the heads, under one name, they are a single product.
TEXT_PROJECTIONS: Final = ("q", "k_text", "v_text")
MERGED: Final = "q_k_text_v_text"

_STREAM = (axes.BATCH, axes.LENGTH, axes.ACT_EMBED)


@flax.struct.dataclass
class LayerInputs:
    """What every layer needs besides the stream; the same for all layers.

    Attributes:
      sin, cos: float32[B, T, 1, H / 2], rotary angles of the tokens.
      query_scale: float32[B, T, 1, 1] from `rotary.query_scale`, or None.
      starts: int32[B, I], first positions of images (T for empty places), or
        None when no row has an image.
      is_image: bool[B, T], the modality indicator, or None likewise.
      segment_ids: int32[B, T] when attention is among these T tokens, or None
        when it is over the cache.
      cache_positions: int32[B, T], cache positions that the tokens are written to, or None
        without a cache.
      paged: the tokens as a flat batch over pages (they are [T, 1] then), or None.
    """

    sin: Array
    cos: Array
    query_scale: Array | None
    starts: Array | None
    is_image: Array | None
    segment_ids: Array | None
    cache_positions: Array | None
    paged: PagedBatch | None = None


def layer_linear(config: Owl2Config, name: str, *shapes_and_axes: Any, use_bias: bool = False) -> Linear:
    """The linear map `name` of a layer, with its adapter where the config asks for one."""
    lora = config.lora
    return Linear(
        *shapes_and_axes,
        use_bias=use_bias,
        dtype=config.dtype,
        param_dtype=config.param_dtype,
        int8=lora is not None and lora.base == "int8",
        lora=lora if lora is not None and name in lora.targets else None,
        name=name,
    )


class DecoderAttention(nn.Module):
    """Causal self-attention whose projections may have a copy for images."""

    config: Owl2Config

    @nn.compact
    def __call__(
        self, x: Array, inputs: LayerInputs, layer: Array, keys: Array | None, values: Array | None
    ) -> tuple[Array, Array | None, Array | None]:
        """One layer's attention.

        Args:
          x: dtype[B, T, D], normed.
          layer: int32[], which layer of the cache this is.
          keys, values: dtype[L, B, K, S, H], the cache of all layers, or None.

        Returns:
          dtype[B, T, D] and the updated cache arrays.
        """
        decoder = self.config.decoder
        q, k, v = self._projections(x, inputs)
        in_tiles = attention_kernels.resolved(self.config.attention, q) == "splash"
        k = apply_rope(k, inputs.sin, inputs.cos, by_product=in_tiles)
        # The rotation is linear, so a scale of the query may as well be one of its angles.
        scale = 1.0 if inputs.query_scale is None else inputs.query_scale
        q = apply_rope(q, inputs.sin * scale, inputs.cos * scale, by_product=in_tiles)
        q, k, v = (
            checkpoint_name(
                nn.with_logical_constraint(part, (axes.BATCH, axes.LENGTH, axes.ACT_HEADS, None)),
                remat.PROJECTIONS,
            )
            for part in (q, k, v)
        )
        if inputs.paged is not None:
            context, keys, values = self._attend_pages(q, k, v, inputs.paged, layer, keys, values)
        else:
            if keys is not None and values is not None:
                keys = write(keys, layer, inputs.cache_positions, k)
                values = write(values, layer, inputs.cache_positions, v)
            context = checkpoint_name(self._attend(q, k, v, inputs, layer, keys, values), remat.CONTEXT)
        out = layer_linear(
            self.config, "out", (decoder.num_heads, decoder.head_dim), (decoder.width,),
            (axes.HEADS, axes.HEAD_DIM), (axes.EMBED,),
        )(context)  # fmt: skip
        return out, keys, values

    def _attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        inputs: LayerInputs,
        layer: Array,
        keys: Array | None,
        values: Array | None,
    ) -> Array:
        """Attention among the tokens when they have segments, over the cache otherwise."""
        if inputs.segment_ids is None:
            mask = attention.cache_mask(inputs.cache_positions, keys.shape[3])
            context, probabilities = attention.cache_product(q, keys, values, layer, mask)
        elif self.is_mutable_collection("intermediates"):
            # Only the written-out product has probabilities to show.
            segments = attention.query_segments(inputs.segment_ids)
            mask = attention.causal_segment_mask(segments, inputs.segment_ids)
            context, probabilities = attention.dot_product(q, k, v, mask)
        else:
            kernel = attention_kernels.kernel(self.config.attention, self.config.splash_block)
            return kernel(q, k, v, inputs.segment_ids)
        self.sow("intermediates", "attention", probabilities)
        return context

    def _attend_pages(
        self, q: Array, k: Array, v: Array, batch: PagedBatch, layer: Array, keys: Array, values: Array | None
    ) -> tuple[Array, Array, Array | None]:
        """Writes the tokens into their pages and attends over these: [T, 1, N, H], and the pages' arrays."""
        layers = self.config.decoder.num_layers
        pages = write_tokens(Pages(keys, values), k[:, 0], v[:, 0], batch, layer, layers)
        context = paged_kernels.attend(q[:, 0], pages, batch, layer, layers)
        return context[:, None], pages.keys, pages.values

    def _projections(self, x: Array, inputs: LayerInputs) -> list[Array]:
        """Queries, keys and values: dtype[B, T, N, H] and twice dtype[B, T, K, H]."""
        text = self._text_projections(x)
        adapted = self.config.decoder.adapted_projections
        if inputs.is_image is None or not adapted:
            return text
        if inputs.paged is not None:
            return self._select_images(text, x, inputs.is_image)
        if self.config.image_kv == "select":
            images, is_image = self._image_projections(x), inputs.is_image[:, :, None, None]
            put = lambda text, image: jnp.where(is_image, image, text)
        else:
            span = self.config.tokens_per_image
            images = self._image_projections(image_positions.take_images(x, inputs.starts, span))
            put = lambda text, image: image_positions.put_images(text, inputs.starts, image)
        return [put(part, images[which]) if which in adapted else part
                for which, part in zip("qkv", text, strict=True)]  # fmt: skip

    def _select_images(self, text: list[Array], x: Array, is_image: Array) -> list[Array]:
        """The projections of tokens of which any may be an image's; without one nothing is computed."""

        def select(module: DecoderAttention, x: Array, text: list[Array]) -> list[Array]:
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
        adapter = FusedAdapter(
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
        return layer_linear(
            self.config, name, (decoder.width,), shape, (axes.EMBED,), names, use_bias=decoder.qkv_bias
        )


class DecoderMlp(nn.Module):
    """SwiGLU: `down(silu(gate x) * up x)`."""

    config: Owl2Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        decoder = self.config.decoder
        width, hidden = (decoder.width,), (decoder.mlp_dim,)
        embed, inner = (axes.EMBED,), (axes.HIDDEN,)
        gate = layer_linear(self.config, "gate", width, hidden, embed, inner)(x)
        up = layer_linear(self.config, "up", width, hidden, embed, inner)(x)
        x = nn.with_logical_constraint(nn.silu(gate) * up, (axes.BATCH, axes.LENGTH, axes.ACT_HIDDEN))
        x = checkpoint_name(x, remat.MLP_HIDDEN)
        return layer_linear(self.config, "down", hidden, width, inner, embed)(x)


class DecoderBlock(nn.Module):
    """One layer; the signature is that of a scan body carrying the stream and the cache."""

    config: Owl2Config

    @nn.compact
    def __call__(self, carry: Carry, layer: Array, inputs: LayerInputs) -> tuple[Carry, None]:
        x, keys, values = carry
        normed = self._norm("attention_norm", x, inputs)
        update, keys, values = DecoderAttention(self.config, name="attention")(
            normed, inputs, layer, keys, values
        )
        x = nn.with_logical_constraint(x + update, _STREAM)
        x = x + DecoderMlp(self.config, name="mlp")(self._norm("mlp_norm", x, inputs))
        x = nn.with_logical_constraint(x, _STREAM)
        self.sow("intermediates", "hidden", x)
        return (x, keys, values), None

    def _norm(self, name: str, x: Array, inputs: LayerInputs) -> Array:
        """RMSNorm whose scale is the token's modality's; both share one normalisation."""
        decoder = self.config.decoder

        def scale(modality_name: str) -> Array:
            return Scale(decoder.width, axes.EMBED, self.config.param_dtype, name=f"{name}_{modality_name}")()

        normed = rms_normalize(x, decoder.norm_eps).astype(x.dtype)
        chosen = scale("text").astype(x.dtype)
        if inputs.is_image is not None and decoder.adapts("norms"):
            chosen = jnp.where(inputs.is_image[:, :, None], scale("image").astype(x.dtype), chosen)
        return normed * chosen


class Decoder(nn.Module):
    """Embedding, layers, final norm and head."""

    config: Owl2Config

    def setup(self) -> None:
        config, decoder = self.config, self.config.decoder
        self.embedding = self.param(
            "embedding",
            partitioned(nn.initializers.normal(0.02), (axes.VOCAB, axes.EMBED)),
            (decoder.vocab_size, decoder.width),
            config.param_dtype,
        )
        self.layers = self._make_layers()
        self.final_norm = Scale(decoder.width, axes.EMBED, config.param_dtype)
        self.head = Linear(
            (decoder.width,), (decoder.vocab_size,), (axes.EMBED,), (axes.VOCAB,),
            dtype=config.dtype, param_dtype=config.param_dtype,
        )  # fmt: skip

    @nn.nowrap
    def _make_layers(self) -> nn.Module:
        """The layers as one module with the signature of `DecoderBlock`."""
        blocks = nn.scan(
            remat.remat_block(DecoderBlock, self.config.remat),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=self.config.decoder.num_layers,
            unroll=self.config.scan_unroll,
            metadata_params={nn.PARTITION_NAME: axes.LAYERS},
        )
        return blocks(self.config)

    def embed(self, tokens: Array) -> Array:
        """int32[B, T] to dtype[B, T, D]; an id of V or more is no token and gives zeros."""
        names = axes.VOCAB, axes.EMBED
        table = gather_weight(self.embedding.astype(self.config.dtype), names)
        # The constraint holds for the gradient too: it is summed as a whole before it is cut.
        # Cut first, the compiler would move every row's gradient to every device.
        table = nn.with_logical_constraint(table, names)
        x = jnp.take(table, tokens, axis=0, mode="fill", fill_value=0)
        return nn.with_logical_constraint(x, _STREAM)

    def __call__(
        self,
        x: Array,
        positions: Array,
        segment_ids: Array | None,
        starts: Array | None,
        cache: Cache | None,
        prompt_lengths: Array | None = None,
    ) -> tuple[Array, Cache | None]:
        """Runs the layers.

        Args:
          x: dtype[B, T, D], embedded text and images.
          positions: int32[B, T].
          segment_ids: int32[B, T], 0 for padding, for attention among these
            tokens; None for attention over the cache.
          starts: int32[B, I] from `image_positions.slot_starts`, or None without images.
          cache: written at `positions` and returned (lengths unchanged), or None.
          prompt_lengths: int32[B] or int32[B, T], keys of the prompt that a row or
            a token belongs to or follows, padding not counted; what evaluation
            does beyond the trained length hangs on it. None in training.

        Returns:
          dtype[B, T, D] after the final norm, and the cache.
        """
        decoder = self.config.decoder
        if prompt_lengths is not None and prompt_lengths.ndim == 1:
            prompt_lengths = prompt_lengths[:, None]
        base = rotary.rotary_base(decoder, prompt_lengths)
        sin, cos = rotary.rope_angles(positions, decoder.head_dim, base)
        is_image = None
        if starts is not None:
            is_image = image_positions.image_mask(starts, x.shape[1], self.config.tokens_per_image)
        inputs = LayerInputs(
            sin=sin,
            cos=cos,
            query_scale=rotary.query_scale(decoder, positions, prompt_lengths),
            starts=starts,
            is_image=is_image,
            segment_ids=segment_ids,
            cache_positions=None if cache is None else positions,
        )
        carry = (x, None, None) if cache is None else (x, cache.keys, cache.values)
        (x, keys, values), _ = self.layers(carry, jnp.arange(decoder.num_layers), inputs)
        if cache is not None:
            cache = cache.replace(keys=keys, values=values)
        normed = rms_normalize(x, decoder.norm_eps).astype(x.dtype)
        return normed * self.final_norm().astype(x.dtype), cache

    def step(self, x: Array, is_image: Array, pages: Pages, batch: PagedBatch) -> tuple[Array, Pages]:
        """Runs a flat batch of T tokens over pages.

        Args:
          x: dtype[T, 1, D], embedded text and images.
          is_image: bool[T], the modality indicator.
          pages: written where the batch's block tables say, and returned.

        Returns:
          dtype[T, D] after the final norm, and the pages.
        """
        decoder, positions = self.config.decoder, batch.positions[:, None]
        prompt_lengths = batch.prompt_lengths.at[batch.rows].get(mode="clip")[:, None]
        base = rotary.rotary_base(decoder, prompt_lengths)
        sin, cos = rotary.rope_angles(positions, decoder.head_dim, base)
        inputs = LayerInputs(
            sin=sin,
            cos=cos,
            query_scale=rotary.query_scale(decoder, positions, prompt_lengths),
            starts=None,
            is_image=is_image[:, None],
            segment_ids=None,
            cache_positions=None,
            paged=batch,
        )
        carry = (x, pages.keys, pages.values)
        (x, keys, values), _ = self.layers(carry, jnp.arange(decoder.num_layers), inputs)
        normed = rms_normalize(x, decoder.norm_eps).astype(x.dtype)
        return (normed * self.final_norm().astype(x.dtype))[:, 0], Pages(keys, values)

    def logits(self, hidden: Array) -> Array:
        """dtype[..., D] after the final norm to float32[..., V]."""
        return self.head(hidden).astype(at_least_float32(hidden.dtype))
