"""A broken row in the middle of every kind of file: named with file and row, and no end of anything."""

from __future__ import annotations

import copy

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.loading import load_questions
from owl2_jax.evals.metrics.mme import TASK_NAMES
from owl2_jax.evals.registry import get_benchmark
from owl2_jax.evals.runner import evaluate
from owl2_jax.evals.text import AGIEval
from owl2_jax.evals.yes_no import MME
from tests.fuzz.benchmark_files import KINDS, file_text, write_originals

RELEASE = "mme/MME_Benchmark_release_version"
# A key of each benchmark's rows that no question can do without.
NEEDED = {
    "aokvqa_choice_val": "choices",
    "scienceqa_img": "question",
    "seed_bench": "answer",
    "qbench_dev": "candidates",
    "vqav2_val": "question",
    "okvqa_val": "answers",
    "gqa_testdev": "answer",
    "textvqa_val": "answers",
    "vizwiz_val": "answers",
    "ocrvqa_test": "answers",
    "textcaps_val": "reference_strs",
    "coco_captions": "sentences",
    "pope_random": "label",
    "arc_easy": "question",
    "mm_vet": "capability",
    "mmhal_bench": "question_type",
    "msrvtt_qa": "answer",
}
MISSING = object()
WRONG = {"missing": MISSING, "null": None, "NaN": float("nan"), "number": 7, "object": {}, "list": [None],
         "half a character": ["\ud800"]}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", KINDS)
def test_the_rows_beside_it_are_asked(name, kind, tmp_path):
    whole = write_originals(tmp_path, name)
    path, row, shape = KINDS[name]
    rows = [copy.deepcopy(row(number)) for number in range(3)]
    rows[1][NEEDED[name]] = WRONG[kind]
    if kind == "missing":
        del rows[1][NEEDED[name]]
    (tmp_path / path).write_text(file_text(rows, shape))
    questions, (broken,) = load_questions(name, get_benchmark(name), tmp_path, None)
    assert questions == [whole[0], whole[2]]
    assert broken.row in ("row 1", "line 2", "book q1, question 0")
    # VQA's annotations are told with their question, which stands in another file.
    assert broken.file.startswith(str(tmp_path))
    assert (tmp_path / path).name in str(broken)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_broken_rows_alone_is_an_error(name, tmp_path):
    write_originals(tmp_path, name)
    path, _, shape = KINDS[name]
    (tmp_path / path).write_text(file_text([{"a": 1}] * 3, shape))
    with pytest.raises(Owl2Error, match=r"every one of its \d rows is broken, first .*(row 0|line 1)"):
        load_questions(name, get_benchmark(name), tmp_path, None)


@pytest.mark.parametrize("name", ["gqa_testdev", "scienceqa_img", "mm_vet"])
def test_a_run_ends_with_the_score_of_the_others(name, tmp_path, table_model, image_bytes):
    whole = write_originals(tmp_path, name)
    path, row, shape = KINDS[name]
    (tmp_path / path).write_text(file_text([row(0), {"question": 3}, row(2)], shape))
    put_images(whole, image_bytes)
    model = table_model(lambda question: "C" if name == "scienceqa_img" else "red")
    benchmark = get_benchmark(name)
    score = evaluate(name, benchmark, lambda: model, checkpoint="x", root=tmp_path, out=tmp_path / "out")
    assert (score.questions, score.broken) == (2, 1)
    assert score.value == (None if name == "mm_vet" else 100)
    assert "row 1" in score.first_broken[0]


def put_images(questions, image_bytes):
    for question in questions:
        for image in getattr(question, "images", ()):
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(image_bytes("red"))


def mme_files(folder, **lines):
    for task in TASK_NAMES:
        text = lines.get(task) or f"{task}.jpg\tIs it?\tYes\n{task}.jpg\tIs it not?\tNo\n"
        folder.text(f"{RELEASE}/eval_tool/Your_Results/{task}.txt", text)


def test_a_broken_line_of_mme_leaves_its_image_out_alone(folder, assert_broken):
    spoilt = "\ufeffa.jpg\tIs it?\tYes\na.jpg\tIs it not?\n\n"
    mme_files(folder, OCR=spoilt + "b.jpg\tOne\u2028line?\tYes\r\nb.jpg\tNot?\tNo\r\n")
    questions, broken = load_questions("mme", MME(), folder.root, None)
    assert [question.id for question in questions if question.info["task"] == "OCR"] == ["OCR/3", "OCR/4"]
    assert [one.row for one in broken] == ["line 1", "line 2"]
    assert_broken(MME(), r"OCR\.txt, line 1 is left out: image a\.jpg has 1 usable questions, expected 2")
    assert_broken(MME(), r"OCR\.txt, line 2 is malformed: expected image, question and answer")


