"""What the three runs of the quickstart share."""

from ml_collections import ConfigDict

# What a caption answers; questions come as they are.
DESCRIBE = "Describe the picture."


def base() -> ConfigDict:
    """The tiny model on the embedded corpus; each phase sets its mixture, groups and length."""
    config = ConfigDict()
    config.model = {"preset": "owl2_tiny"}
    config.data = {
        "row_length": 96,
        "image_mode": "resize",
        "cache_samples": True,
        "max_targets": 32,
    }
    config.train = {}
    return config


def embedded(dataset: str, weight: float, **options) -> dict:
    """One set of a mixture from the corpus inside the package."""
    return {"kind": "embedded", "options": {"dataset": dataset, **options}, "weight": weight}
