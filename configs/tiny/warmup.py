"""Text warm-up of the tiny decoder; stands in for the LLaMA-2 that the full model starts from.

owl2 train --config=configs/tiny/warmup.py --workdir=runs/quickstart/warmup
"""

from common import DESCRIBE, base, embedded
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = base()
    config.data.update(
        {
            "datasets": {
                "facts": embedded("facts", 0.4),
                "captions": embedded("captions", 0.3, prompt=DESCRIBE, images=False),
                "easy_vqa": embedded("easy_vqa", 0.2, images=False),
                "drawn_vqa": embedded("drawn_vqa", 0.1, images=False),
            },
            "rows": 32,
            "images_per_row": 0,
            "images": 0,
        }
    )
    config.train.update(
        {
            "total_steps": 200,
            "groups": [
                {"name": "decoder", "pattern": "decoder/.*"},
                {"name": "vision_and_abstractor", "pattern": "(vision|abstractor)/.*", "trainable": False},
            ],
            "schedule": {"peak_lr": 2e-3, "end_lr": 2e-4, "warmup_steps": 50},
        }
    )
    return config.lock()
