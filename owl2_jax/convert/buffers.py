"""Fixed tensors that released checkpoints may hold: position tables and rotary frequencies.

The model computes them; on import they are compared, on export written when
asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import ml_dtypes
import numpy as np

from owl2_jax.convert.formats import OWL2_TYPE, format_of
from owl2_jax.convert.safetensors_file import TensorSpec
from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.config import DecoderConfig, Owl2Config

_FREQUENCIES: Final = "model.layers.{i}.self_attn.rotary_emb.inv_freq"
_ABSTRACTOR: Final = ".visual_abstractor.encoder.layers.{i}.crossattention.attention"
# Largest difference accepted, absolute, for values of at most 1: float32 angles
# are good to 1e-5 at 63 rows; narrow types differ by their own rounding.
_TOLERANCE: Final = {
    np.dtype("<f4"): 2e-5,
    np.dtype("<f2"): 1e-3,
    np.dtype(ml_dtypes.bfloat16): 8e-3,
    np.dtype("<f8"): 2e-5,
}


def buffer_values(config: Owl2Config) -> dict[str, np.ndarray]:
    """{their name with "{i}" for the layer: float32 values}, the same in every layer."""
    vision, root = config.vision, format_of(config).root
    frequencies = {_FREQUENCIES: _frequencies(config.decoder)} if _has_frequencies(config) else {}
    return {
        **frequencies,
        f"{root}{_ABSTRACTOR}.q_pos_embed": _sincos(np.arange(config.abstractor.num_queries), vision.width),
        f"{root}{_ABSTRACTOR}.k_pos_embed": _grid(vision.grid_size, vision.width),
    }


def _has_frequencies(config: Owl2Config) -> bool:
    """mPLUG-Owl2 may store its rotary frequencies; mPLUG-Owl2.1 never does, as they follow the length."""
    return format_of(config).model_type == OWL2_TYPE


# The model's own tables are computed in float64. The original's are not, and
# what is written here should equal them to the last bit.
def _frequencies(decoder: DecoderConfig) -> np.ndarray:
    """Rotary frequencies, float32[H / 2]."""
    exponents = np.arange(0, decoder.head_dim, 2, dtype=np.float32) / np.float32(decoder.head_dim)
    return np.float32(1) / (decoder.rope_theta ** exponents.astype(np.float64)).astype(np.float32)


def _sincos(index: np.ndarray, width: int) -> np.ndarray:
    """[sin, cos] of `index / 10000**(i / (width / 2))`, float32[len(index), width]."""
    exponents = np.arange(width // 2, dtype=np.float32) / np.float32(width / 2)
    frequencies = np.float32(1) / np.float32(10000) ** exponents
    angles = index.astype(np.float32)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _grid(size: int, width: int) -> np.ndarray:
    """Columns, then rows of a patch grid, below a zero row for the class token: float32[P + 1, width]."""
    rows, columns = np.divmod(np.arange(size**2), size)
    table = np.concatenate([_sincos(columns, width // 2), _sincos(rows, width // 2)], axis=1)
    return np.concatenate([np.zeros((1, width), np.float32), table])


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
    difference = np.abs(found.astype(np.float32) - expected).max(initial=0.0)
    if not difference <= tolerance:  # also catches nan
        raise Owl2Error(
            f"{where}: buffer {name} differs by {difference:.2g} from what config.json gives "
            "(head count, rope_theta, image size or query count disagree, or the file is damaged)"
        )


def buffer_shapes(config: Owl2Config) -> Mapping[str, TensorSpec]:
    """Name to float32 spec of every buffer, without their values, which a damaged file may make huge."""
    width, shapes = config.vision.width, {}
    for layer in range(config.decoder.num_layers if _has_frequencies(config) else 0):
        shapes[_FREQUENCIES.format(i=layer)] = (config.decoder.head_dim // 2,)
    for layer in range(config.abstractor.num_layers):
        place = format_of(config).root + _ABSTRACTOR.format(i=layer)
        shapes[f"{place}.q_pos_embed"] = (config.abstractor.num_queries, width)
        shapes[f"{place}.k_pos_embed"] = (config.vision.num_patches + 1, width)
    return {name: TensorSpec(shape, np.dtype("<f4")) for name, shape in shapes.items()}
