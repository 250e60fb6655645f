"""Fixed tensors that released checkpoints may hold: position tables and rotary frequencies.

The model computes them; on import they are compared, on export written when
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import ml_dtypes
import numpy as np

from owl2_jax.convert.safetensors_file import TensorSpec
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import Owl2Config
from owl2_jax.model.layers import sincos_1d, sincos_2d

_ABSTRACTOR: Final = "model.visual_abstractor.encoder.layers.{i}.crossattention.attention"
# Largest difference accepted, absolute, for values of at most 1: float32 tables
# computed in another order differ by 1e-6; narrow ones by their own rounding.
_TOLERANCE: Final = {
    np.dtype("<f4"): 2e-5,
    np.dtype("<f2"): 1e-3,
    np.dtype(ml_dtypes.bfloat16): 8e-3,
    np.dtype("<f8"): 2e-5,
}


def buffer_values(config: Owl2Config) -> dict[str, np.ndarray]:
    """{their name with "{i}" for the layer: float32 values}, the same in every layer."""
    decoder, vision = config.decoder, config.vision
    exponents = np.arange(0, decoder.head_width, 2, dtype=np.float32) / np.float32(decoder.head_width)
    return {
        "model.layers.{i}.self_attn.rotary_emb.inv_freq": 1.0 / np.float32(decoder.rope_theta) ** exponents,
        f"{_ABSTRACTOR}.q_pos_embed": sincos_1d(np.arange(config.abstractor.num_queries), vision.width),
        f"{_ABSTRACTOR}.k_pos_embed": sincos_2d(vision.grid_size, vision.width),
    }


def buffers(config: Owl2Config) -> Iterator[tuple[str, np.ndarray]]:
    """(their name, float32 values) of every buffer, layer by layer."""
    for pattern, values in buffer_values(config).items():
        in_decoder = pattern.startswith("model.layers.")
        for layer in range((config.decoder if in_decoder else config.abstractor).num_layers):
            yield pattern.format(i=layer), values


def check_buffer(name: str, found: np.ndarray, expected: np.ndarray, where: str) -> None:
    """Raises `Owl2Error` when a stored buffer is not what the configuration gives."""
    tolerance = _TOLERANCE.get(found.dtype)
    if tolerance is None:
        raise Owl2Error(f"{where}: buffer {name} has dtype {found.dtype}, expected a float type")
    # Row for the class token and shapes with leading ones are laid out alike.
    difference = np.abs(found.astype(np.float32).reshape(expected.shape) - expected).max(initial=0.0)
    if not difference <= tolerance:  # also catches nan
        raise Owl2Error(
            f"{where}: buffer {name} differs by {difference:.2g} from what config.json gives "
            "(head count, rope_theta, image size or query count disagree, or the file is damaged)"
        )


def buffer_shapes(config: Owl2Config) -> Mapping[str, TensorSpec]:
    """Name to float32 spec of every buffer."""
    return {name: TensorSpec(values.shape, values.dtype) for name, values in buffers(config)}
