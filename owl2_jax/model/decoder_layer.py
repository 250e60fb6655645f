"""One layer of the decoder: attention, MLP, and two norms whose scales may differ for text and images."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from owl2_jax.core import axes
from owl2_jax.model import (
    attention,
    attention_kernels,
    paged_attention,
    paged_kernels,
    prompt_attention,
    remat,
)
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.layers import Scale, pieces, rms_normalize, side_by_side
from owl2_jax.model.lora import layer_linear
from owl2_jax.model.modality_projections import ModalityProjections
from owl2_jax.model.pages import COMBINED, PagedBatch, Pages, write_pairs, write_tokens
from owl2_jax.model.rotary import apply_rope, rolled_angles, rotate_pairs

Array = jax.Array
Carry = tuple[Array, Array | None, Array | None]  # the stream, and keys and values of pages, if any

Names = tuple[str, ...]

STREAM: Names = (axes.BATCH, axes.LENGTH, axes.ACT_EMBED)
IN_PIECES: Names = (axes.TOKENS, axes.LENGTH, axes.ACT_EMBED)
_TOKENS_IN_PIECES = 512  # of a flat batch, at least
_TOKENS_TURNED_AS_ONE = 511  # of a flat batch, at most; what more of them are cut from would be copied


@flax.struct.dataclass
class LayerInputs:
    """What every layer needs besides the stream; the same for all layers.

    Attributes:
      sin, cos: float32[B, T, 1, H / 2], rotary angles of the tokens; [B, T, 1, H] where the rotation of
        all layers is by a product.
      query_scale: float32[B, T, 1, 1] from `rotary.query_scale`, or None.
      starts: int32[B, I], first positions of images (T for empty places), or
        None when no row has an image.
      is_image: bool[B, T], the modality indicator, or None likewise.
      segment_ids: int32[B, T] when attention is among these T tokens, or None
        when it is over pages.
      paged: the tokens as a flat batch over pages (they are [T, 1] then), or None.
      visits: `prompt_attention.visits` of the batch where that kernel is the one to run, else None.
    """

    sin: Array
    cos: Array
    query_scale: Array | None
    starts: Array | None
    is_image: Array | None
    segment_ids: Array | None
    paged: PagedBatch | None = None
    visits: prompt_attention.Visits | None = None


def for_tiles(config: Owl2Config, x: Array, pages: Pages | None) -> bool:
    """Whether a stream dtype[B, T, D] is computed for the registers of a TPU, as its attention kernels are.

    Over pages, these say for which device they lie.
    """
    if pages is not None:
        return pages.layout == COMBINED
    return attention_kernels.resolved(config, x.shape[1]) in ("flash", "splash")


class DecoderAttention(nn.Module):
    """Causal self-attention whose projections may have a copy for images."""

    config: Owl2Config

    @nn.compact
    def __call__(
        self,
        x: Array,
        inputs: LayerInputs,
        in_tiles: bool,
        layer: Array,
        keys: Array | None,
        values: Array | None,
    ) -> tuple[Array, Array | None, Array | None]:
        """One layer's attention.

        Args:
          x: dtype[B, T, D], normed.
          in_tiles: see `for_tiles`.
          layer: int32[], which layer of the pages this is.
          keys, values: of `Pages`, or None.

        Returns:
          dtype[B, T, D] and the updated arrays.
        """
        projections = ModalityProjections(self.config)
        nn.share_scope(self, projections)
        if inputs.visits is not None:
            context, keys = self._attend_prompts(projections, x, inputs, layer, keys)
            return self._out(context), keys, values
        q, k, v = projections(x, inputs.is_image, inputs.starts)
        if inputs.paged is None and self._kernel(x) == "flash":
            return self._out(self._attend_flat(q, k, v, inputs)), keys, values
        if inputs.paged is not None and in_tiles and x.shape[0] <= _TOKENS_TURNED_AS_ONE:
            q, pairs = rotate_pairs(q, k, v, inputs.sin, inputs.cos, inputs.query_scale)
            context, keys, values = self._attend_pairs(q, pairs, inputs.paged, layer, keys)
            return self._out(context), keys, values
        # A CPU joins halves number by number.
        by_product = in_tiles or (inputs.paged is None and self._kernel(x) == "xla")
        k = apply_rope(k, inputs.sin, inputs.cos, by_product)
        # The rotation is linear, so a scale of the query may as well be one of its angles.
        scale = 1.0 if inputs.query_scale is None else inputs.query_scale
        q = apply_rope(q, inputs.sin * scale, inputs.cos * scale, by_product)
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
            context = self._attend(q, k, v, inputs.segment_ids)
        return self._out(context), keys, values

    def _kernel(self, x: Array) -> str:
        """Of whole sequences dtype[B, T, D]. Only the written-out product has probabilities to show."""
        shows = self.is_mutable_collection("intermediates")
        return "xla" if shows else attention_kernels.resolved(self.config, x.shape[1])

    def _out(self, context: Array) -> Array:
        decoder = self.config.decoder
        return layer_linear(
            self.config, "out", (decoder.num_heads, decoder.head_dim), (decoder.width,),
            (axes.HEADS, axes.HEAD_DIM), (axes.EMBED,),
        )(context)  # fmt: skip

    def _attend(self, q: Array, k: Array, v: Array, segment_ids: Array) -> Array:
        """Attention among the tokens of segments int32[B, T]."""
        if not self.is_mutable_collection("intermediates"):
            kernel = attention_kernels.kernel(self.config.attention, self.config.splash_block)
            return kernel(q, k, v, segment_ids)
        mask = attention.causal_segment_mask(attention.query_segments(segment_ids), segment_ids)
        context, probabilities = attention.dot_product(q, k, v, mask, remat.CONTEXT)
        self.sow("intermediates", "attention", probabilities)
        return context

    def _attend_flat(self, q: Array, k: Array, v: Array, inputs: LayerInputs) -> Array:
        """Attention whose kernel turns queries and keys by itself, of heads that stay side by side."""
        shape, names = q.shape, (axes.BATCH, axes.LENGTH, axes.ACT_HEADS)
        if inputs.query_scale is not None:
            q = (q * inputs.query_scale).astype(q.dtype)
        q, k, v = (
            checkpoint_name(nn.with_logical_constraint(side_by_side(part), names), remat.PROJECTIONS)
            for part in (q, k, v)
        )
        angles = rolled_angles(inputs.sin, inputs.cos, shape[-1])
        return attention_kernels.flash_turning(q, k, v, angles, inputs.segment_ids, shape[-1]).reshape(shape)

    def _attend_pages(
        self, q: Array, k: Array, v: Array, batch: PagedBatch, layer: Array, keys: Array, values: Array | None
    ) -> tuple[Array, Array, Array | None]:
        """Writes the tokens into their pages and attends over these: [T, 1, N, H], and the pages' arrays."""
        layers = self.config.decoder.num_layers
        pages = write_tokens(Pages(keys, values), k[:, 0], v[:, 0], batch, layer, layers)
        return self._look(q, pages, batch, layer)

    def _attend_pairs(
        self, q: Array, pairs: Array, batch: PagedBatch, layer: Array, keys: Array
    ) -> tuple[Array, Array, Array | None]:
        """The same of keys and values that lie together, [T, 1, 2 K, H]."""
        names = (axes.BATCH, axes.LENGTH, axes.ACT_HEADS, None)
        q, pairs = (nn.with_logical_constraint(part, names) for part in (q, pairs))
        layers = self.config.decoder.num_layers
        pages = write_pairs(Pages(keys, None), pairs[:, 0], batch, layer, layers)
        return self._look(q, pages, batch, layer)

    def _attend_prompts(
        self, projections: ModalityProjections, x: Array, inputs: LayerInputs, layer: Array, keys: Array
    ) -> tuple[Array, Array]:
        """`_attend_pages` of long prompts: keys and values go to their pages and nowhere else.

        Args:
          x: dtype[T, 1, D].

        Returns:
          [T, 1, N, H], and the pages' array.
        """
        batch, layers = inputs.paged, self.config.decoder.num_layers

        def write(pages: Pages, k: Array, v: Array, at: Array | None) -> Pages:
            sin, cos, of_tokens = inputs.sin, inputs.cos, batch
            if at is not None:
                sin, cos = (angle.at[at].get(mode="clip") for angle in (sin, cos))
                of_tokens = batch.of_tokens(at)
            k = apply_rope(k, sin, cos, by_product=True)
            return write_tokens(pages, k[:, 0], v[:, 0], of_tokens, layer, layers)

        q, pages = projections(x, inputs.is_image, inputs.starts, write, Pages(keys, None))
        flat = nn.with_logical_constraint(side_by_side(q)[:, 0], (axes.BATCH, axes.ACT_HEADS))
        # The rotation is linear, so a scale of the query may as well be one of its angles.
        scale = 1.0 if inputs.query_scale is None else inputs.query_scale
        rolled = rolled_angles(inputs.sin * scale, inputs.cos * scale, q.shape[-1])
        angles = tuple(angle[:, 0] for angle in rolled)
        context = prompt_attention.attend(flat, angles, pages, batch, inputs.visits, layer, layers)
        return context.reshape(q.shape), pages.keys

    def _look(
        self, q: Array, pages: Pages, batch: PagedBatch, layer: Array
    ) -> tuple[Array, Array, Array | None]:
        layers = self.config.decoder.num_layers
        context = paged_kernels.attend(q[:, 0], pages, batch, layer, layers)
        if self.is_mutable_collection("intermediates"):
            probabilities = paged_attention.probabilities(q[:, 0], pages, batch, layer, layers)
            self.sow("intermediates", "attention", probabilities)
        return context[:, None], pages.keys, pages.values


