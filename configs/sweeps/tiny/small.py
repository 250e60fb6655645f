"""The model and the data of the miniature studies: sizes at which a run takes a minute on two cores."""

from ml_collections import ConfigDict

# The true architecture; a third of owl2_tiny's work per picture.
MODEL = {
    "preset": "owl2_tiny",
    "vision": {
        "width": 96, "num_layers": 2, "num_heads": 4, "mlp_dim": 384, "patch_size": 8, "image_size": 64,
    },
    "abstractor": {"num_layers": 2, "num_heads": 4, "mlp_dim": 256, "num_queries": 8},
    "decoder": {"width": 96, "num_layers": 2, "num_heads": 4, "num_kv_heads": 4, "mlp_dim": 256},
    "scan_unroll": 2,
}  # fmt: skip
DESCRIBE = "Describe the picture."

# Rows of 96 tokens hold about four short questions with a picture each.
ROW_LENGTH, PICTURES_PER_ROW = 96, 4


def base() -> ConfigDict:
    """Everything but mixture, length and learning rate."""
    config = ConfigDict()
    config.model = MODEL
    config.data = {
        "row_length": ROW_LENGTH,
        "rows": 12,
        "image_slots": PICTURES_PER_ROW,
        "images": 12 * PICTURES_PER_ROW,
        "image_mode": "resize",
        "cache_samples": True,
        "max_targets": 32,
        # Shapes are the same any way up; without this the model learns the pictures by heart.
        "augment": {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "turn": True},
    }
    config.train = {
        "max_targets": 32,
        "groups": [
            {"name": "vision", "pattern": "vision/.*"},
            {"name": "abstractor", "pattern": "abstractor/.*"},
            {"name": "decoder", "pattern": "decoder/.*"},
        ],
        "optimizer": {"b2": 0.95},
        "save_every_steps": 100,
        "keep_checkpoints": 1,
    }
    return config


def embedded(dataset: str, weight: float, **options) -> dict:
    """One set of a mixture from the corpus inside the package."""
    return {"kind": "embedded", "options": {"dataset": dataset, **options}, "weight": weight}
