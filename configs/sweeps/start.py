"""What the tiny studies start from: the quickstart's stage 1 for a model without modality-adaptive module.

The module's image branch is then a copy of the text branch (`owl2 convert resize --adaptive`), as it is
when the full model starts from LLaMA-2, so that points with and without it start as the same function.

owl2 train --config=configs/tiny/warmup.py --workdir=runs/quickstart/warmup
owl2 convert resize --checkpoint runs/quickstart/warmup --adaptive none --output runs/sweeps/plain
owl2 train --config=configs/sweeps/start.py --workdir=runs/sweeps/start
"""

from pathlib import Path

from owl2_jax.config import read_config_file

STAGE1 = Path(__file__).parents[1] / "tiny" / "stage1.py"


def get_config() -> dict:
    config = read_config_file(str(STAGE1))
    config["model"]["decoder"] = {"adaptive": "none"}
    config["train"]["start_from"] = "runs/sweeps/plain"
    # Without the image branch nothing of the decoder trains in stage 1.
    config["train"]["groups"] = [
        {"name": "vision", "pattern": "vision/.*"},
        {"name": "abstractor", "pattern": "abstractor/.*"},
        {"name": "decoder", "pattern": "decoder/.*", "trainable": False},
    ]
    return config
