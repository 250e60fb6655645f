"""Stage 2: instructions at 448 pixels; everything trains.

owl2 train --config=configs/owl2_7b/stage2.py --workdir=runs/stage2 train.start_from=runs/stage1_448

where runs/stage1_448 is stage 1 with its position table enlarged (`owl2 convert resize`).
"""

from common import base, prepared, vision_groups
from ml_collections import ConfigDict

# 1.23 million records, read once.
SETS = (
    "textcaps", "coco", "vqav2", "okvqa", "ocrvqa", "gqa", "aokvqa",
    "refcoco", "visual_genome", "llava_instruct", "sharegpt", "slimorca",
)  # fmt: skip


def get_config() -> ConfigDict:
    config = base()
    # A chip holds one row of the batch on 256 chips and four on 64: room to keep most products.
    config.model.remat = "dots"
    config.data.update(
        {
            "datasets": prepared("stage2", SETS),
            "rows": 256,
            "row_length": 2048,
            "image_slots": 1,
            "images": 256,
            # As published: a sample is a row. Packed rows hold several, so a step needs fewer rows.
            "pack": False,
            "lanes": 64,
            "long_samples": "cut",
            "workers": 8,
        }
    )
    config.train.update(
        {
            "total_steps": 4800,
            "groups": [
                *vision_groups(),
                {"name": "abstractor", "pattern": "abstractor/.*"},
                {"name": "decoder", "pattern": "decoder/.*"},
            ],
            "schedule": {"peak_lr": 2e-5, "end_lr": 0.0, "warmup_steps": 250},
        }
    )
    return config.lock()
