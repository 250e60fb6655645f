"""Stage 1 on scenes: captions of the easiest ones; the decoder is frozen.

owl2 train --config=configs/scenes/stage1.py --workdir=runs/scenes/small/stage1
"""

from common import base, scenes, start
from ml_collections import ConfigDict


def get_config(argument: str = "") -> ConfigDict:
    config = base(argument)
    config.model["decoder"] = {**config.model.get("decoder", {}), "adaptive": "none"}
    config.data.datasets = {"captions": scenes("images", 1.0, kinds=["caption"], difficulty=1)}
    # Two captions a row, so that each of the images of a batch has a place.
    config.data.update({"rows": 16, "row_length": 104, "images_per_row": 2, "max_targets": 64})
    config.train.update(
        {
            "total_steps": 1500,
            "start_from": start(argument, "warmup"),
            "groups": [
                {"name": "vision", "pattern": "vision/.*"},
                {"name": "abstractor", "pattern": "abstractor/.*"},
                {"name": "decoder", "pattern": "decoder/.*", "trainable": False},
            ],
            "schedule": {"peak_lr": 1e-3, "end_lr": 2e-4, "warmup_steps": 50},
            "optimizer": {"b2": 0.95, "eps": 1e-6, "weight_decay": 0.05},
        }
    )
    return config.lock()
