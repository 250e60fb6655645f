"""The paper's claims on scenes drawn from seeds, each an axis, one change at a time, five seeds.

owl2 sweep configs/sweeps/claims.py[:size=large][,claim=queries]
bash launch/study.sh

`size` is that of `configs/scenes`; `large` has the points that tell a trend over scale. `claim` is one
axis alone, whose comparisons are then corrected for their own number. `CLAIMS` are what is asked, with the
figures of the paper's tables 5 to 8, and were written before the runs. The start is stage 1 of
`configs/scenes`, without the module, whose image branch is then a copy of the text branch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from studies import MODULE, VISION, field

from owl2_jax.config import parse_argument, read_config_file
from owl2_jax.core.errors import unknown_name
from owl2_jax.evals.registry import GROUPS

Axis = Mapping[str, Sequence[str]]
_STAGE2 = Path(__file__).parents[1] / "scenes" / "stage2.py"
# A step of the base has 18 samples with an image and 5.3 without. Images alone fill their 18 places, and
# text alone as many rows as hold 5: as many steps show as many samples of it as beside the other.
_ROWS_OF_TEXT = 2
# Of every axis, in the paper's words and figures; those with two points, at both sizes.
CLAIMS = {
    "queries_help": {
        "point": "queries-64",
        "than": "base",
        "expect": "higher",
        "measures": ["scenes", "scenes/count", "scenes/odd"],
        "says": "64 queries are better than 8",
        "source": "VQAv2 58.3 to 76.8, TextVQA 18.6 to 42.5",
    },
    "queries_saturate": {
        "point": "queries-128",
        "than": "queries-64",
        "expect": "same",
        "measures": ["scenes"],
        "says": "128 queries are no better than 64",
        "source": "VQAv2 76.8 to 76.7, TextVQA 42.5 to 44.4",
    },
    "pixels_help": {
        "point": "pixels-96",
        "than": "base",
        "expect": "higher",
        "measures": ["scenes", "scenes/word"],
        "says": "a larger image is better",
        "source": "224 to 448 pixels: VQAv2 76.8 to 79.4, TextVQA 42.5 to 54.3",
    },
    "fewer_pixels_hurt": {
        "point": "pixels-32",
        "than": "base",
        "expect": "lower",
        "measures": ["scenes", "scenes/word"],
        "says": "a smaller image is worse",
        "source": "as above",
    },
    "pixels_help_detail": {
        "point": "pixels-96",
        "than": "base",
        "expect": "higher",
        "measures": ["scenes/word - scenes/count"],
        "says": "a larger image does more for reading than elsewhere",
        "source": "TextVQA gains 11.8, VQAv2 2.6, Q-Bench 0.4",
    },
    "module_helps": {
        "point": "module-none",
        "than": "base",
        "expect": "lower",
        "measures": ["scenes", "scenes_text"],
        "says": "without the module, images and text are answered worse",
        "source": "VQAv2 76.8 to 76.2, Q-Bench 62.2 to 60.3, MMLU 52.8 to 51.6, BBH 45.0 to 43.2",
    },
    "norms_are_less": {
        "point": "module-norms",
        "than": "base",
        "expect": "lower",
        "measures": ["scenes", "scenes_text"],
        "says": "norms alone are worse than the whole module",
    },
    "kv_are_less": {
        "point": "module-kv",
        "than": "base",
        "expect": "lower",
        "measures": ["scenes", "scenes_text"],
        "says": "keys and values alone are worse than the whole module",
    },
    "text_helps_images": {
        "point": "data-images",
        "than": "base",
        "expect": "lower",
        "measures": ["scenes", "scenes_text_to_image"],
        "says": "without text, images are answered worse",
        "source": "VQAv2 76.8 to 76.5, Q-Bench 62.2 to 60.2",
    },
    "images_help_text": {
        "point": "data-text",
        "than": "base",
        "expect": "lower",
        "measures": ["scenes_text", "scenes_image_to_text"],
        "says": "without images, text is answered worse",
        "source": "MMLU 52.8 to 51.8, BBH 45.0 to 44.0",
    },
    "vision_trains": {
        "point": "vision-frozen",
        "than": "base",
        "expect": "lower",
        "measures": ["scenes", "scenes/word"],
        "says": "a frozen vision encoder is worse",
        "source": "VQAv2 76.8 to 74.8, TextVQA 42.5 to 39.8",
    },
    "stage1_helps": {
        "point": "start-warmup",
        "than": "base",
        "expect": "lower",
        "measures": ["scenes"],
        "says": "without stage 1, images are answered worse",
    },
}
_LARGE = {"module": ("full", "none"), "data": ("both", "images", "text")}


def queries() -> Axis:
    """The paper: more help, and saturate at 64. Rows grow, so that they hold as many images."""
    return {
        str(count): [
            f"model.abstractor.num_queries={count}",
            f"data.row_length={256 + 3 * (count - 8)}",  # as many images fit
            "model.decoder.max_length=1024",
        ]
        for count in (8, 16, 32, 64, 128)
    }


def stage2_sets() -> dict:
    """The mixture of the base: captions, scenes, scenes_text."""
    return read_config_file(str(_STAGE2))["data"]["datasets"]


def data() -> Axis:
    """The paper: with the module, images and text help each other."""
    sets = stage2_sets()
    text = {"scenes_text": sets["scenes_text"]}
    images = {name: values for name, values in sets.items() if name not in text}
    frozen = [
        {"name": "images", "pattern": "(vision|abstractor)/.*|decoder/.*_image/.*", "trainable": False},
        {"name": "decoder", "pattern": "decoder/.*"},
    ]
    return {
        "both": [],
        "images": [f"data.datasets={images!r}"],
        "text": [
            f"data.datasets={text!r}",
            "data.images_per_row=0",
            "data.images=0",
            f"train.groups={frozen!r}",
            f"data.rows={_ROWS_OF_TEXT}",
        ],
    }


def axes(size: str) -> dict[str, Axis]:
    """Every claim; each axis begins with the base: 8 queries, 64 pixels, the module, all of it trained."""
    every = {
        "queries": queries(),
        "pixels": field("model.vision.image_size", [64, 32, 96]),  # the paper: most where there is text
        "module": MODULE,
        "data": data(),
        "vision": VISION,  # the paper: it must train
        "start": {"stage1": [], "warmup": [f"train.start_from=runs/scenes/{size}/warmup"]},
    }
    if size == "small":
        return every
    return {name: {label: every[name][label] for label in labels} for name, labels in _LARGE.items()}


def get_config(argument: str = "") -> dict:
    chosen = parse_argument(argument, size="small", claim="all")
    size, claim = chosen["size"], chosen["claim"]
    if size not in ("small", "large"):
        raise unknown_name("size of the claims", size, ("small", "large"))
    found = axes(size)
    if claim not in ("all", *found):
        raise unknown_name("claim", claim, ("all", *found))
    chosen_axes = found if claim == "all" else {claim: found[claim]}
    points = {"base"} | {f"{axis}-{label}" for axis, labels in chosen_axes.items() for label in labels}
    return {
        "base": f"../scenes/stage2.py:size={size}",
        "axes": chosen_axes,
        "design": "one_at_a_time",
        "seeds": [0, 1, 2, 3, 4],
        "start_from": f"runs/scenes/{size}/stage1",
        "benchmarks": list(GROUPS["all_scenes"]),
        "max_questions": 2400,
        "claims": {name: one for name, one in CLAIMS.items() if {one["point"], one["than"]} <= points},
    }
