"""MMBench's table in the states that people have it in."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest

from owl2_jax.evals import circular
from owl2_jax.evals.base import Answered
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.loading import load_questions

CASES = Path(__file__).parents[1] / "data" / "cases" / "evaluate"
COLUMNS = ["index", "question", "hint", *"ABCD", "answer", "l2-category", "image"]


@pytest.fixture
def handed(folder):
    """A handed table in its place."""

    def put(name: str) -> None:
        (folder.root / "mmbench").mkdir()
        shutil.copy(CASES / name / "mmbench_dev_20230712.tsv", folder.root / "mmbench")

    return put


@pytest.fixture
def table(folder, image_bytes):
    """Writes rows of MMBench dev with a good image where none is given; returns the questions."""
    image = base64.b64encode(image_bytes("red")).decode()

    def write(*rows, benchmark=circular.MMBench):
        usual = {"question": "What?", "A": "cat", "B": "dog", "answer": "B", "image": image}
        lines = ["\t".join(str({**usual, **row}.get(column, "")) for column in COLUMNS) for row in rows]
        folder.text(benchmark.files[0].path, "\n".join(["\t".join(COLUMNS), *lines]) + "\n")
        return list(benchmark().questions(folder.root))

    return write


def test_an_empty_option_leaves_the_letters_of_the_others(folder, handed, answer):
    handed("mmbench_gap")
    # Without rows of their own, the turns are made here, over the same letters.
    answers = {"0": "D", "1000000": "The answer is B.", "2000000": "black"}
    answered, summary = answer(circular.MMBench(), answers)
    assert "\nA. red\nB. blue\nD. black\n" in answered[0].question.prompt
    assert "\nA. blue\nB. black\nD. red\n" in answered[1].question.prompt
    assert summary.metrics["circular_accuracy"] == 100
    assert circular.MMBench().score(answered[0].question, "C") == 0


def test_the_submission_keeps_the_gap(folder, handed, answer, monkeypatch):
    handed("mmbench_gap")
    answered, _ = answer(circular.MMBench(), dict.fromkeys(("0", "1000000", "2000000"), "D"))
    written = []
    monkeypatch.setattr(circular, "write_xlsx", lambda path, rows: written.extend(rows))
    circular.MMBench().export(answered, folder.root)
    assert written[1] == [0, "What is it?", "D", "red", "blue", None, "black"]


@pytest.mark.parametrize("word", ["nan", "NA", "None", "null", "NaN", "N/A"])
def test_every_text_of_an_option_is_one(folder, handed, word):
    handed("mmbench_nan")
    path = folder.root / "mmbench/mmbench_dev_20230712.tsv"
    path.write_text(path.read_text().replace("nan\tnan\t", f"nan\t{word}\t"))
    question = next(circular.MMBench().questions(folder.root))
    assert f"\nA. {word}\nB. blue\nC. green\nD. black\n" in question.prompt
    assert question.prompt.startswith("USER: <|image|>N/A\n")  # an empty hint, as pandas wrote it
    assert (question.answer, circular.MMBench().score(question, "A")) == (0, 1)
    assert circular.MMBench().score(question, word) == 1


def test_an_index_may_be_written_as_spreadsheets_do(table):
    questions = table(
        {"index": "0.0"}, {"index": "1"}, {"index": "1000000.0", "image": "0.0"}, {"index": "1.000001E+6"}
    )
    assert [question.id for question in questions] == ["0", "1", "1000000", "1000001"]
    assert questions[2].images == questions[0].images


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"index": "one"}, "the index is 'one'; expected a whole number"),
        ({"index": "0.5"}, "expected a whole number"),
        ({"index": "nan"}, "expected a whole number"),
        ({"index": "-1"}, "expected a whole number"),
        ({"answer": "C"}, "the answer is 'C'; expected one of A, B"),
        ({"answer": "AB"}, "the answer is 'AB'; expected one of A, B"),
        ({"answer": ""}, "it has no answer"),
        ({"answer": "nan"}, "it has no answer"),
        ({"B": "", "answer": "A"}, "expected a list of at least 2 texts"),
        ({"image": ""}, "neither base64 nor the index of another row"),
        ({"image": "7"}, "neither base64 nor the index of another row: it is '7'"),
        ({"image": "%" * 60}, "neither base64 nor the index of another row"),
    ],
)
def test_a_broken_row_is_named_and_the_others_are_asked(table, row, why):
    rows = table({"index": 0}, {"index": 1, **row}, {"index": 2})
    (found,) = [str(one) for one in rows if isinstance(one, Broken)]
    assert [one.id for one in rows if not isinstance(one, Broken)] == ["0", "1000000", "2", "1000002"]
    assert "mmbench_dev_20230712.tsv, row 3 is malformed: " in found
    assert why in found


def test_a_question_is_left_out_with_all_its_turns(table):
    turned = {"A": "dog", "B": "cat", "answer": "A"}
    rows = table({"index": 5}, {"index": 6}, {"index": 1000005, "image": "%%"}, {"index": 1000006, **turned})
    assert [getattr(row, "id", None) for row in rows] == [None, "6", None, "1000006"]
    assert "row 2 is left out with question 5: row 4 is broken" in str(rows[0])


def test_wrapped_and_labelled_base64_is_read(table, image_bytes):
    plain = base64.b64encode(image_bytes("red")).decode()
    rows = table(
        {"index": 0, "image": f"data:image/png;base64,{plain}"}, {"index": 1, "image": plain.rstrip("=")}
    )
    assert {row.images for row in rows} == {(image_bytes("red"),)}


def test_secret_answers_are_no_fault_of_the_test_file(table):
    rows = table({"index": 0, "answer": ""}, benchmark=circular.MMBenchTest)
    assert [row.answer for row in rows] == [None, None]


def test_more_than_four_options_are_asked(folder, image_bytes):
    image = base64.b64encode(image_bytes("red")).decode()
    text = "index\tquestion\tA\tB\tC\tD\tE\tanswer\timage\n0\tWhat?\ta\tb\tc\td\te\tE\t" + image + "\n"
    folder.text("mmbench/mmbench_dev_20230712.tsv", text)
    questions, broken = load_questions("mmbench_dev", circular.MMBench(), folder.root, None)
    assert (len(questions), broken) == (5, [])
    assert "\nE. e\n" in questions[0].prompt
    assert questions[0].answer == 4


def test_a_turn_before_its_base_row_counts_for_its_category(table):
    turned = {"A": "dog", "B": "cat", "answer": "A", "l2-category": "fine"}
    rows = table(
        {"index": 1000006, **turned},
        {"index": 5, "l2-category": "coarse"},
        {"index": 6, "l2-category": "fine"},
    )
    benchmark = circular.MMBench()
    said = {"1000006": "A", "5": "A", "6": "B"}
    answered = [Answered(row, said[row.id], benchmark.score(row, said[row.id])) for row in rows]
    metrics = benchmark.summarise(answered).metrics
    assert metrics == {"accuracy": 50.0, "circular_accuracy": 50.0, "fine": 100.0, "coarse": 0.0}


def test_a_row_without_any_option_is_told_as_that(table):
    (row,) = table({"index": 3, "A": "", "B": " "})
    assert str(row).endswith("row 2 is malformed: all of its options are empty")


def test_a_repeated_row_is_neither_asked_twice_nor_taken_for_a_turn(table):
    rows = [{"index": 3}, {"index": 4}, {"index": 3, "question": "What else?"}]
    found = table(*rows)
    broken = [row for row in found if isinstance(row, Broken)]
    assert [one.why for one in broken] == ["has the index 3 again, which row 2 has"]
    asked = [row.id for row in found if not isinstance(row, Broken)]
    assert asked == ["3", "1000003", "4", "1000004"]
