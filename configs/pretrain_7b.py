"""Stage 1 of mPLUG-Owl2: 42 500 x 8192 captioned images teach the eyes and the image branch.

    owl2 convert init --llama LLAMA2_7B --clip CLIP_VIT_L_14 --output checkpoints/llama2_clip
    owl2 train --config=configs/pretrain_7b.py --workdir=runs/pretrain

`configs/pretrain_7b.py:model=owl2_1` does the same for mPLUG-Owl2.1, from `owl2 convert init
--qwen QWEN_7B --clip CLIP_VIT_L_14 --output checkpoints/qwen_clip`; its release tells no recipe.

Hardware: 64 chips of TPU v5p (v5p:4x4x4), 32 rows of a chip at a time, or 64 with
`configs/pretrain_7b.py:accumulate=2`; 256 chips of TPU v5e (v5e:16x16), 8 rows of a chip
at a time. Smaller slices: `accumulate=16`, or `model.remat=full`.

Expected hours: 25.6 at the chips' peak, 64 at 40 % of it, which is an assumption and
no measurement. The formula is steps x model FLOPs of a step / (chips x peak), as
`owl2 inspect --config=configs/pretrain_7b.py --topology=v5p:4x4x4` counts them; `owl2 fit` with
`accumulate=2` compiles the step and bounds it from below: 59.7 of 95.7 GiB per chip, at
least 2.29 s a step and 27.0 h in all (38 h by its forecast).

Out comes `runs/pretrain`: the checkpoint that stage 2 starts from, at 224 pixels.

Numbers are those of the paper's table of training hyper-parameters (appendix,
column "pre-training") unless the line says otherwise.
"""

from mixtures import pretrain
from ml_collections import ConfigDict
from shared_7b import base, released, vision_groups

from owl2_jax.config import parse_argument


def get_config(argument: str = "") -> ConfigDict:
    chosen = parse_argument(argument, model="owl2", image_size=224, num_queries=64, accumulate=4)
    model = released(chosen["model"])
    config = base(
        chosen["model"],
        chosen["image_size"],  # 224 pixels, 256 patches
        chosen["num_queries"],  # 64 queries
        remat="dots",  # ours: that many rows leave room to keep the products
    )
    config.model.image_kv = "product"  # ours: on TPU nine percent of a step, by the forecast
    config.data = {
        "datasets": pretrain.mixture(),
        "rows": 8192,  # global batch 8192
        "row_length": 256,  # decoder length 256
        "images_per_row": 1,  # an image per sample
        "images": 8192,
        "tokenizer": f"{model.plain}/{model.tokenizer}",
        "template": "plain",  # released code: image, then caption
        "augment": {"flip": 0.5},  # random resized crop and horizontal flip
        "long_samples": "cut",  # released code: the tokenizer cuts
        "pack": False,  # the recipe's batch counts samples
        "shards": 1024,  # ours: one per chip of v5e and part, so that images lie with their rows
        "max_rejected_share": 0.01,  # ours: images from the web break
    }
    config.train = {
        "total_steps": 42_500,  # 42 500 steps
        "start_from": model.plain,  # LLaMA-2-7B, CLIP ViT-L/14, random abstractor
        "groups": [
            *vision_groups(0.9),  # trains; layer-wise decay 0.9
            {"name": "abstractor", "pattern": "abstractor/.*"},  # trains
            {"name": "image_branch", "pattern": "decoder/.*_image/.*"},  # trains
            {"name": "rest_of_decoder", "pattern": "decoder/.*", "trainable": False},  # frozen
        ],
        "schedule": {
            "peak_lr": 1e-4,  # peak 1e-4
            "end_lr": 1e-6,  # minimum 1e-6
            "warmup_steps": 1000,  # cosine after 1000 steps of warm-up
        },
        "optimizer": {
            "b1": 0.9,  # AdamW 0.9
            "b2": 0.98,  # AdamW 0.98
            "eps": 1e-6,  # AdamW 1e-6
            "weight_decay": 0.05,  # weight decay 0.05
            "clip_norm": 1.0,  # clip 1.0
        },
        "accumulate_steps": chosen["accumulate"],  # ours: what fits
        # All logits at once; mPLUG-Owl2.1's larger head takes 128 positions at a time.
        "loss_chunk": 128 if chosen["model"] == "owl2_1" else 0,  # ours
    }
    return config.lock()
