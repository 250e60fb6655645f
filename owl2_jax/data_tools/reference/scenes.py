"""What a small network learns of the scenes: an upper reference for a small model, from images alone.

python -m owl2_jax.data_tools.reference.scenes --difficulty 2

It knows its answers as a list and no language, so that what it gets wrong is hard to see and not hard
to say; words that training never had are wrong in any case.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import read_number
from owl2_jax.core.ranges import Count
from owl2_jax.data.sources.base import Example
from owl2_jax.data.sources.scenes import Difficulty, ScenesSource
from owl2_jax.data_tools.reference.questions import Codes

SIDE = 64  # pixels, those of the tiny model
SCORED = ("test", "composed")
_NUMBERS = (
    ("--difficulty", 2, Difficulty, "1 to 3"),
    ("--steps", 1500, Count, "of 64 examples each"),
    ("--examples", 20_000, Count, "of training"),
    ("--scored", 1200, Count, "questions of each split"),
)


def train_and_score(difficulty: int, steps: int, examples: int, scored: int) -> dict[str, dict[str, float]]:
    """{split: {kind: percent right}} after training on the images of the split "train".

    Args:
      steps: of 64 examples each.
      examples: of training.
      scored: examples of each of `SCORED`.
    """
    from owl2_jax.data_tools.reference.network import Data, fit  # imports JAX

    train = _read(ScenesSource(difficulty=difficulty, examples=examples))
    codes = Codes(train.questions, train.answers)
    encode = lambda read: Data(read.images, codes.questions(read.questions), codes.labels(read.answers))
    answer = fit(encode(train), codes.inputs, len(codes.answers), steps=steps)
    found = {}
    for split in SCORED:
        read = _read(ScenesSource(split, difficulty=difficulty, examples=scored))
        asked = encode(read)
        right = answer(asked) == asked.labels
        kinds = np.array(read.kinds)
        found[split] = {
            kind: 100.0 * float(right[kinds == kind].mean()) for kind in dict.fromkeys(read.kinds)
        }
    return found


class _Read(NamedTuple):
    questions: list[str]
    answers: list[str]
    kinds: list[str]
    images: np.ndarray  # uint8[N, 64, 64, 3]


def _read(source: ScenesSource) -> _Read:
    """All examples of a source, decoded."""
    columns = zip(
        *((one["question"], one["answer"], one["kind"], _image(one)) for one in source), strict=True
    )
    *texts, images = map(list, columns)
    return _Read(*texts, np.stack(images))


def _image(example: Example) -> np.ndarray:
    """The image of an example at the network's size, uint8[64, 64, 3]."""
    image = Image.open(io.BytesIO(example["images"][0]))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs as a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m owl2_jax.data_tools.reference.scenes", description=__doc__
    )
    for name, default, hint, meaning in _NUMBERS:
        read = lambda text, hint=hint, name=name: read_number(hint, text, name)
        parser.add_argument(
            name, type=read, default=default, metavar="N", help=f"{meaning} (default: {default})"
        )
    try:
        options = parser.parse_args(arguments)
        began = time.process_time()
        found = train_and_score(options.difficulty, options.steps, options.examples, options.scored)
    except Owl2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for split, kinds in found.items():
        mean = sum(kinds.values()) / len(kinds)
        print(
            f"{split:9} {mean:5.1f} %  " + "  ".join(f"{kind} {share:.1f}" for kind, share in kinds.items())
        )
    print(f"{time.process_time() - began:.0f} s of CPU time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
