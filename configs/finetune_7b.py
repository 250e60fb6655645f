r"""Fine-tuning as scripts/finetune.sh of the released code does it: vision frozen, the rest trains.

    owl2 convert to-jax --source MPLUG_OWL2_HF_DIR --output checkpoints/mplug_owl2
    owl2 train --config=configs/finetune_7b.py:data=my.json,image_folder=images,examples=50000 \
      --workdir=runs/mine

`configs/finetune_7b.py:model=owl2_1` trains mPLUG-Owl2.1, from checkpoints/mplug_owl2_1.

`examples` is the number of records that the run reads, one epoch of
llava_v1_5_mix665k by default. `devices` sets the batch: 16 samples for each.

Hardware: 8 GPUs with 80 GB (H100, `devices=8`).

Expected hours: 2.0 at the chips' peak, 5 at 40 % of it, which is an assumption and
no measurement. The formula is steps x model FLOPs of a step / (chips x peak), as
`owl2 inspect --config=configs/finetune_7b.py --gpus=h100:8` counts them; no compiler for
GPUs that are not there exists, so only a run can tell more.

Out comes `runs/mine`, ready for `owl2 chat`, `owl2 evaluate` and `owl2 convert to-torch`.

Records become the ids of the released training code: tags move to the front of their
turns, `</s>` in a text ends it, and what that code shows otherwise than written is
refused. `owl2 data check` counts all three; `data.reading=as_written` is the other choice.

Numbers: scripts/finetune.sh, by the names of its arguments; recipes shared
with the LoRA variant stand in `shared_7b.py`.
"""

from ml_collections import ConfigDict
from shared_7b import RELEASED_ARGUMENTS, cosine, released_script

from owl2_jax.config import parse_argument


def get_config(argument: str = "") -> ConfigDict:
    chosen = parse_argument(argument, **RELEASED_ARGUMENTS)
    config = released_script(**chosen)
    config.train.groups = [
        {"name": "vision", "pattern": "vision/.*", "trainable": False},  # freeze_vision_model True
        {"name": "abstractor", "pattern": "abstractor/.*"},  # tune_visual_abstractor True
        {"name": "decoder", "pattern": "decoder/.*"},  # trains by default
    ]
    config.train.schedule = cosine(2e-5, chosen["examples"], chosen["devices"])  # learning_rate 2e-5
    return config.lock()
