"""Visual abstractor: learned queries read an image into Q tokens (mPLUG-Owl2, section 3.1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from owl2_jax.core import axes
from owl2_jax.model import attention, remat
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.layers import (
    ABSTRACTOR_NORM_EPS,
    LayerNorm,
    biased_linear,
    partitioned,
    sincos_1d,
    sincos_2d,
)

Array = jax.Array


class AbstractorAttention(nn.Module):
    """Queries attend to themselves and the image; positions enter queries and keys, never values."""

    config: Owl2Config

    @nn.compact
    def __call__(self, queries: Array, image: Array) -> Array:
        """Args: queries dtype[M, Q, E], image dtype[M, P + 1, E], both normed. Returns [M, Q, E]."""
        vision, abstractor = self.config.vision, self.config.abstractor
        heads, width = abstractor.num_heads, vision.width // abstractor.num_heads
        linear = biased_linear(self.config)
        embed, per_head = (axes.VISION_EMBED,), (axes.HEADS, axes.HEAD_DIM)

        def project(name: str, x: Array) -> Array:
            y = linear((vision.width,), (heads, width), embed, per_head, name=name)(x)
            return nn.with_logical_constraint(y, (axes.IMAGES, None, axes.ACT_HEADS, None))

        query_positions = jnp.asarray(sincos_1d(range(abstractor.num_queries), vision.width))
        image_positions = jnp.asarray(sincos_2d(vision.grid_size, vision.width))
        key_positions = jnp.concatenate([query_positions, image_positions])
        seen = jnp.concatenate([queries, image], axis=1)
        context, probabilities = attention.dot_product(
            project("q", queries + query_positions.astype(queries.dtype)),
            project("k", seen + key_positions.astype(seen.dtype)),
            project("v", seen),
            None,
        )
        self.sow("intermediates", "attention", probabilities)
        self.sow("intermediates", "context", context)
        return linear((heads, width), (vision.width,), per_head, embed, name="out")(context)


class AbstractorMlp(nn.Module):
    """SwiGLU with a LayerNorm on the hidden activation: `w2(norm(silu(w1 x) * w3 x))`."""

    config: Owl2Config

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """dtype[M, Q, E] to the same shape."""
        width, hidden = self.config.vision.width, self.config.abstractor.mlp_dim
        linear = biased_linear(self.config)
        embed, inner = (axes.VISION_EMBED,), (axes.HIDDEN,)
        gate = linear((width,), (hidden,), embed, inner, name="w1")(x)
        value = linear((width,), (hidden,), embed, inner, name="w3")(x)
        x = LayerNorm(
            hidden, self.config.abstractor.norm_eps, axes.HIDDEN, self.config.param_dtype, name="norm"
        )(nn.silu(gate) * value)
        x = nn.with_logical_constraint(x, (axes.IMAGES, None, axes.ACT_HIDDEN))
        return linear((hidden,), (width,), inner, embed, name="w2")(x)


class AbstractorBlock(nn.Module):
    """The residual starts from the normed queries, as in the released model."""

    config: Owl2Config

    @nn.compact
    def __call__(self, x: Array, image: Array) -> tuple[Array, None]:
        """Queries dtype[M, Q, E] and image tokens dtype[M, P + 1, E] to the next layer's queries."""

        def norm(name: str) -> LayerNorm:
            return LayerNorm(
                self.config.vision.width,
                ABSTRACTOR_NORM_EPS,
                axes.VISION_EMBED,
                self.config.param_dtype,
                name=name,
            )

        x = norm("query_norm")(x)
        x = x + AbstractorAttention(self.config, name="attention")(x, norm("image_norm")(image))
        x = x + AbstractorMlp(self.config, name="mlp")(norm("mlp_norm")(x))
        self.sow("intermediates", "hidden", x)
        return x, None


class Abstractor(nn.Module):
    """Q learned queries, the blocks, the map to the decoder's width and the end token."""

    config: Owl2Config

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """dtype[M, P + 1, E] from the encoder to dtype[M, Q + 1, D] for the decoder."""
        config = self.config
        width, queries = config.vision.width, config.abstractor.num_queries
        table = self.param(
            "queries",
            partitioned(nn.initializers.normal(0.4), (axes.QUERIES, axes.VISION_EMBED)),
            (queries, width),
            config.param_dtype,
        )
        x = jnp.broadcast_to(table.astype(config.dtype), (image.shape[0], queries, width))
        blocks = nn.scan(
            remat.remat_block(AbstractorBlock, config.remat),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=config.abstractor.num_layers,
            unroll=config.scan_unroll,
            metadata_params={nn.PARTITION_NAME: axes.LAYERS},
        )
        x, _ = blocks(config, name="layers")(x, image)
        return self._project(x)

    def _project(self, x: Array) -> Array:
        config = self.config
        width, decoder_width = config.vision.width, config.decoder.width
        x = biased_linear(config)(
            (width,), (decoder_width,), (axes.VISION_EMBED,), (axes.EMBED,), name="project",
        )(x)  # fmt: skip
        end = self.param(
            "end_token",
            partitioned(nn.initializers.normal(0.02), (axes.EMBED,)),
            (decoder_width,),
            config.param_dtype,
        )
        ends = jnp.broadcast_to(end.astype(x.dtype), (x.shape[0], 1, decoder_width))
        return jnp.concatenate([x, ends], axis=1)
