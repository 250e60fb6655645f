"""What the configs of the full model share."""

from typing import NamedTuple

from ml_collections import ConfigDict

from owl2_jax.core.errors import unknown_name

# Layers of ViT-L/14; what feeds them decays once more (BEiT's layer-wise decay).
VISION_LAYERS = 24


class Released(NamedTuple):
    """One of the two released models.

    Attributes:
      preset: its sizes.
      plain: where `owl2 convert init` puts its language model and CLIP.
      checkpoint: where `owl2 convert to-jax` puts its weights.
      resized: where `owl2 convert resize` puts stage 1 at 448 pixels.
      tokenizer: name of its tokenizer's file.
      adapters: every linear map of its decoder's layers, as its format has them.
    """

    preset: str
    plain: str
    checkpoint: str
    resized: str
    tokenizer: str
    adapters: tuple[str, ...]


MODELS = {
    "owl2": Released(
        "owl2_7b", "checkpoints/llama2_clip", "checkpoints/mplug_owl2", "checkpoints/pretrained_448",
        "tokenizer.model", ("q", "k_text", "k_image", "v_text", "v_image", "out", "gate", "up", "down"),
    ),
    "owl2_1": Released(
        "owl2_1_7b", "checkpoints/qwen_clip", "checkpoints/mplug_owl2_1", "checkpoints/pretrained_2_1_448",
        "qwen.tiktoken", ("qkv_text", "qkv_image", "out", "gate", "up", "down"),
    ),
}  # fmt: skip


def released(model: str) -> Released:
    """The released model of a config's argument `model`."""
    if model not in MODELS:
        raise unknown_name("config argument model", model, MODELS)
    return MODELS[model]


def base(model: str, image_size: int, num_queries: int, remat: str = "full") -> ConfigDict:
    """A released model; parameters and optimiser in float32 and in pieces on all devices."""
    config = ConfigDict()
    config.model = {
        "preset": released(model).preset,  # bfloat16 products (recipe: bf16)
        "remat": remat,
        "vision": {"image_size": image_size},
        "abstractor": {"num_queries": num_queries},
    }
    config.mesh = {"fsdp": -1}
    return config


def vision_groups(layer_decay: float) -> list[dict]:
    """The vision encoder with layer-wise decay of the learning rate; its last norm has the full rate."""
    return [
        {"name": "vision_last_norm", "pattern": "vision/post_norm/.*"},
        {"name": "vision_layers", "pattern": "vision/layers/.*", "layer_decay": layer_decay},
        {
            "name": "vision_below_layers",
            "pattern": "vision/.*",
            "layer_decay": layer_decay,
            "depth": VISION_LAYERS,
        },
    ]


# What both scripts take, with the released values.
RELEASED_ARGUMENTS = {
    "model": "owl2",  # or "owl2_1"
    "data": "data/llava_v1_5_mix665k.json",  # DATA_FILE
    "image_folder": "data",  # image_folder
    "file_tag": "<image>",  # of LLaVA's files; the released README's have <|image|>
    "examples": 665_000,  # its name says how many
    "devices": 8,
    "image_size": 448,  # of the released checkpoint
    "num_queries": 64,  # of the released checkpoint
}


def released_script(
    model: str,
    examples: int,
    devices: int,
    data: str,
    image_folder: str,
    file_tag: str,
    image_size: int,
    num_queries: int,
) -> ConfigDict:
    """What scripts/finetune.sh and scripts/finetune_lora.sh of the released code have in common.

    Records become the ids of the released training code (`owl2_jax/data/released_reading.py` says how);
    `data.reading=as_written` leaves images where their tags are, and `</s>` in a text a text.
    """
    config = base(model, image_size, num_queries)
    rows = 2 * 8 * devices  # per_device_train_batch_size 2, gradient_accumulation_steps 8
    config.data = {
        "datasets": {
            "finetune": {
                "kind": "llava",
                "options": {"path": data, "image_folder": image_folder, "file_tag": file_tag},
            },
        },
        "rows": rows,
        "row_length": 2048,  # model_max_length 2048
        "images_per_row": 1,
        "images": rows,
        "tokenizer": f"{released(model).checkpoint}/{released(model).tokenizer}",
        "template": "v1",  # version v1
        "reading": "released",  # tags in front of their turns, `</s>` in a text ends it
        "image_mode": "pad",  # image_aspect_ratio pad
        "long_samples": "cut",  # as its tokenizer call does
        "pack": False,  # the recipe's batch counts samples
        "shards": 8 * devices,
    }
    config.train = {
        "total_examples": examples,  # num_train_epochs 1
        "examples_per_step": rows,
        "start_from": released(model).checkpoint,  # model_name_or_path: the released checkpoint
        "accumulate_steps": 8,  # gradient_accumulation_steps 8
        "optimizer": {
            "b1": 0.9,  # Trainer's default
            "b2": 0.999,  # Trainer's default
            "eps": 1e-8,  # Trainer's default
            "weight_decay": 0.0,  # weight_decay 0.
            "clip_norm": 1.0,  # Trainer's default
        },
        "loss_chunk": 512,  # ours: logits of 512 positions at a time
    }
    return config


def cosine(peak_lr: float, examples: int, devices: int) -> dict:
    """Cosine to 0 (lr_scheduler_type cosine) after 3 % of the steps (warmup_ratio 0.03)."""
    steps = -(-examples // (2 * 8 * devices))
    return {"peak_lr": peak_lr, "end_lr": 0.0, "warmup_steps": -(-3 * steps // 100)}
