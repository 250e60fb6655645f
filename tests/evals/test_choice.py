"""Multiple-choice benchmarks, from their authors' file formats to the final score."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import choice, circular

LETTER = "Answer with the option’s letter from the given choices directly."  # noqa: RUF001
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics" / "mme.json").read_text())["mmbench"]


def test_scienceqa_asks_only_questions_with_images(folder, answer):
    def problem(image, answer_index):
        return {
            "question": "Which is farthest north?",
            "choices": ["West Virginia", "Louisiana"],
            "answer": answer_index,
            "hint": "Look at the map." if image else "",
            "image": image,
            "task": "closed choice",
            "grade": "grade2",
            "subject": "social science",
            "topic": "geography",
            "category": "Geography",
            "skill": "Read a map",
            "lecture": "",
            "solution": "",
            "split": "test",
        }

    problems = {"4": problem("image.png", 0), "5": problem("image.png", 1), "6": problem(None, 0)}
    folder.json("scienceqa/problems.json", problems)
    folder.json("scienceqa/pid_splits.json", {"train": [], "val": [], "test": ["4", "5", "6"]})
    folder.image("scienceqa/test/4/image.png")
    answered, summary = answer(choice.ScienceQA(), {"4": "A", "5": "West Virginia"})
    assert summary.metrics == {"accuracy": 50.0, "social science": 50.0}
    assert answered[0].question.prompt == (
        "USER: <|image|>Look at the map.\nWhich is farthest north?\nA. West Virginia\nB. Louisiana\n"
        f"{LETTER} ASSISTANT: "
    )
    assert answered[0].question.images == (folder.root / "scienceqa/test/4/image.png",)


def test_aokvqa_choices(folder, answer, assert_broken):
    row = {
        "split": "val",
        "image_id": 1,
        "question_id": "q",
        "question": "What?",
        "choices": ["a pipe", "food", "a stick", "cigarette"],
        "correct_choice_idx": 3,
        "direct_answers": ["cigarette"] * 10,
        "difficult_direct_answer": False,
        "rationales": [],
    }
    folder.json("aokvqa/aokvqa_v1p0_val.json", [row])
    folder.image("coco/val2017/000000000001.jpg")
    assert answer(choice.AOKVQAChoice(), {"q": "D"})[1].metrics == {"accuracy": 100.0}
    folder.json("aokvqa/aokvqa_v1p0_val.json", [{**row, "correct_choice_idx": 7}])
    assert_broken(choice.AOKVQAChoice(), "row 0 is malformed: the answer is option 7 of 4")


def mmbench_table(folder, rows, path="mmbench/mmbench_dev_20230712.tsv"):
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source",
               "l2-category", "comment", "split"]  # fmt: skip
    lines = ["\t".join(columns)] + ["\t".join(str(row.get(column, "")) for column in columns) for row in rows]
    folder.text(path, "\n".join(lines) + "\n")


def cat_or_dog(index, answer, image, **row):
    return {"index": index, "question": "What is it?", "A": "cat", "B": "dog", "answer": answer,
            "category": "object_localization", "image": image, "l2-category": "coarse"} | row  # fmt: skip


def test_mmbench_counts_a_question_when_all_its_rotations_are_right(folder, answer, image_bytes):
    image = base64.b64encode(image_bytes("red")).decode()
    rows = [
        cat_or_dog(5, "B", image),
        cat_or_dog(6, "A", image, hint="Look."),
        cat_or_dog(1000005, "A", 5, A="dog", B="cat"),
        cat_or_dog(1000006, "B", 6, A="dog", B="cat"),
    ]
    mmbench_table(folder, rows)
    # Question 5 is right twice; question 6 says "A" both times, so it is right only once.
    answers = {"5": "B", "6": "A", "1000005": "A. dog", "1000006": "A"}
    answered, summary = answer(circular.MMBench(), answers)
    assert summary.metrics == {"accuracy": 100.0, "circular_accuracy": 50.0, "coarse": 50.0}
    assert summary.scores == [1.0, 1.0, 1.0, 0.0]
    assert answered[2].question.images == (image_bytes("red"),)
    assert answered[0].question.prompt.startswith("USER: <|image|>N/A\nWhat is it?\nA. cat\nB. dog\n")
    assert answered[1].question.prompt.startswith("USER: <|image|>Look.\nWhat is it?\n")


def test_ccbench_without_rotated_rows_gets_them(folder, answer, image_bytes):
    image = base64.b64encode(image_bytes("red")).decode()
    text = "index\tquestion\tA\tB\tC\tD\tanswer\tcategory\timage\n"
    text += f"0\t图中所示建筑名称为?\t天坛\t故宫\t黄鹤楼\t少林寺\tC\tscenery_building\t{image}\n"
    folder.text("ccbench/CCBench.tsv", text)
    answers = {"0": "C", "1000000": "黄鹤楼", "2000000": "A", "3000000": "D"}
    answered, summary = answer(circular.CCBench(), answers)
    assert [entry.question.answer for entry in answered] == [2, 1, 0, 3]
    assert "A. 故宫\nB. 黄鹤楼\nC. 少林寺\nD. 天坛" in answered[1].question.prompt
    assert summary.metrics == {"accuracy": 100.0, "circular_accuracy": 100.0, "scenery_building": 100.0}
    answers["3000000"] = "C"
    assert answer(circular.CCBench(), answers)[1].metrics["circular_accuracy"] == 0.0


def test_mmbench_submission_holds_the_golden_rows(folder, answer, image_bytes, tmp_path):
    image = base64.b64encode(image_bytes("red")).decode()
    predictions = {str(row["index"]): row["prediction"] for row in GOLDEN["results"]}
    secret = {"image": image, "answer": ""}
    table = [{key: value or "" for key, value in row.items()} | secret for row in GOLDEN["raw"]]
    # A row of a rotation keeps the reader from making more.
    table.append({**table[-1], "index": 1000000 + table[-1]["index"], "image": table[-1]["index"]})
    mmbench_table(folder, table, "mmbench/mmbench_test_20230712.tsv")
    benchmark = circular.MMBenchTest()
    questions = list(benchmark.questions(folder.root))
    answered, summary = answer(benchmark, {q.id: predictions.get(q.id, "") for q in questions})
    assert summary.metrics == {}
    (path,) = benchmark.export(answered, tmp_path)
    rows = {row[0]: row for row in sheet(path)}
    for row in GOLDEN["submission"]:
        columns = ("index", "question", "prediction", "A", "B", "C", "D")
        assert rows[row["index"]] == [row[column] for column in columns], row
    assert rows["index"] == ["index", "question", "prediction", "A", "B", "C", "D"]


def sheet(path):
    tree = ElementTree.fromstring(zipfile.ZipFile(path).read("xl/worksheets/sheet1.xml"))
    space = {"m": tree.tag[1:].split("}")[0]}
    columns = None
    for row in tree.iterfind(".//m:row", space):
        found = {cell.get("r").rstrip("0123456789"): cell_value(cell, space) for cell in row}
        columns = columns or list(found)  # those of the header; an empty cell has no element
        assert set(found) <= set(columns)
        yield [found.get(column) for column in columns]


def cell_value(cell, space):
    number, text = cell.find("m:v", space), cell.find(".//m:t", space)
    if number is not None:
        return int(number.text)
    return None if text is None else text.text or ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index\tquestion\tA\tB\timage\n1\tq\ta\n", "row 2 has another number of fields"),
        ("index\tquestion\tA\tB\tanswer\timage\n1\tq\ta\tb\tA\t%%%\n", "neither base64 nor the index"),
        ("index\tquestion\tA\tB\tanswer\timage\n1\tq\ta\tb\tA\t" + "%" * 40, "neither base64 nor the index"),
    ],
)
def test_malformed_rows_of_tables_are_named(folder, text, message, assert_broken):
    folder.text("ccbench/CCBench.tsv", text)
    assert_broken(circular.CCBench(), message)


def test_a_table_without_a_column_is_named(folder):
    folder.text("ccbench/CCBench.tsv", "index\tquestion\tA\tB\n1\tq\ta\tb\n")
    with pytest.raises(Owl2Error, match="has no column 'image'"):
        list(circular.CCBench().questions(folder.root))


def test_seed_bench_leaves_videos_out_and_names_its_tasks(folder, answer):
    def row(number, kind, answer_letter, task):
        return {
            "answer": answer_letter,
            "choice_a": "One",
            "choice_b": "Two",
            "choice_c": "Three",
            "choice_d": "Four",
            "data_id": f"{number}.jpg",
            "data_type": kind,
            "question": "How many towels?",
            "question_id": str(number),
            "question_type_id": task,
            "segment": [0, 1],
        }

    rows = [row(101669, "image", "A", 5), row(101670, "image", "D", 1), row(7, "video", "A", 10)]
    types = {"Scene Understanding": 1, "Instances Counting": 5, "Action Recognition": 10}
    folder.json("seed_bench/SEED-Bench.json", {"questions": rows, "question_type": types})
    folder.image("seed_bench/SEED-Bench-image/101669.jpg")
    _, summary = answer(choice.SeedBench(), {"101669": "A", "101670": "It is one."})
    assert summary.metrics == {"accuracy": 50.0, "Instances Counting": 100.0, "Scene Understanding": 0.0}


def test_qbench_names_the_right_candidate_by_its_text(folder, answer):
    rows = [
        {
            "img_path": "00098.jpg",
            "question": "Is this image clear?",
            "question_type": 1,
            "question_concern": 2,
            "correct_ans": "No",
            "candidates": ["Yes", "No"],
        },
        {"img_path": "00099.jpg", "question": "How is it?", "correct_ans": "Fair",
         "candidates": ["Good", "Fair", "Bad"]},
    ]  # fmt: skip
    folder.json("qbench/llvisionqa_dev.json", rows)
    folder.image("qbench/images/00098.jpg")
    answered, summary = answer(choice.QBench(), {"0": "B", "1": "C. Bad"})
    assert summary.metrics == {"accuracy": 50.0}
    assert answered[0].question.prompt == (
        f"USER: <|image|>Is this image clear?\nA. Yes\nB. No\n{LETTER} ASSISTANT: "
    )
