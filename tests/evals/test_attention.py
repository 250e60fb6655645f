"""Attention on images over the questions of a benchmark, by the real engine with the tiny model."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from owl2_jax.attention_maps.inside import look_inside
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.asking import EngineModel
from owl2_jax.evals.attention import Mass, image_mass, mass_csv, with_images, with_unrelated_images
from owl2_jax.evals.base import Decoding, Question
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel

VQA = PROMPTS["vqa"]


@pytest.fixture(scope="module")
def model(tiny_config, tiny_params, toy_tokenizer):
    return EngineModel(
        Engine(LoadedModel(tiny_config, tiny_params, toy_tokenizer), EngineConfig(sequences=2))
    )


def asked(name, *images, **changes):
    text = "<|image|>" * len(images) + "What colour?"
    return Question(name, text, VQA.hash, "", images, is_message=True, **changes)


def test_mass_is_that_of_the_first_token_of_each_answer(model, image_bytes):
    questions = [asked("a", image_bytes("red")), asked("b", image_bytes("blue"), image_bytes("red"))]
    mass = image_mass(model, questions, Decoding(), "resize")
    assert (mass.name, len(mass.images)) == (model.name, 2)
    share = 0.0
    for question, layers in zip(questions, mass.images, strict=True):
        message = [{"role": "user", "content": question.prompt}]
        inside = look_inside(model.engine.model, message, list(question.images), 3, engine=model.engine)
        np.testing.assert_allclose(layers, inside.image_mass[:, 0], atol=1e-6)
        share += inside.image_positions / inside.positions / 2
    assert mass.positions == pytest.approx(share)
    np.testing.assert_allclose(mass.by_layer, mass.images.mean(0))


def test_questions_without_images_or_with_options_are_left_out(image_bytes):
    kept = asked("a", image_bytes("red"))
    chosen = asked("c", image_bytes("red"), options=("A", "B"))
    assert with_images("some", [kept, asked("b"), chosen]) == [kept]
    with pytest.raises(Owl2Error, match="facts asks nothing about images"):
        with_images("facts", [asked("b"), chosen])


def test_unrelated_images_are_those_of_the_next_question_with_as_many_and_others():
    a, b, c, d, e = (bytes([number]) for number in range(5))
    questions = [asked("0", a), asked("1", a), asked("2", b), asked("3", c, d), asked("4", e, a)]
    found = [question.images for question in with_unrelated_images(questions)]
    assert found == [(b,), (b,), (a,), (e, a), (c, d)]
    assert [question.id for question in with_unrelated_images(questions)] == list("01234")
    with pytest.raises(Owl2Error, match=r"question 0: no other question .*--limit"):
        with_unrelated_images([asked("0", a), asked("1", a)])


def test_table_has_a_row_per_model_and_layer():
    masses = [
        Mass("one", np.array([[0.25, 0.5], [0.35, 0.7]]), 0.4),
        Mass("two", np.array([[0.1, 0.2]]), 0.5),
    ]
    rows = list(csv.DictReader(io.StringIO(mass_csv(masses))))
    assert [(row["model"], row["layer"], row["questions"]) for row in rows] == [
        ("one", "1", "2"), ("one", "2", "2"), ("two", "1", "1"), ("two", "2", "1"),
    ]  # fmt: skip
    assert float(rows[0]["on_images"]) == pytest.approx(30)
    assert float(rows[1]["deviation"]) == pytest.approx(14.142, abs=1e-3)
    assert (rows[2]["deviation"], float(rows[2]["positions_of_images"])) == ("", 50)
