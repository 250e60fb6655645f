"""Stage 1 of the tiny model: captions; trains what the paper's stage 1 trains, the rest is frozen.

owl2 train --config=configs/tiny/stage1.py --workdir=runs/quickstart/stage1
"""

from common import DESCRIBE, base, embedded
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = base()
    config.data.update(
        {
            "datasets": {
                "shapes": embedded("captions", 0.85, kinds=["shape"], prompt=DESCRIBE),
                "drawings": embedded("captions", 0.15, kinds=["drawn"], prompt=DESCRIBE),
            },
            "rows": 16,
            "images_per_row": 5,
            "images": 64,
        }
    )
    config.train.update(
        {
            "total_steps": 400,
            "start_from": "runs/quickstart/warmup",
            "groups": [
                {"name": "vision", "pattern": "vision/.*"},
                {"name": "abstractor", "pattern": "abstractor/.*"},
                {"name": "image_branch", "pattern": "decoder/.*_image/.*"},
                {"name": "rest_of_decoder", "pattern": "decoder/.*", "trainable": False},
            ],
            "schedule": {"peak_lr": 6e-4, "end_lr": 2e-4, "warmup_steps": 50},
            "optimizer": {"b2": 0.95, "eps": 1e-6, "weight_decay": 0.05},
        }
    )
    return config.lock()
