"""mPLUG-Owl2 in JAX and Flax. The package itself knows no JAX until something is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from owl2_jax.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from owl2_jax.inference.loaded_model import LoadedModel

__all__ = ["__version__", "load"]


def load(path: str | Path, **options: Any) -> LoadedModel:
    """Loads any checkpoint directory; see `owl2_jax.loading.load_model` for the options.

    JAX is imported here and not with the package, which so starts at once.
    """
    from owl2_jax.loading import load_model

    return load_model(path, **options)
