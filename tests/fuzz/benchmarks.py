"""Files of benchmarks with mutated rows, and answers of models.

A mutated row is a question of what stands in it, or is named as broken; the rows
beside it stay what they were; scoring never raises. A letter that was written
down in one of many ways is read as that letter.
"""

from __future__ import annotations

import copy
import csv
import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import mmmu
from owl2_jax.evals.base import Benchmark, Question
from owl2_jax.evals.loading import load_questions
from owl2_jax.evals.metrics.choice import LETTERS, parse_choice
from owl2_jax.evals.registry import get_benchmark
from owl2_jax.evals.rows import Broken, parse_rows
from tests.data.fuzz import mutated, restructured
from tests.fuzz.benchmark_files import KINDS, file_text, write_originals

WORDS = (
    "red",
    "a blue car",
    "nan",
    "NA",
    "None",
    "null",
    "12",
    "-1",
    "$7",
    "C",
    'the "red" one',
    "x^2 + y",
    "\u7ea2\u8272",
    "It's 5 p.m.",
    "A and B",
    "two\nlines",
    " spaced ",
)
# An image of one pixel; nothing here looks at it.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    """Calls without an end: answers, tables, rows of every other kind of file."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        originals = {name: write_originals(root, name) for name in KINDS}
        names = list(KINDS)
        while True:
            yield partial(check_written_letter, rng)
            yield partial(check_any_answer, rng)
            yield partial(check_table, root, rng)
            yield partial(check_mmmu, rng)
            name = names[rng.integers(len(names))]
            yield partial(check_rows, root, name, originals[name], rng)


# ---- answers -----------------------------------------------------------------

_AROUND = (
    "{}",
    "({})",
    "[{}]",
    "**{}**",
    "`{}`",
    "__{}__",
    '"{}"',
    "\\boxed{{{}}}",
    "$\\boxed{{\\text{{{}}}}}$",
    "<answer>{}</answer>",
    "{}.",
    "{})",
    "\u3010{}\u3011",
    "{}</s>",
    " {}\n",
    "*{}*",
    "\\textbf{{{}}}",
)
_SAID = (
    "{}",
    "The answer is {}",
    "Answer: {}",
    "ANSWER - {}",
    "The correct option is {}",
    "Final answer:\n\n{}",
    "I would choose {}",
    "It must be {}",
    "\u7b54\u6848\u662f{}",
    "I think the best answer is {}",
)
_PIECES = (
    *"ABCDEIabc",
    " ",
    "  ",
    "\n",
    ".",
    ",",
    "(",
    ")",
    "the answer is",
    "not",
    "is",
    "correct",
    "wrong",
    "red",
    "blue",
    "and",
    "or",
    "**",
    "$",
    "\\boxed{",
    "}",
    "<answer>",
    "</answer>",
    "\u662f",
    "\u7b54\u6848",
    "option",
    ":",
    "-",
    "'",
    "n't",
    "\uff1a",
    "\uff22",
    "\ud800",
    "\x00",
    "<think>",
    "\\text{",
    "_",
    "|",
    "1",
    "2",
)


def check_written_letter(rng: np.random.Generator) -> None:
    """A letter in some marks after some words is read as itself."""
    options = ["red", "blue", "green", "black", "white", "grey"][: rng.integers(2, 7)]
    wanted = int(rng.integers(len(options)))
    around, said = _AROUND[rng.integers(len(_AROUND))], _SAID[rng.integers(len(_SAID))]
    answer = said.format(around.format(LETTERS[wanted]))
    if rng.integers(4) == 0:
        listing = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
        answer = f"{listing}\n{answer}"
    found = parse_choice(answer, options)
    assert found == wanted, f"{answer!r} of {options} is read as {found}"


def check_any_answer(rng: np.random.Generator) -> None:
    """Whatever is said, it is one of the options or none."""
    pieces = [_PIECES[number] for number in rng.integers(len(_PIECES), size=rng.integers(16))]
    answer = "".join(piece + " " * int(rng.integers(2)) for piece in pieces)
    options = [WORDS[number] for number in rng.integers(len(WORDS), size=rng.integers(2, 12))]
    letters = LETTERS if rng.integers(2) else "".join(sorted(rng.permutation(list(LETTERS))[: len(options)]))
    found = parse_choice(answer, options, letters)
    assert found is None or 0 <= found < len(options), f"{answer!r} is read as {found} of {options}"


# ---- tables ------------------------------------------------------------------


