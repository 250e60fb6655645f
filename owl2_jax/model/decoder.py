"""One decoder with the modality-adaptive module (mPLUG-Owl2, section 3.2), described by its config.

LLaMA-2 (mPLUG-Owl2) and Qwen (mPLUG-Owl2.1) differ in what a layer has twice, for
text and for images, in the biases of queries, keys and values, and in what
happens beyond the trained length; everything else is shared.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from owl2_jax.core import axes
from owl2_jax.model import image_positions, prompt_attention, remat, rotary
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.decoder_layer import STREAM, DecoderBlock, LayerInputs, for_tiles
from owl2_jax.model.layers import Linear, Scale, at_least_float32, gather_weight, partitioned, rms_normalize
from owl2_jax.model.pages import PagedBatch, Pages

Array = jax.Array


class Decoder(nn.Module):
    """Embedding, layers, final norm and head."""

    config: Owl2Config

    def setup(self) -> None:
        """Embedding, layers, final norm and head."""
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
        return nn.with_logical_constraint(x, STREAM)

    def __call__(
        self,
        x: Array,
        positions: Array,
        segment_ids: Array,
        starts: Array | None,
        prompt_lengths: Array | None = None,
    ) -> Array:
        """Runs the layers over whole rows.

        Args:
          x: dtype[B, T, D], embedded text and images.
          positions: int32[B, T].
          segment_ids: int32[B, T], 0 for padding.
          starts: int32[B, I] from `image_positions.slot_starts`, or None without images.
          prompt_lengths: int32[B] or int32[B, T], keys of the prompt that a row or
            a token belongs to or follows, padding not counted; what evaluation
            does beyond the trained length hangs on it. None in training.

        Returns:
          dtype[B, T, D] after the final norm.
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
        )
        (x, _, _), _ = self.layers((x, None, None), jnp.arange(decoder.num_layers), inputs)
        normed = rms_normalize(x, decoder.norm_eps).astype(x.dtype)
        return normed * self.final_norm().astype(x.dtype)

    def step(self, x: Array, is_image: Array | None, pages: Pages, batch: PagedBatch) -> tuple[Array, Pages]:
        """Runs a flat batch of T tokens over pages.

        Args:
          x: dtype[T, 1, D], embedded text and images.
          is_image: bool[T], the modality indicator; None where all are text.
          pages: written where the batch's block tables say, and returned.

        Returns:
          dtype[T, D] after the final norm, and the pages.
        """
        decoder, positions = self.config.decoder, batch.positions[:, None]
        prompt_lengths = batch.prompt_lengths.at[batch.rows].get(mode="clip")[:, None]
        base = rotary.rotary_base(decoder, prompt_lengths)
        sin, cos = rotary.rope_angles(positions, decoder.head_dim, base)
        if for_tiles(self.config, x, pages):
            sin, cos = (rotary.over_both_halves(angle, decoder.head_dim) for angle in (sin, cos))
        visits = None
        # The kernel for prompts gives no probabilities to show.
        shows = self.is_mutable_collection("intermediates")
        if not shows and prompt_attention.takes(self.config, x.shape[0], pages, batch):
            visits = prompt_attention.visits(batch, x.shape[0])
        inputs = LayerInputs(
            sin=sin,
            cos=cos,
            query_scale=rotary.query_scale(decoder, positions, prompt_lengths),
            starts=None,
            is_image=None if is_image is None else is_image[:, None],
            segment_ids=None,
            paged=batch,
            visits=visits,
        )
        carry = (x, pages.keys, pages.values)
        (x, keys, values), _ = self.layers(carry, jnp.arange(decoder.num_layers), inputs)
        normed = rms_normalize(x, decoder.norm_eps).astype(x.dtype)
        return (normed * self.final_norm().astype(x.dtype))[:, 0], Pages(keys, values)

    def logits(self, hidden: Array) -> Array:
        """dtype[..., D] after the final norm to float32[..., V]."""
        return self.head(hidden).astype(at_least_float32(hidden.dtype))
