"""What the three runs of the quickstart share."""

from ml_collections import ConfigDict


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
    config.train = {"max_targets": 32}
    return config


def embedded(dataset: str, weight: float) -> dict:
    return {"kind": "embedded", "options": {"dataset": dataset}, "weight": weight}
