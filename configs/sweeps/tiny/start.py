"""What the miniature studies start from: a small model that reads and sees, without modality-adaptive module.

The module's image branch is then a copy of the text branch (`owl2 convert resize --adaptive`), as it is
when the full model starts from LLaMA-2, so that points with and without it start as the same function.

owl2 train --config=configs/sweeps/tiny/start.py --workdir=runs/sweeps/start
"""

from ml_collections import ConfigDict
from small import DESCRIBE, base, embedded


def get_config() -> ConfigDict:
    config = base()
    config.model.decoder.adaptive = "none"
    config.data.datasets = {
        "shapes": embedded("captions", 0.7, kinds=["shape"], prompt=DESCRIBE),
        "drawings": embedded("captions", 0.1, kinds=["drawn"], prompt=DESCRIBE),
        "facts": embedded("facts", 0.1),
        "questions": embedded("easy_vqa", 0.1, pictures=False),
    }
    config.train.total_steps = 800
    config.train.schedule = {"peak_lr": 1e-3, "end_lr": 3e-4, "warmup_steps": 50}
    return config.lock()