def check_table(root: Path, rng: np.random.Generator) -> None:
    """Options with gaps and of any words keep their letters; a changed file raises at most `Owl2Error`."""
    rows = [_table_row(number, rng) for number in range(3)]
    columns = ["index", "question", *"ABCD", "answer", "image"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, delimiter="\t", lineterminator=("\n", "\r\n")[rng.integers(2)])
    writer.writeheader()
    writer.writerows(rows)
    data = ("\ufeff" * int(rng.integers(2)) + text.getvalue()).encode()
    path = root / "ccbench/CCBench.tsv"
    path.parent.mkdir(exist_ok=True)
    if rng.integers(2):
        path.write_bytes(mutated(data, rng))
        read_all("ccbench", root)
        return
    path.write_bytes(data)
    found = read_all("ccbench", root)
    assert found is not None
    for row in rows:
        questions = [one for one in found[0] if one.id == str(int(float(row["index"])))]
        assert questions, f"{row} is broken: {found[1]}"
        question = questions[0]
        letters = [letter for letter in "ABCD" if row[letter].strip()]
        assert [*question.info["letters"]] == letters
        assert question.info["choices"] == [row[letter] for letter in letters]
        assert letters[question.answer] == row["answer"]


def _table_row(number: int, rng: np.random.Generator) -> dict[str, str]:
    cells = {letter: WORDS[rng.integers(len(WORDS))] for letter in "ABCD"}
    for letter in rng.permutation([*"ABCD"])[: rng.integers(3)]:
        cells[letter] = ("", " ")[rng.integers(2)]
    filled = [letter for letter in "ABCD" if cells[letter].strip()]
    index = (f"{number}", f"{number}.0")[rng.integers(2)]
    answer = filled[rng.integers(len(filled))]
    return {
        "index": index,
        "question": WORDS[rng.integers(len(WORDS))],
        **cells,
        "answer": answer,
        "image": PIXEL,
    }


def check_mmmu(rng: np.random.Generator) -> None:
    """A row of MMMU with one value changed."""
    options = [WORDS[number] for number in rng.integers(len(WORDS), size=rng.integers(2, 27))]
    row = {
        "id": "a",
        "question": "<image 1> What?",
        "options": repr(options),
        "answer": "B",
        "question_type": "multiple-choice",
        "image_1": {"bytes": b"x", "path": "a.png"},
    }
    if rng.integers(2):
        row |= {
            "question_type": "open",
            "answer": ("[H+]", "['1', 'one']", "[0, 1]", "(0, 1]")[rng.integers(4)],
        }
    (whole,) = parse_rows(Path("f"), [row], partial(mmmu.read_question, "Math"))
    assert isinstance(whole, Question), whole
    assert whole.info["choices"] == (options if row["question_type"] != "open" else [])
    key = [*row][rng.integers(len(row))]
    if key != "image_1":
        row[key] = restructured(row[key], rng)
    else:
        row[key] = {"bytes": None}
    for read in parse_rows(Path("f"), [row], partial(mmmu.read_question, "Math")):
        if isinstance(read, Question):
            mmmu.MMMU().score(read, "The answer is B")


# ---- JSON --------------------------------------------------------------------


def check_rows(root: Path, name: str, whole: list[Question], rng: np.random.Generator) -> None:
    """One of three rows is changed: the others stay, and it is read as what it is, or is broken."""
    path, row, shape = KINDS[name]
    rows = [row(number) for number in range(3)]
    changed = int(rng.integers(3))
    rows[changed] = restructured(copy.deepcopy(rows[changed]), rng)
    text = file_text(rows, shape)
    spoilt = rng.integers(4) == 0
    (root / path).write_bytes(mutated(text.encode(), rng) if spoilt else text.encode())
    found = read_all(name, root)
    if found is None or spoilt:
        return
    questions, broken = found
    kept = {question.id: question for question in questions}
    for number, question in enumerate(whole):
        if number != changed and not any("has the id" in one.why for one in broken):
            assert kept.get(question.id) == question, f"{name}: row {changed} changed question {question.id}"
    written = _strings(rows[changed])
    for question in questions:
        for choice in question.info.get("choices", ()) if question not in whole else ():
            assert choice in written, f"{name}: the option {choice!r} stands nowhere in {rows[changed]}"


def read_all(name: str, root: Path) -> tuple[list[Question], list[Broken]] | None:
    """(questions, broken rows), each question scored once; None where the file is refused as a whole."""
    benchmark: Benchmark = get_benchmark(name)
    try:
        questions, broken = load_questions(name, benchmark, root, None)
    except Owl2Error as error:
        if "\n" in str(error):
            raise AssertionError("an error of more than one line") from error
        return None
    for question in questions:
        benchmark.score(question, "The answer is B")
    return questions, broken


def _strings(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict | list):
        return set().union(*map(_strings, value.values() if isinstance(value, dict) else value))
    return set()
