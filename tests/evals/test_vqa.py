"""Short-answer benchmarks, from their authors' file formats to the final score."""

from __future__ import annotations

import json

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import vqa

WORD = "Answer the question using a single word or phrase."


def human_answers(*texts):
    return [
        {"answer": text, "answer_confidence": "yes", "answer_id": index}
        for index, text in enumerate(texts, 1)
    ]


def vqav2_files(folder, prefix="vqav2/v2_", kind="yes/no"):
    head = {"info": {"version": "2.0"}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}}
    questions = [
        {"image_id": 42, "question": "Is it red?", "question_id": 42000},
        {"image_id": 42, "question": "What is it?", "question_id": 42001},
    ]
    annotations = [
        {
            "question_type": "what is",
            "multiple_choice_answer": "dog",
            "answers": human_answers(*["dog"] * 3, *["cat"] * 7),
            "image_id": 42,
            "answer_type": "other",
            "question_id": 42001,
        },
        {
            "question_type": "is it",
            "multiple_choice_answer": "yes",
            "answers": human_answers(*["yes"] * 10),
            "image_id": 42,
            "answer_type": kind,
            "question_id": 42000,
        },
    ]
    folder.json(f"{prefix}OpenEnded_mscoco_val2014_questions.json", {**head, "questions": questions})
    folder.json(f"{prefix}mscoco_val2014_annotations.json", {**head, "annotations": annotations})
    folder.image("coco/val2014/COCO_val2014_000000000042.jpg")


def test_vqav2_reads_both_files_and_scores_by_leave_one_out(folder, answer):
    vqav2_files(folder)
    answered, summary = answer(vqa.VQAv2(), {"42000": "Yes.", "42001": "a dog"})
    # "dog" was said by 3 of 10: three humans see 2 others (2/3), seven see 3 (1): 0.9.
    assert summary.scores == pytest.approx([1.0, 0.9])
    assert summary.metrics == {"vqa_accuracy": 95.0, "yes/no": 100.0, "other": 90.0}
    question = answered[0].question
    assert question.prompt == f"USER: <|image|>Is it red? {WORD} ASSISTANT: "
    assert question.images == (folder.root / "coco/val2014/COCO_val2014_000000000042.jpg",)
    assert vqa.VQAv2.decoding.max_new_tokens == 10
    assert vqa.VQAv2.image_mode == "resize"


def test_okvqa_has_the_same_two_files(folder, answer):
    vqav2_files(folder, "okvqa/", kind="other")
    _, summary = answer(vqa.OKVQA(), {"42000": "no", "42001": "cat"})
    # "cat" was said by seven: every human sees at least 6 others.
    assert summary.metrics == {"vqa_accuracy": 50.0, "other": 50.0}


