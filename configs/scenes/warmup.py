"""Text alone: the language of captions and scenes in words; stands in for LLaMA-2.

Captions for their language, scenes to say again, which teaches copying in 200 steps, and questions about
the easiest scenes.

The decoder has no modality-adaptive module, so that points with and without it start as one function.

owl2 train --config=configs/scenes/warmup.py --workdir=runs/scenes/small/warmup
"""

from common import base, scenes
from ml_collections import ConfigDict


def get_config(argument: str = "") -> ConfigDict:
    config = base(argument)
    config.model["decoder"] = {**config.model.get("decoder", {}), "adaptive": "none"}
    config.data.update(
        {
            "datasets": {
                "captions": scenes("text", 0.15, kinds=["caption"], difficulty=1),
                "repeated": scenes("text", 0.25, kinds=["repeat"], difficulty=1),
                "scenes_text": scenes("text", 0.6, kinds=["count", "relation", "size", "odd"], difficulty=1),
            },
            "images_per_row": 0,
            "images": 0,
        }
    )
    config.train.update(
        {
            "total_steps": 1500,
            "groups": [
                {"name": "decoder", "pattern": "decoder/.*"},
                {"name": "vision_and_abstractor", "pattern": "(vision|abstractor)/.*", "trainable": False},
            ],
            "schedule": {"peak_lr": 2e-3, "end_lr": 2e-4, "warmup_steps": 50},
            "optimizer": {"b2": 0.98},
        }
    )
    return config.lock()
