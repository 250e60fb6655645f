from __future__ import annotations

import json

import pytest

from owl2_jax.core.buckets import upload_folder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import images
from owl2_jax.data.sources.base import RecordError
from owl2_jax.data.sources.vqa import VqaSource
from tests.data.sources.images import image

QUESTIONS = {
    "task_type": "Open-Ended",
    "questions": [
        {"image_id": 9, "question": "Is it bread?", "question_id": 9000},
        {"image_id": 9, "question": "How many boxes?", "question_id": 9001},
        {"image_id": 77, "question": "Where?", "question_id": 77000},
    ],
}
ANNOTATIONS = {
    "annotations": [
        {
            "question_id": 9001,
            "image_id": 9,
            "answers": [{"answer": "4", "answer_id": 1}, {"answer": "5"}, {"answer": "5"}],
        },
        {
            "question_id": 9000,
            "image_id": 9,
            "multiple_choice_answer": "yes",
            "answers": [{"answer": "yes", "answer_confidence": "yes", "answer_id": i} for i in range(10)],
        },
    ]
}
PROMPT = "{question} Answer the question using a single word or phrase."


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "COCO_train2014_000000000009.jpg").write_bytes(image(9, "JPEG"))
    (tmp_path / "q.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "a.json").write_text(json.dumps(ANNOTATIONS))
    return tmp_path


def test_questions_meet_their_annotations(folder):
    source = VqaSource(folder / "q.json", folder, folder / "a.json", prompt=PROMPT)
    assert len(source) == 3
    example = source[0]
    assert example["id"] == "9000"
    assert example["messages"] == [
        {"role": "user", "content": "<|image|>" + PROMPT.format(question="Is it bread?")},
        {"role": "assistant", "content": "yes"},
    ]
    assert example["answers"] == ["yes"] * 10
    assert source[1]["answer"] == "5"
    assert "with answers" in source.description()


def test_questions_without_annotations_are_open(folder):
    example = VqaSource(folder / "q.json", folder)[0]
    assert [message["role"] for message in example["messages"]] == ["user"]
    assert "answers" not in example


def test_bad_records_are_rejected(folder):
    source = VqaSource(folder / "q.json", folder, folder / "a.json")
    with pytest.raises(RecordError, match="missing: no image"):
        source[2]
    (folder / "COCO_train2014_000000000077.jpg").write_bytes(image(1, "JPEG"))
    with pytest.raises(RecordError, match="missing_field: no answer to question 77000"):
        source[2]


def test_pattern_must_fit_the_ids(folder):
    content = {"questions": [{"image_id": "abc", "question": "?", "question_id": 1}]}
    (folder / "text.json").write_text(json.dumps(content))
    with pytest.raises(Owl2Error, match="image_pattern"):
        VqaSource(folder / "text.json", folder)
    (folder / "abc.png").write_bytes(image(1))
    assert len(VqaSource(folder / "text.json", folder, image_pattern="{image_id}.png")[0]["images"]) == 1


def test_files_of_another_format_and_prompts_without_question_are_refused(folder):
    with pytest.raises(Owl2Error, match=r"a\.json has no list 'questions'"):
        VqaSource(folder / "a.json", folder)
    (folder / "short.json").write_text('{"questions": [{"question": "?"}]}')
    with pytest.raises(Owl2Error, match=r"questions\[0\] has no 'question_id'"):
        VqaSource(folder / "short.json", folder)
    with pytest.raises(Owl2Error, match="question"):
        VqaSource(folder / "q.json", folder, prompt="Answer.")


def test_a_file_of_utf_16_is_named_and_a_byte_order_mark_skipped(tmp_path):
    questions = json.dumps({"questions": []})
    (tmp_path / "wide.json").write_text(questions, encoding="utf-16")
    with pytest.raises(Owl2Error, match=r"wide\.json is UTF-16, not UTF-8"):
        VqaSource(tmp_path / "wide.json", tmp_path)
    (tmp_path / "mark.json").write_text("\ufeff" + questions, encoding="utf-8")
    assert len(VqaSource(tmp_path / "mark.json", tmp_path)) == 0


def test_questions_and_images_are_read_from_a_bucket(folder, bucket):
    upload_folder(folder, bucket)
    there = VqaSource(str(bucket / "q.json"), str(bucket), str(bucket / "a.json"), prompt=PROMPT)
    here = VqaSource(folder / "q.json", folder, folder / "a.json", prompt=PROMPT)
    assert there.reads_bucket
    found, expected = there[1], here[1]
    assert images.read_file(found["images"][0]) == images.read_file(expected["images"][0])
    assert {**found, "images": None} == {**expected, "images": None}
