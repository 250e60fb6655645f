"""Stage 2 of mPLUG-Owl2: 4 800 x 256 instructions train everything.

    owl2 convert resize --checkpoint runs/pretrain --image-size 448 --output checkpoints/pretrained_448
    owl2 train --config=configs/instruct_7b.py --workdir=runs/instruct

Ablations: `configs/instruct_7b.py:image_size=336,num_queries=32` (resize the start
alike); a frozen vision encoder with `train.groups.N.trainable=False` for N from 0 to 2.

`configs/instruct_7b.py:model=owl2_1` does the same for mPLUG-Owl2.1, from
checkpoints/pretrained_2_1_448; its release tells no recipe.

Hardware: 64 chips of TPU v5p (v5p:4x4x4), 4 rows of a chip at a time, or 256 chips of
TPU v5e (v5e:16x16); the larger head of mPLUG-Owl2.1 leaves 0.2 GiB of these, and 3 with
`model.remat=attention_mlp`.
Smaller chips take fewer rows: `configs/instruct_7b.py:accumulate=4`, or `model.remat=full`.

Expected hours: 1.0 at the chips' peak, 2.5 at 40 % of it, which is an assumption and
no measurement. The formula is steps x model FLOPs of a step / (chips x peak), as
`owl2 inspect --config=configs/instruct_7b.py --topology=v5p:4x4x4` counts them; `owl2 fit` with
the same arguments compiles the step and bounds it from below: 31.8 of 95.7 GiB per
chip, at least 0.84 s a step and 1.1 h in all (1.5 h by its forecast).

Out comes `runs/instruct`: the model; `owl2 convert to-torch` makes the released format of it.

Numbers are those of the paper's table of training hyper-parameters (appendix,
column "instruction tuning") unless the line says otherwise.
"""

from mixtures import instruct
from ml_collections import ConfigDict
from shared_7b import base, released, vision_groups

from owl2_jax.config import parse_argument


def get_config(argument: str = "") -> ConfigDict:
    chosen = parse_argument(argument, model="owl2", image_size=448, num_queries=64, accumulate=1)
    model = released(chosen["model"])
    config = base(
        chosen["model"],
        chosen["image_size"],  # 448 pixels, 1024 patches
        chosen["num_queries"],  # 64 queries
        remat="products",  # ours: that many rows leave room to keep the products
    )
    config.model.image_kv = "product"  # ours: a TPU multiplies where it would copy
    config.model.splash_block = 1024  # ours: fewer steps of splash attention, where that is asked for
    config.data = {
        "datasets": instruct.mixture(),
        "rows": 256,  # global batch 256
        "row_length": 2048,  # decoder length 2048
        "images_per_row": 1,  # an image per sample
        "images": 256,
        "tokenizer": f"{model.resized}/{model.tokenizer}",
        "template": "mplug_owl2",  # released code: the template of the released checkpoint
        "image_mode": "pad",  # released code; no augmentation
        "long_samples": "cut",  # released code: the tokenizer cuts
        "pack": False,  # the recipe's batch counts samples
        "shards": 256,
    }
    config.train = {
        "total_steps": 4800,  # 4 800 steps, 1 epoch
        "start_from": model.resized,  # stage 1
        "groups": [
            *vision_groups(0.9),  # trains; layer-wise decay 0.9
            {"name": "abstractor", "pattern": "abstractor/.*"},  # trains
            {"name": "decoder", "pattern": "decoder/.*"},  # trains
        ],
        "schedule": {
            "peak_lr": 2e-5,  # peak 2e-5
            "end_lr": 0.0,  # minimum 0
            "warmup_steps": 250,  # cosine after 250 steps of warm-up
        },
        "optimizer": {
            "b1": 0.9,  # AdamW 0.9
            "b2": 0.999,  # AdamW 0.999
            "eps": 1e-8,  # AdamW 1e-8
            "weight_decay": 0.0,  # weight decay 0
            "clip_norm": 1.0,  # clip 1.0
        },
        "accumulate_steps": chosen["accumulate"],  # ours: what fits
        # All logits at once; mPLUG-Owl2.1's larger head takes 512 positions at a time.
        "loss_chunk": 512 if chosen["model"] == "owl2_1" else 0,  # ours
    }
    return config.lock()
