r"""LoRA as scripts/finetune_lora.sh of the released code does it: adapters and abstractor train.

    owl2 convert to-jax --source MPLUG_OWL2_HF_DIR --output checkpoints/mplug_owl2
    owl2 train --config=configs/lora_7b.py:data=my.json,image_folder=images,examples=50000 \
      --workdir=runs/lora

`configs/lora_7b.py:model=owl2_1` adapts mPLUG-Owl2.1, from checkpoints/mplug_owl2_1.
`configs/lora_7b.py:base=int8` holds the frozen decoder in 8 bits. Less
than that changes on the command line: `model.lora.rank=16 "model.lora.targets=['q', 'v_text']"`.

Hardware: 8 GPUs with 80 GB (H100, `devices=8`); with `base=int8,devices=1` one.

Expected hours: 1.5 at the chips' peak, 3.6 at 40 % of it, which is an assumption and
no measurement. The formula is steps x model FLOPs of a step / (chips x peak), as
`owl2 inspect --config=configs/lora_7b.py --gpus=h100:8` counts them; no compiler for
GPUs that are not there exists, so only a run can tell more.

Out comes `runs/lora`, which chats and evaluates as it is. `owl2 convert merge-lora`
makes a plain model of it, `owl2 convert export-lora` a PEFT directory for the original code.

Records become the ids of the released training code: tags move to the front of their
turns, `</s>` in a text ends it, and what that code shows otherwise than written is
refused. `owl2 data check` counts all three; `data.reading=as_written` is the other choice.

Numbers: scripts/finetune_lora.sh, by the names of its arguments; those shared
with full fine-tuning stand in `shared_7b.py`.
"""

from ml_collections import ConfigDict
from shared_7b import RELEASED_ARGUMENTS, cosine, released, released_script

from owl2_jax.config import parse_argument

LEARNING_RATE = 1e-4  # learning_rate 1e-4
ABSTRACTOR_RATE = 2e-5  # visual_abstractor_lr 2e-5


def get_config(argument: str = "") -> ConfigDict:
    chosen = parse_argument(
        argument,
        **RELEASED_ARGUMENTS,
        base="stored",  # ours: "int8" for a frozen decoder in 8 bits
    )
    held = chosen.pop("base")
    config = released_script(**chosen)
    config.model.lora = {
        "rank": 128,  # lora_r 128
        "alpha": 256.0,  # lora_alpha 256
        "dropout": 0.05,  # lora_dropout, its default
        # every linear map of the decoder's layers (find_all_linear_names)
        "targets": released(chosen["model"]).adapters,
        "base": held,
    }
    config.train.groups = [
        {"name": "vision", "pattern": "vision/.*", "trainable": False},  # freeze_vision_model True
        {"name": "abstractor", "pattern": "abstractor/.*", "lr_multiplier": ABSTRACTOR_RATE / LEARNING_RATE},
        {"name": "adapters", "pattern": "decoder/.*/lora_[ab]"},  # lora_enable True
        {"name": "decoder", "pattern": "decoder/.*", "trainable": False},  # what PEFT freezes
    ]
    config.train.schedule = cosine(LEARNING_RATE, chosen["examples"], chosen["devices"])
    return config.lock()
