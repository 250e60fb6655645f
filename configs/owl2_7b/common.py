"""What the two stages of the full model share (mPLUG-Owl2, arXiv 2311.04257, appendix)."""

from ml_collections import ConfigDict

VISION_LAYERS = 24


def base() -> ConfigDict:
    """The released architecture, weights and optimiser cut over all chips."""
    config = ConfigDict()
    config.model = {"preset": "owl2_7b"}
    config.mesh = {"fsdp": -1}
    config.data = {"tokenizer": "data/tokenizer.model"}
    config.train = {"loss_chunk": 512}
    return config


def vision_groups() -> list[dict]:
    """The vision encoder, each layer slower than the one above it by the paper's factor."""
    decay = {"layer_decay": 0.9}
    below = "vision/(cls_token|position_embedding|(patch_embed|pre_norm)/.*)"
    return [
        {"name": "vision layers", "pattern": "vision/layers/.*", **decay},
        {"name": "below the vision layers", "pattern": below, "depth": VISION_LAYERS, **decay},
        {"name": "above the vision layers", "pattern": "vision/post_norm/.*"},
    ]


def prepared(stage: str, names: tuple[str, ...]) -> dict[str, dict]:
    """Sets that `owl2 data prepare` has written to data/STAGE/NAME, each read as often as the others."""
    return {
        name: {
            "kind": "arrayrecord",
            "options": {"paths": f"data/{stage}/{name}/*.arrayrecord"},
            "epochs": 1.0,
        }
        for name in names
    }
