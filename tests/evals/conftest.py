"""Small files in the exact formats of their authors, and models that answer from a table."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from owl2_jax.evals.asking import Reply
from owl2_jax.evals.base import Answered, Benchmark, Question
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.metrics import captions
from owl2_jax.evals.metrics.choice import LETTERS


class Folder:
    """A data root that files are written into."""

    def __init__(self, root: Path):
        self.root = root

    def text(self, path: str, text: str) -> Path:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        full.write_text(text, encoding="utf-8")
        return full

    def json(self, path: str, value: object) -> Path:
        return self.text(path, json.dumps(value))

    def lines(self, path: str, values: list) -> Path:
        return self.text(path, "".join(json.dumps(value) + "\n" for value in values))

    def image(self, path: str, color: str = "red") -> Path:
        full = self.text(path, "")
        full.write_bytes(png(color))
        return full


def png(color: str = "red") -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(buffer, format="PNG")
    return buffer.getvalue()


class TableModel:
    """A model that looks its answer up by question id; options are answered by letter."""

    name = "table"

    def __init__(self, answers: Mapping[str, str] | Callable[[Question], str]):
        self._answers = answers
        self.asked: list[str] = []

    def replies(self, questions, decoding, image_mode):
        for question in questions:
            self.asked.append(question.id)
            known = self._answers
            text = known(question) if callable(known) else known[question.id]
            if question.options:
                scores = tuple(-float(text != letter) for letter in LETTERS[: len(question.options)])
                yield Reply(question.prompt, text, scores)
            else:
                yield Reply(question.prompt, text)


@pytest.fixture(scope="session")
def one_meteor_process():
    """METEOR's Java start takes seconds; all tests share one process."""
    if shutil.which("java") is None:
        yield
        return
    package = captions._module("meteor.meteor")
    process = package.Meteor()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "Meteor", lambda: process)
        yield


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def image_bytes() -> Callable[[str], bytes]:
    return png


@pytest.fixture
def table_model() -> type[TableModel]:
    return TableModel


@pytest.fixture
def assert_broken(folder):
    """Checks that a benchmark names a broken row with these words, and ends nowhere."""

    def check(benchmark: Benchmark, words: str) -> None:
        rows = [str(row) for row in benchmark.questions(folder.root) if isinstance(row, Broken)]
        assert any(re.search(words, row) for row in rows), rows
        assert all(str(folder.root) in row for row in rows)

    return check


@pytest.fixture
def answer(folder):
    """Answers a benchmark's questions from a table; returns (answered, summary)."""

    def run(benchmark: Benchmark, answers: Mapping[str, str]):
        questions = {question.id: question for question in benchmark.questions(folder.root)}
        assert list(questions) == list(answers), "the table must name every question, in order"
        answered = [
            Answered(questions[name], text, benchmark.score(questions[name], text))
            for name, text in answers.items()
        ]
        return answered, benchmark.summarise(answered)

    return run
