"""Stage 2 of the tiny model: captions, questions and text alone; everything trains.

owl2 train --config=configs/tiny/stage2.py --workdir=runs/quickstart/stage2
"""

from common import DESCRIBE, base, embedded
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = base()
    config.data.update(
        {
            "datasets": {
                "easy_vqa": embedded("easy_vqa", 0.6),
                "drawn_vqa": embedded("drawn_vqa", 0.26),
                "shapes": embedded("captions", 0.06, kinds=["shape"], prompt=DESCRIBE),
                "drawings": embedded("captions", 0.04, kinds=["drawn"], prompt=DESCRIBE),
                "facts": embedded("facts", 0.04),
            },
            "rows": 16,
            "images_per_row": 5,
            "images": 64,
            # Mirrored images have the same answers; without them the model learns the images by heart.
            "augment": {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.5},
        }
    )
    config.train.update(
        {
            "total_steps": 1200,
            "start_from": "runs/quickstart/stage1",
            "groups": [
                {"name": "vision", "pattern": "vision/.*"},
                {"name": "abstractor", "pattern": "abstractor/.*"},
                {"name": "decoder", "pattern": "decoder/.*"},
            ],
            "schedule": {"peak_lr": 7e-4, "end_lr": 0.0, "warmup_steps": 100},
            "optimizer": {"b2": 0.95},
        }
    )
    return config.lock()
