"""mPLUG-Owl2 and 2.1: vision encoder, visual abstractor and modality-adaptive decoder in one module."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from owl2_jax.core import axes
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import Params
from owl2_jax.model import image_positions
from owl2_jax.model.abstractor import Abstractor
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.decoder import Decoder
from owl2_jax.model.pages import PagedBatch, Pages
from owl2_jax.model.vision import VisionEncoder

Array = jax.Array


class Owl2(nn.Module):
    """The model as a pure function of its parameters.

    Shared arguments of the methods:
      tokens: int32[B, T], text ids; what stands at image positions is ignored.
      positions: int32[B, T], 0, 1, ... from the start of each segment.
      segment_ids: int32[B, T], 0 for padding, 1, 2, ... for packed samples.
      images: uint8[M, H, W, 3] RGB or normalised float32; M images of the
        whole batch, 0 allowed.
      features: dtype[M, Q + 1, D], what `encode_images` returned.
      image_index: int32[B, I], which of the M images is the i-th of
        row b; -1 for an empty place. I may be 0, and rows may share an image.
      image_starts: int32[B, I], position of the image's first token.
      prompt_lengths: int32[B] or int32[B, T], keys of each row's or token's
        prompt, padding not counted. What evaluation does beyond the trained
        length hangs on it (`model.rotary`). None in training, which does none of it.

    Attributes:
      config: sizes and numerical choices.
      pieces: how many ids the tokenizer has; the embeddings beyond them are
        spare and never produced. None: every id counts, as in training.
      images_beside: on a mesh, the images of a row are among those that its own
        device encodes, so that none are moved. The caller vouches for it.
    """

    config: Owl2Config
    pieces: int | None = None
    images_beside: bool = False

    def setup(self) -> None:
        """Vision encoder, abstractor and decoder."""
        self.vision = VisionEncoder(self.config)
        self.abstractor = Abstractor(self.config)
        self.decoder = Decoder(self.config)

    def __call__(
        self,
        tokens: Array,
        positions: Array,
        segment_ids: Array,
        images: Array,
        image_index: Array,
        image_starts: Array,
        prompt_lengths: Array | None = None,
    ) -> Array:
        """Logits of every position, float32[B, T, V]."""
        hidden = self.hidden(
            tokens, positions, segment_ids, images, image_index, image_starts, prompt_lengths
        )
        return self.logits(hidden)

    def hidden(
        self,
        tokens: Array,
        positions: Array,
        segment_ids: Array,
        images: Array,
        image_index: Array,
        image_starts: Array,
        prompt_lengths: Array | None = None,
    ) -> Array:
        """States after the final norm, dtype[B, T, D]; a loss takes logits of them in chunks."""
        size = self.config.vision.image_size
        chex.assert_shape([positions, segment_ids], tokens.shape)
        chex.assert_shape(images, (None, size, size, 3))
        chex.assert_equal_shape([image_index, image_starts])
        features = self.encode_images(images) if images.shape[0] else None
        x, starts = self.embed(tokens, features, image_index, image_starts)
        return self.decoder(x, positions, segment_ids, starts, prompt_lengths)

    def encode_images(self, images: Array) -> Array:
        """Images to decoder tokens: [M, H, W, 3] to dtype[M, Q + 1, D]."""
        return self.abstractor(self.see(images))

    def see(self, images: Array) -> Array:
        """Images to patches, as the abstractor reads them: [M, H, W, 3] to dtype[M, P + 1, E]."""
        return self.vision(nn.with_logical_constraint(images, (axes.IMAGES, None, None, None)))

    def read(self, patches: Array) -> Array:
        """Patches dtype[M, P + 1, E] to decoder tokens dtype[M, Q + 1, D]."""
        return self.abstractor(patches)

    def embed(
        self, tokens: Array, features: Array | None, image_index: Array, image_starts: Array
    ) -> tuple[Array, Array | None]:
        """Embeds text and writes images over their positions.

        Returns:
          dtype[B, T, D], and the starts int32[B, I] with empty places past the
          end, or None when there is no image.
        """
        x = self.decoder.embed(tokens)
        if features is None or image_index.shape[1] == 0:
            return x, None
        starts = image_positions.slot_starts(image_index, image_starts, tokens.shape[1])
        x = image_positions.put_images(x, starts, self._images_of_rows(features, image_index))
        return nn.with_logical_constraint(x, (axes.BATCH, axes.LENGTH, axes.ACT_EMBED)), starts

    def _images_of_rows(self, features: Array, image_index: Array) -> Array:
        """Features dtype[M, Q + 1, D] of the images int32[B, I] of rows, dtype[B, I, Q + 1, D]."""
        take = functools.partial(jnp.take, axis=0, mode="clip")
        if not self.images_beside or not nn.get_logical_axis_rules():
            return take(features, image_index)
        pieces = nn.logical_to_mesh_axes((axes.IMAGES,))

        def local(features: Array, image_index: Array) -> Array:
            first = lax.axis_index(pieces[0]) * features.shape[0]
            return take(features, image_index - first)

        return jax.shard_map(local, in_specs=(pieces, pieces), out_specs=pieces)(features, image_index)

    def logits(self, hidden: Array) -> Array:
        """dtype[..., D] to float32[..., V]; -inf from `pieces` on."""
        logits = self.decoder.logits(hidden)
        if self.pieces is None or self.pieces == logits.shape[-1]:
            return logits
        return jnp.where(jnp.arange(logits.shape[-1]) < self.pieces, logits, -jnp.inf)

    def step(
        self, tokens: Array, features: Array, feature_rows: Array | None, pages: Pages, batch: PagedBatch
    ) -> tuple[Array, Pages]:
        """Runs a flat batch of T tokens, of prompts and of answers, over the pages of their rows.

        Args:
          tokens: int32[T]; what stands at image positions and in padding is ignored.
          features: dtype[F, Q + 1, D], the pool of image features.
          feature_rows: int32[T], which of the F * (Q + 1) rows of the pool stands in place of a
            token; -1 for text. None where all are text.
          pages: the cache, written and returned.
          batch: whose tokens they are.

        Returns:
          States after the final norm, dtype[T, D], and the pages.
        """
        x = self.decoder.embed(tokens[:, None])
        if feature_rows is None:
            return self.decoder.step(x, None, pages, batch)
        is_image = feature_rows >= 0
        flat = features.reshape(-1, features.shape[-1])
        images = flat.at[jnp.maximum(feature_rows, 0)].get(mode="clip").astype(x.dtype)
        x = jnp.where(is_image[:, None, None], images[:, None], x)
        return self.decoder.step(x, is_image, pages, batch)


def init_inputs(config: Owl2Config) -> tuple[Array, ...]:
    """Smallest arguments of `Owl2.__call__` that touch every parameter: one row, one image."""
    length, size = config.tokens_per_image + 1, config.vision.image_size
    row = jnp.zeros((1, length), jnp.int32)
    place = jnp.zeros((1, 1), jnp.int32)
    images = jnp.zeros((1, size, size, 3), jnp.uint8)
    return row, row, row + 1, images, place, place


def init_params(config: Owl2Config, rng: Array) -> Params:
    """Random parameters: a nested dict of param_dtype arrays, layers stacked on axis 0."""
    return nn.meta.unbox(_init(config, rng))


@functools.partial(jax.jit, static_argnums=0)
def _init(config: Owl2Config, rng: Array) -> Params:
    # Compiled, so that its shapes and its values are traced together, once in a process.
    # The few tokens that shapes are found with may fit no fused attention kernel.
    config = config.replace(attention="xla")
    return Owl2(config).init(rng, *init_inputs(config))["params"]


@functools.lru_cache(maxsize=8)
def _abstract(config: Owl2Config) -> Params:
    """Boxed shapes; remembered, as tracing takes a second of every start."""
    return jax.eval_shape(functools.partial(_init, config), jax.eval_shape(jax.random.key, 0))


def abstract_params(config: Owl2Config) -> Params:
    """Shapes and dtypes of the parameters as `jax.ShapeDtypeStruct`, without computing anything."""
    return nn.meta.unbox(_abstract(config))


def logical_axes(config: Owl2Config) -> Params:
    """The tree of `abstract_params` with a tuple of logical axis names (or None) at each leaf."""
    return jax.tree.map(
        lambda leaf: tuple(leaf.names),
        _abstract(config),
        is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
    )


def check_row_length(config: Owl2Config, length: int) -> None:
    """Raises `Owl2Error` when `length` positions are more than the decoder knows."""
    if length > config.decoder.max_length:
        raise Owl2Error(
            f"{length} tokens are more than the model's {config.decoder.max_length}; "
            "shorten the prompt or raise decoder.max_length"
        )
