"""The model with its decoder layers apart, in place of one scan over stacked layers.

Parameters of a layer are then arrays of their own. It computes the same over pages;
it only takes longer to compile when there are many layers.

    stacked     decoder/layers/attention/...  [L, ...]
    unrolled    decoder/layers/0/attention/... [...]

The projections of queries and of text's keys and values become one.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from owl2_jax.core.tree import Params
from owl2_jax.inference.merged_projections import merge
from owl2_jax.model.abstractor import Abstractor
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.decoder import Decoder
from owl2_jax.model.decoder_layer import DecoderBlock, LayerInputs
from owl2_jax.model.owl2 import Owl2
from owl2_jax.model.vision import VisionEncoder

Array = jax.Array


class UnrolledLayers(nn.Module):
    """All layers one after the other, with the signature of `DecoderBlock`."""

    config: Owl2Config

    @nn.compact
    def __call__(self, carry: Any, layers: Array, inputs: LayerInputs) -> tuple[Any, None]:
        """Takes the pages and returns them; it knows no other cache."""
        for number in range(self.config.decoder.num_layers):
            carry, _ = DecoderBlock(self.config, name=str(number))(carry, number, inputs)
        return carry, None


class UnrolledDecoder(Decoder):
    """The decoder with its layers written out one after the other."""

    @nn.nowrap
    def _make_layers(self) -> nn.Module:
        return UnrolledLayers(self.config)


class UnrolledOwl2(Owl2):
    """`Owl2` for the parameters that `unstack_layers` returns."""

    def setup(self) -> None:
        """As `Owl2`, with a decoder of single layers."""
        self.vision = VisionEncoder(self.config)
        self.abstractor = Abstractor(self.config)
        self.decoder = UnrolledDecoder(self.config)


def unstack_layers(params: Params) -> Params:
    """Stacked parameters with the decoder's layers apart."""
    stacked = params["decoder"]["layers"]
    count = jax.tree.leaves(stacked)[0].shape[0]
    layers = {}
    for number in range(count):
        layer = jax.tree.map(lambda leaf, n=number: jnp.asarray(leaf[n]), stacked)
        layers[str(number)] = {**layer, "attention": merge(layer["attention"])}
    return {**params, "decoder": {**params["decoder"], "layers": layers}}
