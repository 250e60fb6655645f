"""Stage 2 on scenes: questions about images and about the same scenes in words; everything trains.

owl2 train --config=configs/scenes/stage2.py --workdir=runs/scenes/small/stage2
"""

from common import base, scenes, start
from ml_collections import ConfigDict


def get_config(argument: str = "") -> ConfigDict:
    config = base(argument)
    config.data.datasets = {"scenes": scenes("images", 0.7), "scenes_text": scenes("text", 0.3)}
    config.data.max_targets = 32  # answers are short
    config.train.update(
        {
            "total_steps": 800,
            "start_from": start(argument, "stage1"),
            "groups": [
                {"name": "vision", "pattern": "vision/.*"},
                {"name": "abstractor", "pattern": "abstractor/.*"},
                {"name": "decoder", "pattern": "decoder/.*"},
            ],
            "schedule": {"peak_lr": 1e-3, "end_lr": 0.0, "warmup_steps": 50},
            "optimizer": {"b2": 0.95},
        }
    )
    return config.lock()
