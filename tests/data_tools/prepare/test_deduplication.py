from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from PIL import ImageEnhance

from owl2_jax.data import images
from owl2_jax.data_tools.prepare import deduplication
from owl2_jax.data_tools.prepare.deduplication import bands, distance, distances, image_hash, words, words_key
from tests.data_tools.prepare.images import file, scene


@pytest.mark.parametrize(
    "change",
    [
        lambda image: images.decode(file(image, quality=40)),
        lambda image: image.resize((80, 60)),
        lambda image: images.decode(file(image.resize((200, 150)), quality=60)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.9),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["quality", "smaller", "larger", "darker", "grey"],
)
def test_a_image_written_again_keeps_its_hash_but_for_a_few_bits(change):
    found = [distance(image_hash(scene(seed)), image_hash(change(scene(seed)))) for seed in range(20)]
    assert np.mean([bits <= 12 for bits in found]) >= 0.95


def test_other_images_differ_in_many_bits():
    hashes = [image_hash(scene(seed)) for seed in range(30)]
    assert min(distance(*pair) for pair in itertools.combinations(hashes, 2)) > 60


def test_distances_are_those_of_each():
    hashes = [image_hash(scene(seed)) for seed in range(5)]
    assert distances(hashes[2], hashes).tolist() == [distance(hashes[2], other) for other in hashes]


@pytest.mark.parametrize("most_bits", [0, 5, 12])
def test_close_hashes_share_a_band(most_bits):
    rng = random.Random(0)
    for _ in range(200):
        one = rng.getrandbits(256)
        other = one
        for bit in rng.sample(range(256), most_bits):
            other ^= 1 << bit
        pair = [bands(value.to_bytes(32), most_bits + 1) for value in (one, other)]
        assert any(a == b for a, b in zip(*pair, strict=True))


def test_bands_hold_every_bit():
    value = random.Random(1).getrandbits(256)
    for count in (1, 7, 13, 33):
        cuts = np.linspace(0, 256, count + 1).astype(int)
        assert sum(b << int(c) for b, c in zip(bands(value.to_bytes(32), count), cuts, strict=False)) == value


def test_words_of_any_script_without_case_and_punctuation():
    assert words("It's  a RED circle!") == ["it", "s", "a", "red", "circle"]
    assert words("Größe, ЁЛКА") == ["grösse", "ёлка"]
    assert words("हिन्दी लिपि") == ["हिन्दी", "लिपि"]


def test_keys_tell_words_and_files_apart():
    def dialogue(answer):
        return [{"role": "user", "content": "What?"}, {"role": "assistant", "content": answer}]

    assert words_key(dialogue("A cat.")) == words_key(dialogue("a  CAT"))
    assert words_key(dialogue("a cat")) != words_key(dialogue("a dog"))
    key = deduplication.exact_key
    assert key(dialogue("a"), [b"x", b"y"]) == key(dialogue("a"), [b"x", b"y"])
    assert (
        len(
            {key(dialogue("a"), [b"x", b"y"]), key(dialogue("a"), [b"xy"]), key(dialogue("a."), [b"x", b"y"])}
        )
        == 3
    )
