"""MMMU, from Parquet files to the final score."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.loading import load_questions
from owl2_jax.evals.mmmu import CATEGORIES, MMMU, read_question
from owl2_jax.evals.rows import parse_rows

CASES = Path(__file__).parents[1] / "data" / "cases" / "evaluate"
SUBJECTS = sorted(subject for subjects in CATEGORIES.values() for subject in subjects)


def row(name, question, answer, options="[]", kind="multiple-choice", **images):
    columns = {f"image_{n}": images.get(f"image_{n}") for n in range(1, 8)}
    return {
        "id": name,
        "question": question,
        "options": options,
        "explanation": "",
        **{
            key: None if value is None else {"bytes": value, "path": f"{key}.png"}
            for key, value in columns.items()
        },
        "img_type": "['Tables']",
        "answer": answer,
        "topic_difficulty": "Easy",
        "question_type": kind,
        "subfield": "Managerial Accounting",
    }


def mmmu_files(folder, image_bytes):
    red, blue = image_bytes("red"), image_bytes("blue")
    schema = None
    for subject in SUBJECTS:
        name = f"validation_{subject}_1"
        rows = [row(name, "<image 1> Which?", "B", "['$6', '$7']", image_1=red)]
        if subject == "Art":
            rows = [
                row(name, "Compare <image 2> with", "A", "['<image 1>', 'none']", image_1=red, image_2=blue)
            ]
        if subject == "Math":
            rows = [row(name, "<image 1> How far?", "['2.50', 'two and a half']", "[]", "open", image_1=red)]
        table = pyarrow.Table.from_pylist(rows, schema=schema)
        schema = schema or pyarrow.schema(
            [pyarrow.field(f.name, pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
             if f.name.startswith("image_") else f for f in table.schema]
        )  # fmt: skip
        path = folder.text(f"mmmu/{subject}/validation-00000-of-00001.parquet", "")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)


def test_mmmu_scores_choices_by_letter_and_open_questions_by_value(folder, answer, image_bytes):
    mmmu_files(folder, image_bytes)
    answers = {f"validation_{subject}_1": "B" for subject in SUBJECTS}
    answers |= {"validation_Math_1": "The answer is 2.5", "validation_Music_1": "A"}
    answered, summary = answer(MMMU(), answers)
    # Wrong: Art (its answer is A) and Music; 28 of 30 right.
    assert summary.metrics["accuracy"] == pytest.approx(100 * 28 / 30)
    assert summary.metrics["Art and Design"] == 50.0
    assert summary.metrics["Science"] == 100.0
    assert summary.metrics["Music"] == 0.0
    art = next(entry.question for entry in answered if entry.question.id == "validation_Art_1")
    assert art.prompt == (
        "USER: Compare <|image|> with\nA. <|image|>\nB. none\n"
        "Answer with the option’s letter from the given choices directly. ASSISTANT: "  # noqa: RUF001
    )
    # Images come in the order in which the text names them.
    assert art.images == (image_bytes("blue"), image_bytes("red"))
    open_question = next(entry.question for entry in answered if entry.question.id == "validation_Math_1")
    assert open_question.prompt.endswith("\nAnswer the question using a single word or phrase. ASSISTANT: ")
    assert MMMU.decoding.max_new_tokens == 20


def test_the_folders_are_the_subjects_of_the_published_set():
    published = """
        Accounting Agriculture Architecture_and_Engineering Art Art_Theory Basic_Medical_Science Biology
        Chemistry Clinical_Medicine Computer_Science Design Diagnostics_and_Laboratory_Medicine Economics
        Electronics Energy_and_Power Finance Geography History Literature Manage Marketing Materials Math
        Mechanical_Engineering Music Pharmacy Physics Psychology Public_Health Sociology
    """
    assert published.split() == SUBJECTS


def test_malformed_files_are_named(folder, image_bytes):
    mmmu_files(folder, image_bytes)
    folder.text("mmmu/Accounting/validation-00000-of-00001.parquet", "not parquet")
    with pytest.raises(Owl2Error, match="is not a readable Parquet file"):
        list(MMMU().questions(folder.root))
    (folder.root / "mmmu/Sociology/validation-00000-of-00001.parquet").unlink()
    with pytest.raises(Owl2Error, match=r"validation-00000-of-00001\.parquet from mmmu-benchmark"):
        list(MMMU().questions(folder.root))


@pytest.fixture
def handed(folder, image_bytes):
    """The files of MMMU with a handed one for Chemistry; returns the question in it."""

    def put(name):
        mmmu_files(folder, image_bytes)
        path = "Chemistry/validation-00000-of-00001.parquet"
        shutil.copy(CASES / name / path, folder.root / "mmmu" / path)
        questions, broken = load_questions("mmmu_val", MMMU(), folder.root, None)
        assert broken == []
        return next(one for one in questions if one.id == "validation_Chemistry_1")

    return put


def test_an_open_answer_in_brackets_is_a_text(handed):
    question = handed("mmmu_H")
    assert question.answer == ["[H+]"]
    scores = [MMMU().score(question, text) for text in ("[H+]", "The answer is [H+].", "[OH-]", "H")]
    assert scores == [1, 1, 0, 0]


def test_eleven_options_have_eleven_letters(handed):
    question = handed("mmmu_11")
    assert "\nJ. o9\nK. o10\n" in question.prompt
    assert [MMMU().score(question, text) for text in ("K", "o10", "(K)", "J", "A")] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("['2.50', 'two and a half']", ["2.50", "two and a half"]),
        ("[0, 1]", ["[0, 1]"]),
        ("[1, 2)", ["[1, 2)"]),
        ("[" * 9999, ["[" * 9999]),
        ("[]", ["[]"]),
        ("3.5", ["3.5"]),
    ],
)
def test_open_answers_are_alternatives_only_as_a_list_of_texts(answer, accepted):
    value = row("a", "<image 1> What?", answer, kind="open", image_1=b"x")
    assert read_question("Math", value).answer == accepted


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"options": "['a', 'b'"}, r"the options are \"\['a', 'b'\"; expected a list of texts"),
        ({"options": "['a', None]"}, "expected a list of texts"),
        ({"options": "['a']"}, "it has 1 options; expected 2 to 26"),
        ({"options": repr(["a"] * 27)}, "it has 27 options; expected 2 to 26"),
        ({"options": "[" * 9999}, "expected a list of texts"),
        ({"options": None}, "the options is None; expected text"),
        ({"answer": "C"}, "the answer is 'C'; expected one of A, B"),
        ({"answer": ""}, "the answer is ''; expected one of A, B"),
        ({"question": float("nan")}, "the question is nan; expected text"),
        ({"question_type": "essay"}, "expected multiple-choice or open"),
        ({"image_1": None}, "the text names <image 1>, and image_1 holds no image"),
        ({"image_1": {"bytes": None, "path": "a.png"}}, "image_1 holds no image"),
        ({"question": "<image 9> What?"}, "has no 'image_9'"),
        ({"id": None}, "the id is None"),
    ],
)
def test_broken_rows_are_named(change, why):
    value = row("a", "<image 1> What?", "B", "['x', 'y']", image_1=b"x") | change
    (found,) = parse_rows("f.parquet", [value], partial(read_question, "Math"))
    assert isinstance(found, Broken)
    assert re.search(rf"^f\.parquet, row 0 .*{why}", str(found))
