"""The paper's claims on scenes drawn from seeds, each an axis, one change at a time, five seeds.

owl2 sweep configs/sweeps/claims.py[:size=large][,claim=queries]
bash launch/study.sh

`size` is that of `configs/scenes`; `large` has the points that tell a trend over scale. `claim` is one
axis alone, whose comparisons are then corrected for their own number. The start is stage 1 of
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


def data() -> Axis:
    """The paper: with the module, images and text help each other."""
    sets = read_config_file(str(_STAGE2))["data"]["datasets"]
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
    return {
        "base": f"../scenes/stage2.py:size={size}",
        "axes": found if claim == "all" else {claim: found[claim]},
        "design": "one_at_a_time",
        "seeds": [0, 1, 2, 3, 4],
        "start_from": f"runs/scenes/{size}/stage1",
        "benchmarks": list(GROUPS["all_scenes"]),
        "max_questions": 600,
    }
