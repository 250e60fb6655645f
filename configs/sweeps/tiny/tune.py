"""One run of the miniature studies: questions, captions and text alone, for a few hundred steps.

owl2 train --config=configs/sweeps/tiny/tune.py --workdir=runs/one train.start_from=DIR
"""

from ml_collections import ConfigDict
from small import DESCRIBE, PICTURES_PER_ROW, base, embedded

PICTURES = {
    "easy_vqa": embedded("easy_vqa", 0.7),
    "drawn_vqa": embedded("drawn_vqa", 0.1),
    "shapes": embedded("captions", 0.05, kinds=["shape"], prompt=DESCRIBE),
}
TEXT = {"facts": embedded("facts", 0.15)}


def get_config() -> ConfigDict:
    config = base()
    config.data.datasets = {**PICTURES, **TEXT}
    config.data.update(rows=8, images=8 * PICTURES_PER_ROW)
    config.train.total_steps = 250
    config.train.schedule = {"peak_lr": 1e-3, "end_lr": 0.0, "warmup_steps": 30}
    return config.lock()
