"""Benchmarks that a stronger model judges: what goes out to it and what comes back."""

from __future__ import annotations

import json

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.judged import MMHalBench, MMVet


def mm_vet_files(folder):
    rows = {
        "v1_0": {"imagename": "v1_0.png", "question": "What is x?", "answer": "-1 <AND> -5",
                 "imagesource": "web", "capability": ["ocr", "math"]},
        "v1_1": {"imagename": "v1_1.jpg", "question": "Who?", "answer": "Joe", "imagesource": "web",
                 "capability": ["ocr"]},
    }  # fmt: skip
    folder.json("mm-vet/mm-vet.json", rows)
    folder.image("mm-vet/images/v1_0.png")


def test_mm_vet_exports_answers_and_imports_grades(folder, answer, tmp_path):
    mm_vet_files(folder)
    benchmark = MMVet()
    answered, summary = answer(benchmark, {"v1_0": "x = -1", "v1_1": "Joe"})
    assert summary.metrics == {}
    assert answered[0].question.prompt == "USER: <|image|>What is x? ASSISTANT: "
    assert benchmark.decoding.max_new_tokens >= 256
    (path,) = benchmark.export(answered, tmp_path)
    assert json.loads(path.read_text()) == {"v1_0": "x = -1", "v1_1": "Joe"}
    grades = {
        "v1_0": {"model": ["gpt-4"] * 2, "content": ["0.5", "0.7"], "score": [0.5, 0.7]},
        "v1_1": {"model": ["gpt-4"] * 2, "content": ["1.0", "1.0"], "score": [1.0, 1.0]},
    }
    judged = benchmark.judged(answered, folder.json("grades.json", grades))
    # (0.6 + 1.0) / 2; math is the first question alone.
    assert judged.metrics == pytest.approx({"total": 80, "ocr": 80, "math": 60})
    # A judgement that is missing or wrong is named, and its question has no score.
    judged = benchmark.judged(answered, folder.json("grades.json", {"v1_0": grades["v1_0"]}))
    assert (judged.metrics["total"], judged.scores) == (pytest.approx(60), [pytest.approx(0.6), None])
    assert "grades.json, question v1_1 is malformed: there is no judgement" in str(judged.broken[0])
    grades["v1_0"]["score"] = [3]
    judged = benchmark.judged(answered, folder.json("grades.json", grades))
    assert judged.metrics == pytest.approx({"total": 100, "ocr": 100})
    assert "needs grades from 0 to 1" in str(judged.broken[0])
    with pytest.raises(Owl2Error, match=r"none of the 2 rows of .* can be used"):
        benchmark.judged(answered, folder.json("grades.json", {}))


def mmhal_files(folder):
    row = {
        "question_type": "attribute",
        "question_topic": "indoor",
        "image_id": "fde8b6bf",
        "image_src": "https://example.org/65535/3952_o.jpg",
        "image_content": ["Clock"],
        "question": "What color is the clock?",
        "gt_answer": "It is white.",
        "model_answer": "",
    }
    rows = [row, {**row, "question_type": "counting"}]
    folder.json("mmhal-bench/response_template.json", rows)
    folder.image("mmhal-bench/images/3952_o.jpg")
    return rows


def test_mmhal_fills_the_template_in_and_reads_ratings(folder, answer, tmp_path):
    rows = mmhal_files(folder)
    benchmark = MMHalBench()
    answered, _ = answer(benchmark, {"0": "White.", "1": "Three."})
    assert answered[0].question.images[0].name == "3952_o.jpg"
    (path,) = benchmark.export(answered, tmp_path)
    assert json.loads(path.read_text()) == [
        {**rows[0], "model_answer": "White."},
        {**rows[1], "model_answer": "Three."},
    ]
    completion = {"choices": [{"message": {"content": "The answer is made up.\nRating: 1, very bad"}}]}
    replies = folder.json("judge.json", ["Fine. Rating: 6, very informative", completion])
    summary = benchmark.judged(answered, replies)
    expected = {"rating": 3.5, "hallucination_rate": 50, "attribute": 6, "counting": 1}
    assert summary.metrics == pytest.approx(expected)
    assert summary.scores == [6.0, 1.0]
    with pytest.raises(Owl2Error, match="holds 1 judgements; expected 2"):
        benchmark.judged(answered, folder.json("judge.json", ["Rating: 6"]))
    summary = benchmark.judged(answered, folder.json("judge.json", ["Rating: 6", "good"]))
    assert (summary.metrics["rating"], summary.scores) == (6, [6.0, None])
    assert "judge.json, row 1 is malformed: no 'Rating: N' in the reply" in str(summary.broken[0])


def test_malformed_files_are_named(folder, assert_broken):
    mm_vet_files(folder)
    folder.json("mm-vet/mm-vet.json", {"v1_0": {"imagename": "a.png"}})
    assert_broken(MMVet(), "row 0 has no 'capability'")
