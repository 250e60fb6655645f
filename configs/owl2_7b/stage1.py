"""Stage 1: captions of web pictures at 224 pixels; vision, abstractor and the decoder's image branch train.

Start from LLaMA-2 and CLIP: `owl2 convert init`, then

owl2 train --config=configs/owl2_7b/stage1.py --workdir=runs/stage1 train.start_from=DIR
"""

from common import base, prepared, vision_groups
from ml_collections import ConfigDict

# About 400 million pairs.
SETS = ("cc3m", "cc12m", "coco", "coyo", "laion_en", "datacomp")


def get_config() -> ConfigDict:
    config = base()
    config.model.vision = {"image_size": 224}
    config.data.update(
        {
            "datasets": prepared("stage1", SETS),
            "rows": 8192,
            "row_length": 256,
            "image_slots": 1,
            "images": 8192,
            "pack": False,
            "lanes": 256,
            "augment": {},
            "workers": 8,
        }
    )
    config.train.update(
        {
            "total_steps": 42_500,
            "groups": [
                *vision_groups(),
                {"name": "abstractor", "pattern": "abstractor/.*"},
                {"name": "image branch", "pattern": "decoder/.*_image(/.*)?"},
                {"name": "rest of the decoder", "pattern": "decoder/.*", "lr": None},
            ],
            "schedule": {"peak_lr": 1e-4, "end_lr": 1e-6, "warmup_steps": 1000},
            "optimizer": {"b2": 0.98, "eps": 1e-6, "weight_decay": 0.05},
        }
    )
    return config.lock()
