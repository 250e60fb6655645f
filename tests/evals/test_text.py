"""Text-only sets, from their authors' file formats to the final score."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.text import ARC, BBH, MMLU, AGIEval


def mmlu_files(folder):
    dev = "".join(f'Shot {n}?,one,"two, really",three,four,{"ABCDA"[n]}\n' for n in range(5))
    folder.text("mmlu/data/dev/high_school_physics_dev.csv", dev)
    folder.text("mmlu/data/dev/anatomy_dev.csv", dev)
    folder.text("mmlu/data/test/high_school_physics_test.csv", '"What, now?",a,b,c,d,C\nWhy?,a,b,c,d,A\n')
    folder.text("mmlu/data/test/anatomy_test.csv", "Where?,a,b,c,d,D\n")


def test_mmlu_shows_five_examples_and_scores_options(folder, answer):
    mmlu_files(folder)
    answers = {"anatomy/0": "D", "high_school_physics/0": "C", "high_school_physics/1": "B"}
    answered, summary = answer(MMLU(), answers)
    # 2 of 3 questions; subjects 100 and 50.
    assert summary.metrics == pytest.approx(
        {"accuracy": 200 / 3, "mean_of_groups": 75, "anatomy": 100, "high_school_physics": 50}
    )
    question = answered[1].question
    assert question.prompt.startswith(
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "Shot 0?\nA. one\nB. two, really\nC. three\nD. four\nAnswer: A\n\nShot 1?\n"
    )
    assert question.prompt.endswith("Answer: A\n\nWhat, now?\nA. a\nB. b\nC. c\nD. d\nAnswer:")
    assert question.options == (" A", " B", " C", " D")
    assert len(question.shorter) == 5
    assert question.shorter[-1].count("Answer:") == 1


def test_malformed_mmlu_files_are_named(folder, assert_broken):
    mmlu_files(folder)
    folder.text("mmlu/data/test/anatomy_test.csv", "Where?,a,b,c,d,E\n")
    assert_broken(MMLU(), "the answer is 'E'; expected one of A, B, C, D")
    folder.text("mmlu/data/test/anatomy_test.csv", "Where?,a,b,c\n")
    assert_broken(MMLU(), r"row 1 has another number of fields \(4\) than expected \(6\)")
    (folder.root / "mmlu/data/dev/anatomy_dev.csv").unlink()
    with pytest.raises(Owl2Error, match=r"anatomy_dev\.csv is missing"):
        list(MMLU().questions(folder.root))


def test_arc_shows_letters_whatever_the_labels_are(folder, answer, assert_broken):
    def row(name, labels, key):
        choices = [{"text": f"option {label}", "label": label} for label in labels]
        return {"id": name, "question": {"stem": "What melts?", "choices": choices}, "answerKey": key}

    rows = [
        row("Mercury_7175875", "ABCD", "C"),
        row("MCAS_1", "1234", "2"),
        row("NYSEDREGENTS_1", "ABC", "A"),
    ]
    folder.lines("arc/ARC-V1-Feb2018-2/ARC-Challenge/ARC-Challenge-Test.jsonl", rows)
    benchmark = ARC("Challenge", published=65.8)
    answered, summary = answer(benchmark, {"Mercury_7175875": "C", "MCAS_1": "B", "NYSEDREGENTS_1": "B"})
    assert summary.metrics["accuracy"] == pytest.approx(200 / 3)
    assert answered[1].question.prompt == (
        "Question: What melts?\nA. option 1\nB. option 2\nC. option 3\nD. option 4\nAnswer:"
    )
    assert answered[2].question.options == (" A", " B", " C")
    folder.lines("arc/ARC-V1-Feb2018-2/ARC-Challenge/ARC-Challenge-Test.jsonl", [row("x", "ABCD", "E")])
    assert_broken(benchmark, "line 1 is malformed: the answerKey 'E' is none of the labels")


def agieval_files(folder):
    for name in AGIEval.sets:
        row = {
            "passage": "Long ago. " if name == "lsat-rc" else None,
            "question": "How many?",
            "options": ["(A)1", "(B)2", "(C)3", "(D)4", "(E)5"],
            "label": "B",
            "other": None,
            "explanation": None,
        }
        if name == "math":
            row |= {"options": None, "label": None, "answer": "\\frac{1}{2}", "other": {"level": 1}}
        folder.lines(f"agieval/data/v1/{name}.jsonl", [row])


def test_agieval_has_nine_sets_of_choices_and_one_of_formulas(folder, answer):
    agieval_files(folder)
    answers = {f"{name}/0": "B" for name in AGIEval.sets}
    answers |= {"math/0": "$\\frac{1} {2}$.", "sat-math/0": "A"}
    answered, summary = answer(AGIEval(), answers)
    assert summary.metrics["accuracy"] == 90.0
    assert summary.metrics["math"] == 100.0
    by_id = {entry.question.id: entry.question for entry in answered}
    assert by_id["lsat-rc/0"].prompt == (
        "Long ago. Q: How many? Answer Choices: (A)1 (B)2 (C)3 (D)4 (E)5\nA: Among A through E, the answer is"
    )
    assert by_id["math/0"].prompt == "Q: How many?\nA: The answer is"
    assert by_id["math/0"].options == ()


def test_generated_answers_are_read_for_their_letter_or_text(folder, answer):
    agieval_files(folder)
    answers = {f"{name}/0": "(B)" for name in AGIEval.sets}
    answers |= {"math/0": "7", "sat-math/0": "2", "lsat-rc/0": "C, since", "aqua-rat/0": "I do not know"}
    answered, summary = answer(AGIEval(generate=True), answers)
    assert summary.metrics["accuracy"] == 70.0
    assert not any(entry.question.options for entry in answered)
    by_letter = {entry.question.id: entry.question.prompt for entry in answered}
    asked = {question.id: question.prompt for question in AGIEval().questions(folder.root)}
    assert by_letter == asked
    benchmark = MMLU(generate=True)
    assert (benchmark.title, benchmark.published) == ("MMLU, 5-shot, generated", None)
    assert benchmark.decoding.stop == ("\n",)


def test_malformed_agieval_rows_are_named(folder, assert_broken):
    agieval_files(folder)
    folder.lines(
        "agieval/data/v1/aqua-rat.jsonl",
        [{"passage": None, "question": "?", "options": ["(A)1"], "label": "C"}],
    )
    assert_broken(AGIEval(), "expected a list of at least 2 texts")


COT = """Task canary: do not train on this.
-----
Evaluate the expression.

