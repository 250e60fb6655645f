from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import images
from owl2_jax.data.sources.arrayrecord import decode_example
from owl2_jax.data_tools.prepare.clean import FilterError, check_text, clean, shrink
from owl2_jax.data_tools.prepare.settings import FILTERED, ImageRules, PrepareConfig, PrepareSet, TextRules
from tests.data_tools.prepare.images import file, scene

CASES = Path(__file__).parents[2] / "data" / "cases" / "images"


def example(answer="A red circle.", images=()):
    content = "<|image|>" * len(images) + "What is it?"
    return {
        "id": "x",
        "dataset": "other",
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
        "images": list(images),
        "image_keys": ["k"] * len(images),
        "kind": "colour",
    }


def config(**changes):
    return PrepareConfig(datasets={"a": PrepareSet("llava", {"path": "a.json"})}, **changes)


def test_a_cleaned_example_is_what_the_array_record_source_reads(tmp_path):
    (tmp_path / "a.jpg").write_bytes(file(scene(1, 900, 600)))
    done = clean(example(images=[str(tmp_path / "a.jpg"), file(scene(2), "PNG")]), "mine", config())
    read = decode_example(done.record, "test", 0)
    assert read["dataset"] == "mine"
    assert read["kind"] == "colour"
    assert "image_keys" not in read
    assert [images.decode(data).size for data in read["images"]] == [(672, 448), (160, 120)]
    assert len(done.hashes) == 2


@pytest.mark.parametrize(
    ("size", "expected"), [((900, 600), (672, 448)), ((600, 1000), (448, 747)), ((2000, 449), (1996, 448))]
)
def test_large_images_are_shrunk_to_their_shortest_edge(size, expected):
    data, image = shrink(file(scene(0, *size)), ImageRules(), "x")
    assert image.size == expected
    assert images.decode(data).size == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_small_images_stay_the_files_they_are(kind):
    data = file(scene(0), kind)
    assert shrink(data, ImageRules(), "x")[0] == data


def test_turned_animated_and_rare_images_are_written_again():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, image = shrink(file(scene(0), exif=exif), ImageRules(), "x")
    assert image.size == images.decode(turned).size == (120, 160)
    frames = [scene(seed).convert("P") for seed in range(3)]
    still, _ = shrink(file(frames[0], "GIF", save_all=True, append_images=frames[1:]), ImageRules(), "x")
    assert getattr(Image.open(io.BytesIO(still)), "n_frames", 1) == 1
    bmp, _ = shrink(file(scene(0), "BMP"), ImageRules(quality=95), "x")
    difference = np.abs(np.asarray(images.decode(bmp), int) - np.asarray(scene(0), int))
    assert difference.mean() < 3


@pytest.mark.filterwarnings("ignore")
def test_damaged_metadata_and_hidden_images_are_not_handed_on():
    for name, colour in (("badexif_garbage.png", (255, 0, 0)), ("hidden.png", (0, 128, 0))):
        data, image = shrink((CASES / name).read_bytes(), ImageRules(min_edge=1, quality=95), "x")
        assert data != (CASES / name).read_bytes()
        for seen in (image, images.decode(data)):
            assert np.abs(np.subtract(seen.getpixel((5, 5)), colour)).max() < 4


@pytest.mark.parametrize(
    ("rules", "size", "reason"),
    [
        (ImageRules(min_edge=130), (160, 120), "image_small"),
        (ImageRules(max_aspect=3), (400, 100), "image_long"),
        (ImageRules(max_pixels=1000), (160, 120), "oversized"),
    ],
)
def test_images_outside_the_rules(rules, size, reason):
    with pytest.raises(Owl2Error) as error:
        shrink(file(scene(0, *size)), rules, "x")
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("text", "rules", "reason"),
    [
        ("  ", TextRules(), "text_length"),
        ("short", TextRules(min_characters=6), "text_length"),
        ("x" * 100, TextRules(max_characters=99), "text_length"),
        ("buy now " + "buy " * 10, TextRules(max_word_share=0.5), "text_repetition"),
        ("|||--- 12 ---|||", TextRules(min_letter_share=0.5), "text_letters"),
    ],
)
def test_texts_outside_the_rules(text, rules, reason):
    with pytest.raises(FilterError) as error:
        check_text(text, rules)
    assert error.value.reason == reason
    assert reason in FILTERED


@pytest.mark.parametrize("text", ["yes", "a a a", "一只猫在睡觉", "кошка спит", "2 + 2 = 4", "نائمة"])
def test_short_texts_of_any_language_pass(text):
    check_text(text, TextRules(max_word_share=0.3, min_letter_share=0.5))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": []}, "image_count"),
        ({"images": [b"no image"]}, "unsupported"),
        ({"images": [file(scene(0))[:-300]]}, "corrupt"),
        ({"images": ["/nowhere/a.png"]}, "missing"),
        ({"messages": []}, "bad_conversation"),
    ],
)
def test_faults_have_their_reasons(change, reason):
    with pytest.raises(Owl2Error) as error:
        clean({**example(images=[file(scene(0))]), **change}, "a", config())
    assert error.value.reason == reason


def test_settings_are_checked():
    with pytest.raises(Owl2Error, match="becomes a folder"):
        PrepareConfig(datasets={"a/b": PrepareSet("llava")})
    with pytest.raises(Owl2Error, match="datasets is empty"):
        PrepareConfig(datasets={})
    with pytest.raises(Owl2Error, match="near_bits"):
        dataclasses.replace(config(), near_bits=40)
