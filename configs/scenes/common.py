"""What the runs on scenes share (`owl2_jax/data/scenes`); all take `size=small` (2.5 M parameters) or large.

The start must not know the answers: captions name shapes, colours, sizes and places of the easiest
scenes. Counting, comparing, the odd one out, reading and homes are left to stage 2.
"""

from ml_collections import ConfigDict

from owl2_jax.config import parse_argument
from owl2_jax.core.errors import unknown_name

SIZES = {
    "small": {},
    "large": {
        "vision": {"width": 192, "num_layers": 4, "num_heads": 6, "mlp_dim": 768},
        "abstractor": {"num_heads": 6, "mlp_dim": 512},
        "decoder": {"width": 192, "num_layers": 5, "num_heads": 6, "num_kv_heads": 6, "mlp_dim": 512},
        "scan_unroll": 5,
    },
}


def base(argument: str) -> ConfigDict:
    """The model; each phase sets its mixture, groups and length."""
    size = parse_argument(argument, size="small")["size"]
    if size not in SIZES:
        raise unknown_name("size of the model for scenes", size, SIZES)
    config = ConfigDict()
    config.model = {"preset": "owl2_tiny", **SIZES[size]}
    # With biases, which start so, and short waves heads find near words: what stands beside what.
    near = {"qkv_bias": True, "rope_theta": 100.0}
    config.model["decoder"] = {**config.model.get("decoder", {}), **near}
    config.data = {
        "row_length": 256,
        "image_mode": "resize",
        "cache_samples": True,
        "rows": 8,
        "images_per_row": 5,
        "images": 32,
        "max_targets": 128,
    }
    config.train = {"save_every_steps": 250, "keep_checkpoints": 1}
    return config


def start(argument: str, phase: str) -> str:
    """Where an earlier phase of the same size lies."""
    return f"runs/scenes/{parse_argument(argument, size='small')['size']}/{phase}"


def scenes(modality: str, weight: float, **options) -> dict:
    """One set of a mixture."""
    return {"kind": "scenes", "options": {"modality": modality, **options}, "weight": weight}
