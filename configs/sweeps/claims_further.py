"""One further run for each claim of `claims.py` that does not come out: what is the likeliest reason?

owl2 sweep configs/sweeps/claims_further.py[:size=large]

Each axis tests a reason, with what it predicts:

- `text`: text learns more alone since with both a step's gradient is mostly the images'. With text in
  every second sample it should learn nearly as much as alone.
- `length`: the module has no use yet after so few steps. With twice as many it should show, so
  `none1100` should fall behind `full1100`.
- `vision`: a frozen encoder is no worse since stage 1 taught it all that is asked. From the warm-up, whose
  encoder has seen no image, it should be far worse frozen than trained.
- `reading`: a larger image does not help to read since nobody learns to read beside the rest. With words
  alone, and twice the images, it should.
- `rate`, of the large size alone: a larger model answers no better since it learns at a rate that suits the
  small one. With half of it, its loss should be lower and its answers better.
"""

from claims import Axis, stage2_sets
from studies import VISION

from owl2_jax.config import parse_argument
from owl2_jax.evals.registry import GROUPS

_LONG = "train.total_steps=1100"
_WARMUP = "train.start_from=runs/scenes/small/warmup"


def text() -> Axis:
    """Weights such that every second sample is text."""
    shares = {"captions": 0.13, "scenes": 0.37, "scenes_text": 0.5}
    return {"quarter": [], "half": [f"data.datasets.{name}.weight={share}" for name, share in shares.items()]}


def reading() -> Axis:
    """Signs alone, asked once each; an image and its question are short, so that rows hold five."""
    scenes = stage2_sets()["scenes"]
    words = {"words": {**scenes, "options": {"modality": "images", "kinds": ["word"]}, "weight": 1.0}}
    alone = [f"data.datasets={words!r}", "data.images=40"]
    return {
        "all": [],
        "words64": alone,
        "words96": [*alone, "model.vision.image_size=96"],
    }


def axes(size: str) -> dict[str, Axis]:
    """What each size tests."""
    if size == "large":
        return {"rate": {"whole": [], "half": ["train.schedule.peak_lr=5e-4"]}}
    return {
        "text": text(),
        "length": {
            "550": [],
            "full1100": [_LONG],
            "none1100": [_LONG, "model.decoder.adaptive='none'"],
        },
        "vision": {"stage1": [], "warmup": [_WARMUP], "warmupfrozen": [_WARMUP, *VISION["frozen"]]},
        "reading": reading(),
    }


def get_config(argument: str = "") -> dict:
    size = parse_argument(argument, size="small")["size"]
    return {
        "base": f"../scenes/stage2.py:size={size}",
        "axes": axes(size),
        "design": "one_at_a_time",
        "seeds": [0],
        "start_from": f"runs/scenes/{size}/stage1",
        "benchmarks": list(GROUPS["all_scenes"]),
        "max_questions": 2400,
    }
