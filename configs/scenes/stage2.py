"""Stage 2 on scenes: captions, questions about images and about the same scenes in words; everything trains.

As the paper's stage 2, it goes on with captions: an answer of one word teaches the eyes little, so each scene
is asked five times.

Stage 1 has no module; a copy with it starts as the same function.

owl2 convert resize --checkpoint=runs/scenes/small/stage1 --output=runs/scenes/small/start --adaptive=full
owl2 train --config=configs/scenes/stage2.py --workdir=runs/scenes/small/stage2 \\
    train.start_from=runs/scenes/small/start
"""

from common import base, scenes, start
from ml_collections import ConfigDict


def get_config(argument: str = "") -> ConfigDict:
    config = base(argument)
    config.data.datasets = {
        "captions": scenes("images", 0.2, kinds=["caption"]),
        "scenes": scenes("images", 0.55, turns=5),
        "scenes_text": scenes("text", 0.25, turns=5),
    }
    config.data["images"] = 18  # as the rows have room for, beside texts
    config.train.update(
        {
            "total_steps": 550,
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
