"""Files that are not what their authors publish: whatever stands in them, the file is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals.loading import load_questions
from owl2_jax.evals.registry import BENCHMARKS, get_benchmark

WITH_FILES = [name for name in BENCHMARKS if get_benchmark(name).files]
# Benchmarks of folders read these in them.
INSIDE = {
    "mmlu/data/test": ("shapes_test.csv",),
    "mmlu/data/dev": ("shapes_dev.csv",),
    "bbh/bbh": ("shapes.json",),
    "bbh/cot-prompts": ("shapes.txt",),
}
CONTENTS = {
    "empty": b"",
    "cut off": b'{"questions": [{"question_id": 1, "im',
    "nested": b"[" * 100_000,
    "null": b"null",
    "a number": b"3",
    "a text": b'"text"',
    "an empty list": b"[]",
    "a list of numbers": b"[1, 2]",
    "a list of objects": b'[{"a": 1}]',
    "an object": b'{"a": {"b": 1}}',
    "lists under the usual names": (
        b'{"questions": [3], "annotations": [3], "images": [3], "data": [3], "test": [3], "examples": [3],'
        b' "question_type": [3]}'
    ),
    "numbers under the usual names": (
        b'{"questions": 3, "annotations": 3, "images": 3, "data": 3, "test": 3, "examples": 3,'
        b' "question_type": 3}'
    ),
    "a web page": b"<!doctype html>\n<html><body>404</body></html>\n",
    "a table of something else": b"a\tb\n1\t2\n",
    "no text": b"\xff\xfe\x00\x01PK\x03\x04",
}


def fill(root: Path, benchmark, content: bytes) -> None:
    for file in benchmark.files:
        path = root / file.path
        if path.suffix or file.path in INSIDE:
            paths = [path / name for name in INSIDE[file.path]] if file.path in INSIDE else [path]
            for each in paths:
                each.parent.mkdir(parents=True, exist_ok=True)
                each.write_bytes(content)
        else:
            path.mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("name", WITH_FILES)
def test_whatever_a_file_holds_it_is_named(name, tmp_path):
    benchmark = get_benchmark(name)
    for kind, content in CONTENTS.items():
        root = tmp_path / kind
        fill(root, benchmark, content)
        with pytest.raises(Owl2Error) as caught:
            load_questions(name, benchmark, root, None)
        message = str(caught.value)
        # A list without rows is a fine file of no questions.
        assert str(root) in message or f"{name} has no questions" in message, (kind, message)
        assert "\n" not in message, (kind, message)
