from __future__ import annotations

import threading
from pathlib import Path

import pytest

from owl2_jax.core.paths import as_path
from owl2_jax.evals.base import Question
from owl2_jax.evals.images_ahead import ImagesAhead


def question(number: int, image) -> Question:
    return Question(str(number), "What?", "hash", "", (image,))


def test_images_of_a_bucket_are_read_together_and_questions_keep_their_order():
    together = threading.Barrier(8, timeout=20)

    def read(image) -> bytes:
        together.wait()
        return image.name.encode()

    ahead = ImagesAhead(read)
    questions = [question(number, as_path(f"gs://bucket/{number}.png")) for number in range(16)]
    found = [(one.id, ahead.content(one.images[0])) for one in ahead.each(questions)]
    assert found == [(str(number), f"{number}.png".encode()) for number in range(16)]


def test_an_image_that_cannot_be_read_fails_where_it_is_asked_for():
    def read(image) -> bytes:
        raise OSError(str(image))

    ahead = ImagesAhead(read)
    image = as_path("gs://bucket/0.png")
    (one,) = ahead.each([question(0, image)])
    with pytest.raises(OSError, match=r"gs://bucket/0\.png"):
        ahead.content(image)
    assert ahead.content(image) == image, "the next one tries itself"
    assert one.id == "0"


def test_images_of_this_machine_are_left_to_whoever_asks():
    ahead = ImagesAhead(lambda image: pytest.fail("read"))
    questions = [question(0, Path("0.png")), question(1, b"png")]
    assert list(ahead.each(questions)) == questions
    assert ahead.content(Path("0.png")) == Path("0.png")
