"""Text alone: the language of captions and scenes in words; stands in for LLaMA-2.

Captions for their language, scenes to say again in another order, and conversations about the easiest
scenes. Both teach what stands beside what, without which a scene in words is a bag of words.

The decoder has no modality-adaptive module, so that points with and without it start as one function.

owl2 train --config=configs/scenes/warmup.py --workdir=runs/scenes/small/warmup
"""

from common import base, scenes
from ml_collections import ConfigDict

KINDS = ["count", "relation", "size", "odd"]


def get_config(argument: str = "") -> ConfigDict:
    config = base(argument)
    easy = {"difficulty": 1, "examples": 200_000}
    config.model["decoder"] = {**config.model.get("decoder", {}), "adaptive": "none"}
    config.data.update(
        {
            "datasets": {
                "captions": scenes("text", 0.05, kinds=["caption"], difficulty=1),
                "repeated": scenes("text", 0.35, kinds=["repeat"], turns=3, **easy),
                "scenes_text": scenes("text", 0.6, kinds=KINDS, turns=5, **easy),
            },
            "rows": 4,
            "images_per_row": 0,
            "images": 0,
        }
    )
    config.train.update(
        {
            "total_steps": 5000,
            "groups": [
                {"name": "decoder", "pattern": "decoder/.*"},
                {"name": "vision_and_abstractor", "pattern": "(vision|abstractor)/.*", "trainable": False},
            ],
            "schedule": {"peak_lr": 1e-3, "end_lr": 2e-4, "warmup_steps": 50},
            "optimizer": {"b2": 0.98},
        }
    )
    return config.lock()
