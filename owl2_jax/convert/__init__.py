"""Checkpoints of PyTorch to ours and back: the only room that touches PyTorch files.

Knows model, checkpoint and core; neither data nor training.
"""

from owl2_jax.convert.load import Loaded, is_released_directory, load_hf

__all__ = ["Loaded", "is_released_directory", "load_hf"]