Q: not True is
A: Let's think step by step.
So the answer is False.

Q: True and True is
A: Let's think step by step.
So the answer is True."""


def bbh_files(folder):
    rows = [{"input": "not ( True ) is", "target": "False"}, {"input": "True is", "target": "True"}]
    folder.json("bbh/bbh/boolean_expressions.json", {"canary": "do not train", "examples": rows})
    folder.text("bbh/cot-prompts/boolean_expressions.txt", COT)


def test_bbh_continues_the_authors_chains_of_thought(folder, answer):
    bbh_files(folder)
    answers = {
        "boolean_expressions/0": "not ( True ) is False. So the answer is False.",
        "boolean_expressions/1": "So the answer is False.",
    }
    answered, summary = answer(BBH(), answers)
    assert summary.metrics["accuracy"] == 50.0
    question = answered[0].question
    assert question.prompt.startswith("Evaluate the expression.\n\nQ: not True is\nA:")
    assert question.prompt.endswith("True.\n\nQ: not ( True ) is\nA: Let's think step by step.")
    assert "canary" not in question.prompt
    # With fewer examples, the instruction and the first one stay.
    assert question.shorter[0].startswith("Evaluate the expression.\n\nQ: not True is")
    assert question.shorter[0].count("Q:") == 2
    assert BBH.decoding.stop == ("\n\nQ:",)


def test_malformed_bbh_files_are_named(folder):
    bbh_files(folder)
    folder.text("bbh/cot-prompts/boolean_expressions.txt", "nothing here")
    with pytest.raises(Owl2Error, match="holds no worked example"):
        list(BBH().questions(folder.root))
    (folder.root / "bbh/cot-prompts/boolean_expressions.txt").unlink()
    with pytest.raises(Owl2Error, match=r"boolean_expressions\.txt is missing"):
        list(BBH().questions(folder.root))