def _gated(gate: Array, up: Array) -> Array:
    return nn.silu(gate) * up


@jax.custom_vjp
def _gated_apart(gate: Array, up: Array) -> Array:
    """`_gated`; its gradients are written before the products that read them start."""
    return _gated(gate, up)


def _gated_forward(gate: Array, up: Array) -> tuple[Array, tuple[Array, Array]]:
    return _gated(gate, up), (gate, up)


def _gated_backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    return lax.optimization_barrier(jax.vjp(_gated, *kept)[1](gradient))


_gated_apart.defvjp(_gated_forward, _gated_backward)


class DecoderMlp(nn.Module):
    """SwiGLU: `down(silu(gate x) * up x)`."""

    config: Owl2Config

    @nn.compact
    def __call__(self, x: Array, in_tiles: bool) -> Array:
        """dtype[B, T, D] to the same shape; `in_tiles` as `for_tiles` says."""
        decoder = self.config.decoder
        width, hidden = (decoder.width,), (decoder.mlp_dim,)
        embed, inner = (axes.EMBED,), (axes.HIDDEN,)
        # Flat as the products are: a TPU cuts what is kept of them from the stack of all layers where it
        # is read, but copies it for another shape.
        flat = x.reshape(-1, decoder.width)
        gate = layer_linear(self.config, "gate", width, hidden, embed, inner)(flat)
        up = layer_linear(self.config, "up", width, hidden, embed, inner)(flat)
        # A TPU's compiler would compute the gradients anew in every tile of a product.
        gated = _gated_apart(gate, up) if in_tiles else _gated(gate, up)
        gated = nn.with_logical_constraint(gated, (axes.BATCH, axes.ACT_HIDDEN))
        gated = checkpoint_name(gated, remat.MLP_HIDDEN)
        return layer_linear(self.config, "down", hidden, width, inner, embed)(gated).reshape(x.shape)