def test_a_task_of_mme_without_a_whole_image_gives_no_total(folder, table_model, tmp_path, image_bytes):
    mme_files(folder, OCR="a.jpg\tIs it?\tYes\n")
    put_images(MME().questions(folder.root), image_bytes)
    model = table_model(lambda question: question.answer)
    score = evaluate("mme", MME(), lambda: model, checkpoint="x", root=folder.root, out=tmp_path / "out")
    assert (score.value, score.metrics["Perception-count"], score.broken) == (None, 200, 1)
    assert "both questions were answered: OCR" in score.left_out["Perception"]


def test_a_broken_worked_example_breaks_the_questions_of_its_subject(folder):
    for subject, example in {"anatomy": "Why?,a,b\n", "law": "Why?,a,b,c,d,B\n"}.items():
        folder.text(f"mmlu/data/dev/{subject}_dev.csv", example)
        folder.text(f"mmlu/data/test/{subject}_test.csv", "Where?,a,b,c,d,A\nWhen?,a,b,c,d,B\n")
    questions, broken = load_questions("mmlu", get_benchmark("mmlu"), folder.root, None)
    assert [question.id for question in questions] == ["law/0", "law/1"]
    assert len(broken) == 2
    assert "anatomy_dev.csv, row 1 has another number of fields (3)" in str(broken[0])


def test_an_answer_of_mmlu_is_one_letter(folder):
    folder.text("mmlu/data/dev/law_dev.csv", "Why?,a,b,c,d,B\n")
    folder.text("mmlu/data/test/law_test.csv", "Where?,a,b,c,d,\nWhen?,a,b,c,d,AB\nWho?,a,b,c,d,C\n")
    questions, broken = load_questions("mmlu", get_benchmark("mmlu"), folder.root, None)
    assert [question.id for question in questions] == ["law/2"]
    assert "row 1 is malformed: the answer is ''; expected one of A, B, C, D" in str(broken[0])


def test_broken_rows_of_agieval_and_bbh_are_named(folder):
    row = {"passage": None, "question": "Q?", "options": ["(A)one", "(B)two"], "label": "B", "answer": None}
    for file in AGIEval.files:
        folder.lines(file.path, [row])
    spoilt = [{**row, "label": ""}, {**row, "options": [1, 2]}, {**row, "question": None}]
    folder.lines(AGIEval.files[0].path, [*spoilt, row])
    questions, broken = load_questions("agieval", AGIEval(), folder.root, None)
    assert len(questions) == len(AGIEval.files)
    assert [one.row for one in broken] == ["line 1", "line 2", "line 3"]
    folder.text("bbh/cot-prompts/boolean.txt", "x\n-----\r\nDo it.\n\nQ: a\nA: b")
    examples = [{"input": "a", "target": True}, {"input": "a", "target": "b"}]
    folder.json("bbh/bbh/boolean.json", {"examples": examples})
    questions, broken = load_questions("bbh", get_benchmark("bbh"), folder.root, None)
    assert [question.id for question in questions] == ["boolean/1"]
    assert "boolean.json, row 0 is malformed: the target is True; expected text" in str(broken[0])


def test_captions_without_a_image_and_images_without_captions_are_named(folder):
    (folder.root / "nocaps/val").mkdir(parents=True)
    images = [{"id": number, "file_name": f"{number}.jpg", "domain": "in-domain"} for number in range(4)]
    captions = [
        {"image_id": 0, "caption": "a cat\non two lines"},
        {"image_id": None, "caption": "x"},
        {"image_id": 1, "caption": None},
        {"image_id": 3, "caption": ""},
    ]
    folder.json("nocaps/nocaps_val_4500_captions.json", {"images": images, "annotations": captions})
    questions, broken = load_questions("nocaps_val", get_benchmark("nocaps_val"), folder.root, None)
    assert [question.id for question in questions] == ["0", "3"]
    whys = [one.why for one in broken]
    assert "image_id is None" in whys[0]
    assert "one of the list of reference captions is None; expected text" in whys[1]
    assert "image 2 has no caption under annotations" in whys[2]