def test_vqav2_test_dev_writes_the_submission(folder, answer, tmp_path):
    questions = [{"image_id": 7, "question": "How many?", "question_id": 7000}]
    folder.json("vqav2/v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions})
    folder.image("coco/test2015/COCO_test2015_000000000007.jpg")
    benchmark = vqa.VQAv2TestDev()
    answered, summary = answer(benchmark, {"7000": "The two dogs, maybe?"})
    assert summary.metrics == {}
    assert answered[0].score is None
    (path,) = benchmark.export(answered, tmp_path)
    assert json.loads(path.read_text()) == [{"question_id": 7000, "answer": "2 dogs maybe"}]


def aokvqa_row():
    return {
        "split": "val",
        "image_id": 299207,
        "question_id": "22jbM6gDxdaMaunuzgrsBB",
        "question": "What is in the motorcyclist's mouth?",
        "choices": ["toothpick", "food", "popsicle stick", "cigarette"],
        "correct_choice_idx": 3,
        "direct_answers": ["cigarette"] * 2 + ["cigar"] * 8,
        "difficult_direct_answer": False,
        "rationales": ["He is smoking."],
    }


def test_aokvqa_counts_equal_direct_answers_by_thirds(folder, answer):
    folder.json("aokvqa/aokvqa_v1p0_val.json", [aokvqa_row()])
    folder.image("coco/val2017/000000299207.jpg")
    name = aokvqa_row()["question_id"]
    answered, summary = answer(vqa.AOKVQA(), {name: "Cigarette."})
    assert summary.metrics["direct_answer"] == pytest.approx(200 / 3)
    assert answered[0].question.images[0].name == "000000299207.jpg"
    assert answer(vqa.AOKVQA(), {name: "cigar"})[1].metrics["direct_answer"] == 100.0


def test_gqa_is_exact_and_splits_by_structure(folder, answer):
    rows = {
        "201307251": {
            "semantic": [],
            "entailed": [],
            "equivalent": ["201307251"],
            "question": "Is it overcast?",
            "imageId": "n161313",
            "isBalanced": True,
            "groups": {"global": None, "local": "06-weather_overcast"},
            "answer": "no",
            "semanticStr": "",
            "annotations": {},
            "types": {"detailed": "weatherVerify", "semantic": "attr", "structural": "verify"},
            "fullAnswer": "No, it is clear.",
        },
        "201640614": {
            "question": "Who is wearing the dress?",
            "imageId": "n235859",
            "answer": "woman",
            "types": {"structural": "query"},
        },
    }
    folder.json("gqa/testdev_balanced_questions.json", rows)
    folder.image("gqa/images/n161313.jpg")
    answered, summary = answer(vqa.GQA(), {"201307251": "No", "201640614": "the woman"})
    assert summary.metrics == {"accuracy": 50.0, "verify": 100.0, "query": 0.0}
    assert answered[1].question.images[0].name == "n235859.jpg"


def test_vizwiz_answers_without_ids_are_ten_people(folder, answer):
    rows = [
        {
            "image": "VizWiz_val_00000000.jpg",
            "question": "Ok. There is another image I hope it is a better one.",
            "answers": [{"answer_confidence": "yes", "answer": "unanswerable"}] * 7
            + [{"answer_confidence": "yes", "answer": "laptop"}] * 3,
            "answer_type": "unanswerable",
            "answerable": 0,
        }
    ]
    folder.json("vizwiz/val.json", rows)
    folder.image("vizwiz/val/VizWiz_val_00000000.jpg")
    name = "VizWiz_val_00000000.jpg"
    assert answer(vqa.VizWiz(), {name: "Unanswerable"})[1].metrics["vqa_accuracy"] == 100.0
    assert answer(vqa.VizWiz(), {name: "laptop"})[1].metrics == {
        "vqa_accuracy": 90.0,
        "unanswerable": 90.0,
    }


def test_textvqa_answers_are_plain_strings(folder, answer):
    rows = [
        {
            "question": "what is the brand of this camera?",
            "image_id": "003a8ae2ef43b901",
            "image_classes": ["Cassette deck"],
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "image_width": 1024,
            "image_height": 664,
            "answers": ["nous les gosses", "dakota"] + ["dakota digital"] * 2 + ["Dakota"] * 6,
            "question_tokens": ["what"],
            "question_id": 34602,
            "set_name": "val",
        }
    ]
    folder.json("textvqa/TextVQA_0.5.1_val.json", {"dataset_name": "textvqa", "data": rows})
    folder.image("textvqa/train_images/003a8ae2ef43b901.jpg")
    # "Dakota" keeps its capital among the ground truths, so one "dakota" matches: 9 see it, 9 * 1/3 / 10.
    assert answer(vqa.TextVQA(), {"34602": "Dakota"})[1].metrics == {"vqa_accuracy": 30.0}


def test_ocrvqa_asks_the_questions_of_the_third_split(folder, answer):
    def cover(split):
        return {
            "imageURL": "http://example.org/I/51UWqGY5MJL.jpg",
            "questions": ["Who wrote this book?", "Is this a comedy?"],
            "answers": ["Sandra Boynton", "No"],
            "title": "Mom's Family Wall Calendar 2016",
            "authorName": "Sandra Boynton",
            "genre": "Calendars",
            "split": split,
        }

    folder.json("ocrvqa/dataset.json", {"761183272": cover(1), "1523205592": cover(3)})
    folder.image("ocrvqa/images/1523205592.jpg")
    answers = {"1523205592-0": "sandra boynton", "1523205592-1": "Yes"}
    answered, summary = answer(vqa.OCRVQA(), answers)
    assert summary.metrics == {"accuracy": 50.0}
    assert answered[0].question.images[0].name == "1523205592.jpg"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda f: (f.root / "coco/val2014").rename(f.root / "elsewhere"),
            r"val2014 is missing. Get val2014 from",
        ),
        (lambda f: f.text("vqav2/v2_mscoco_val2014_annotations.json", '{"annot'), "is not valid JSON"),
        (lambda f: f.json("vqav2/v2_mscoco_val2014_annotations.json", {"info": 1}), "no key 'annotations'"),
    ],
)
def test_missing_and_malformed_files_are_named(folder, break_it, message):
    vqav2_files(folder)
    break_it(folder)
    with pytest.raises(Owl2Error, match=message):
        list(vqa.VQAv2().questions(folder.root))


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (
            [{"question_id": 42000}],
            "its annotation in vqav2/v2_mscoco_val2014_annotations.json is malformed: no 'answers'",
        ),
        (
            [{"question_id": None}],
            "annotations.json, row 0 is malformed: question_id is None; expected a whole number",
        ),
        ([], "row 0 is malformed: question 42000 has no annotation"),
    ],
)
def test_questions_without_an_annotation_are_broken(folder, annotations, message, assert_broken):
    vqav2_files(folder)
    folder.json("vqav2/v2_mscoco_val2014_annotations.json", {"annotations": annotations})
    assert_broken(vqa.VQAv2(), message)