def _between_products(x: Array, inputs: LayerInputs) -> Names:
    """Where the stream dtype[B, T, D] lies between the products that a layer's devices share.

    Each of them then adds and norms some tokens of a flat batch of many, and gathers them for the next
    product, which moves as many bytes as a sum that all of them get.
    """
    count, ways = x.shape[0], pieces((axes.TOKENS,))
    if inputs.paged is None or count < _TOKENS_IN_PIECES or ways == 1:
        return STREAM
    return STREAM if count % ways else IN_PIECES


class DecoderBlock(nn.Module):
    """One layer; the signature is that of a scan body carrying the stream and the pages."""

    config: Owl2Config

    @nn.compact
    def __call__(self, carry: Carry, layer: Array, inputs: LayerInputs) -> tuple[Carry, None]:
        """The stream dtype[B, T, D] and the pages after this layer, whose number is `layer`."""
        x, keys, values = carry
        in_tiles = for_tiles(self.config, x, Pages(keys, values) if inputs.paged is not None else None)
        between = _between_products(x, inputs)
        apart = in_tiles and inputs.paged is None
        normed = self._norm("attention_norm", x, inputs, between, apart)
        update, keys, values = DecoderAttention(self.config, name="attention")(
            normed, inputs, in_tiles, layer, keys, values
        )
        x = nn.with_logical_constraint(x + update, between)
        normed = self._norm("mlp_norm", x, inputs, between, apart)
        update = DecoderMlp(self.config, name="mlp")(normed, in_tiles)
        x = nn.with_logical_constraint(x + update, between)
        self.sow("intermediates", "hidden", x)
        return (x, keys, values), None

    def _norm(self, name: str, x: Array, inputs: LayerInputs, between: Names, apart: bool) -> Array:
        """RMSNorm whose scale is the token's modality's; both share one normalisation.

        Products take all tokens, of which the stream may have lain in pieces. With `apart` they wait until
        it is written, and so does what reads its gradient: a TPU's compiler would compute both anew in
        every tile of a product.
        """
        decoder = self.config.decoder

        def scale(modality_name: str) -> Array:
            return Scale(decoder.width, axes.EMBED, self.config.param_dtype, name=f"{name}_{modality_name}")()

        normed = rms_normalize(x, decoder.norm_eps).astype(x.dtype)
        chosen = scale("text").astype(x.dtype)
        if inputs.is_image is not None and decoder.adapts("norms"):
            chosen = jnp.where(inputs.is_image[:, :, None], scale("image").astype(x.dtype), chosen)
        normed = normed * chosen
        normed = normed if between == STREAM else nn.with_logical_constraint(normed, STREAM)
        return lax.optimization_barrier(normed) if apart else normed
