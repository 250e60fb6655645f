"""What the studies share: where they start, what they are scored on, on what machines, and common axes.

Every study takes one argument, `size`: "full" (owl2_7b, stage 2 from the end of stage 1, on the slice of
`instruct_7b.py`), "owl2_1" (the same of owl2_1_7b) or "tiny" (a short stage 2 of the quickstart on two CPU
cores, from what `start.py` trains).

owl2 sweep configs/sweeps/query_count.py
owl2 sweep configs/sweeps/query_count.py:size=tiny
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from owl2_jax.config import parse_argument, read_config_file
from owl2_jax.core.errors import unknown_name

SIZES = {
    "full": {
        "base": "../instruct_7b.py",
        "overrides": ["data.tokenizer=runs/pretrain/tokenizer.model"],
        "start_from": "runs/pretrain",
        "benchmarks": ["vqav2_val", "textvqa_val", "mme", "mmbench_dev", "mmlu"],
        "topology": "v5p:4x4x4",
    },
    "owl2_1": {
        "base": "../instruct_7b.py:model=owl2_1",
        "overrides": ["data.tokenizer=runs/pretrain_2_1/qwen.tiktoken"],
        "start_from": "runs/pretrain_2_1",
        "benchmarks": ["vqav2_val", "textvqa_val", "mme", "mmbench_dev", "mmlu"],
        "topology": "v5p:4x4x4",
    },
    "tiny": {
        "base": "../tiny/stage2.py",
        "overrides": [
            "train.total_steps=200",
            "train.schedule.warmup_steps=20",
            "train.save_every_steps=100",
            "train.keep_checkpoints=1",
            "data.rows=8",
            "data.images=32",
            "data.datasets.facts.weight=0.2",  # text enough to see what becomes of it
        ],
        "start_from": "runs/sweeps/start",
        "seeds": [0, 1, 2],
        "benchmarks": ["easy_vqa", "drawn_group", "drawn_color", "facts"],
        "max_questions": 1000,
    },
}

Axis = Mapping[str, Sequence[str]]


def study(argument: str, *, full: Mapping[str, Axis], tiny: Mapping[str, Axis], **fields) -> dict:
    """A sweep over the axes of the size that was asked for."""
    size = parse_argument(argument, size="full")["size"]
    if size not in SIZES:
        raise unknown_name("size of a study", size, SIZES)
    return {**SIZES[size], "axes": tiny if size == "tiny" else full, **fields}


def field(name: str, values: Sequence) -> Axis:
    """An axis of one field."""
    return {str(value): [f"{name}={value!r}"] for value in values}


def tiny_queries(counts: Sequence[int]) -> Axis:
    """Counts of queries; packed rows grow with them, so that they hold as many samples."""
    row_length = base("tiny")["data"]["row_length"]  # of 8 queries and four images
    return {
        str(count): [
            f"model.abstractor.num_queries={count}",
            f"data.row_length={row_length + 4 * (count - 8)}",
        ]
        for count in counts
    }


def base(size: str) -> dict:
    """The base config of a size."""
    return read_config_file(str(Path(__file__).parent / SIZES[size]["base"]))


# What has a copy per modality; the paper's model first.
MODULE = field("model.decoder.adaptive", ["full", "norms", "kv", "none"])
# The modules of mPLUG-Owl2 and 2.1, the query alone, all four parts.
PARTS = field("model.decoder.adaptive", ["full", "qkv", "q", "all", "none"])

_FROZEN_VISION = [
    {"name": "vision", "pattern": "vision/.*", "trainable": False},
    {"name": "abstractor", "pattern": "abstractor/.*"},
    {"name": "decoder", "pattern": "decoder/.*"},
]
VISION = {"trained": [], "frozen": [f"train.groups={_FROZEN_VISION!r}"]}

# Text alone moves nothing that only images reach; without weight decay that is the same as frozen.
_TEXT_TRAINS = [
    {"name": "images", "pattern": "(vision|abstractor)/.*|decoder/.*_image/.*", "trainable": False},
    {"name": "decoder", "pattern": "decoder/.*"},
]


def data_mix(size: str, text: Sequence[str]) -> Axis:
    """Text and images together, text alone, images alone.

    Args:
      text: names of the base config's sets that have no images.
    """
    sets = base(size)["data"]["datasets"]
    alone = {name: values for name, values in sets.items() if name in text}
    images = {name: values for name, values in sets.items() if name not in text}
    return {
        "both": [],
        "text": [
            f"data.datasets={alone!r}",
            "data.images_per_row=0",
            "data.images=0",
            f"train.groups={_TEXT_TRAINS!r}",
        ],
        "multimodal": [f"data.datasets={images!r}"],
    }
