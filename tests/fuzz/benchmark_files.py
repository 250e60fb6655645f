"""Small whole files of benchmarks, in the shapes that their authors publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from owl2_jax.evals.base import Question
from owl2_jax.evals.loading import load_questions
from owl2_jax.evals.registry import get_benchmark

_CHOICE = {"question": "Which?", "choices": ["red", "blue", "green"]}
_ANSWERS = [{"answer": word, "answer_id": number} for number, word in enumerate(("red", "red", "blue"), 1)]


def _vqa(number: int) -> dict[str, Any]:
    return {"question_id": number, "image_id": number, "question": "What?"}


def _arc(number: int) -> dict[str, Any]:
    choices = [{"text": text, "label": label} for text, label in (("red", "A"), ("blue", "B"))]
    return {"id": f"q{number}", "question": {"stem": "Which?", "choices": choices}, "answerKey": "B"}


# Benchmark: (the file that is mutated, one of its rows, how rows stand in it).
_LIST, _LINES, _OBJECT = "list", "lines", "object"
KINDS: dict[str, tuple[str, Callable[[int], dict[str, Any]], str]] = {
    "aokvqa_choice_val": (
        "aokvqa/aokvqa_v1p0_val.json",
        lambda n: {**_CHOICE, "image_id": n, "question_id": f"q{n}", "correct_choice_idx": 1},
        _LIST,
    ),
    "scienceqa_img": (
        "scienceqa/problems.json",
        lambda n: {**_CHOICE, "answer": 2, "hint": "Look.", "image": "image.png", "subject": "science"},
        _OBJECT,
    ),
    "seed_bench": (
        "seed_bench/SEED-Bench.json",
        lambda n: {
            "answer": "B",
            **{f"choice_{letter}": f"{letter} text" for letter in "abcd"},
            "data_id": f"{n}.jpg",
            "data_type": "image",
            "question": "Which?",
            "question_id": str(n),
            "question_type_id": 1,
        },
        "questions",
    ),
    "qbench_dev": (
        "qbench/llvisionqa_dev.json",
        lambda n: {
            "img_path": f"{n}.jpg",
            "question": "How?",
            "correct_ans": "Good",
            "candidates": ["Good", "Bad"],
        },
        _LIST,
    ),
    "vqav2_val": ("vqav2/v2_OpenEnded_mscoco_val2014_questions.json", _vqa, "questions"),
    "okvqa_val": (
        "okvqa/mscoco_val2014_annotations.json",
        lambda n: {"question_id": n, "answers": _ANSWERS, "answer_type": "other"},
        "annotations",
    ),
    "gqa_testdev": (
        "gqa/testdev_balanced_questions.json",
        lambda n: {
            "imageId": f"n{n}",
            "question": "What?",
            "answer": "red",
            "types": {"structural": "query"},
        },
        _OBJECT,
    ),
    "textvqa_val": (
        "textvqa/TextVQA_0.5.1_val.json",
        lambda n: {"question_id": n, "image_id": f"i{n}", "question": "What?", "answers": ["red", "blue"]},
        "data",
    ),
    "vizwiz_val": (
        "vizwiz/val.json",
        lambda n: {"image": f"{n}.jpg", "question": "What?", "answers": _ANSWERS, "answer_type": "other"},
        _LIST,
    ),
    "ocrvqa_test": (
        "ocrvqa/dataset.json",
        lambda n: {"imageURL": "http://x/a.jpg", "questions": ["Who?"], "answers": ["me"], "split": 3},
        _OBJECT,
    ),
    "textcaps_val": (
        "textcaps/TextCaps_0.1_val.json",
        lambda n: {"image_id": f"i{n}", "reference_strs": ["a sign", "the sign"]},
        "data",
    ),
    "coco_captions": (
        "coco/dataset_coco.json",
        lambda n: {
            "split": "test",
            "filepath": "val2014",
            "filename": f"{n}.jpg",
            "cocoid": n,
            "sentences": [{"raw": "a cat"}, {"raw": "the cat"}],
        },
        "images",
    ),
    "pope_random": (
        "pope/coco_pope_random.json",
        lambda n: {"question_id": n, "image": f"{n}.jpg", "text": "Is there a dog?", "label": "no"},
        _LINES,
    ),
    "arc_easy": ("arc/ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Test.jsonl", _arc, _LINES),
    "mm_vet": (
        "mm-vet/mm-vet.json",
        lambda n: {
            "imagename": f"{n}.png",
            "question": "What?",
            "answer": "x",
            "capability": ["ocr", "math"],
        },
        _OBJECT,
    ),
    "mmhal_bench": (
        "mmhal-bench/response_template.json",
        lambda n: {
            "question_type": "counting",
            "image_src": "http://x/a.jpg",
            "question": "How many?",
            "gt_answer": "2",
        },
        _LIST,
    ),
    "msrvtt_qa": (
        "msrvtt_qa/test_qa.json",
        lambda n: {"answer": "couch", "id": n, "question": "what?", "video_id": n},
        _LIST,
    ),
}


def file_text(rows: list[Any], shape: str) -> str:
    """Rows as they stand in a file of that shape."""
    if shape == _LINES:
        return "".join(json.dumps(row) + "\n" for row in rows)
    if shape == _LIST:
        return json.dumps(rows)
    named = {f"q{number}": row for number, row in enumerate(rows)}
    return json.dumps(named if shape == _OBJECT else {shape: rows, "question_type": {"Scene": 1}})


def write_originals(root: Path, name: str) -> list[Question]:
    """Writes all files of a benchmark, and reads its questions."""
    benchmark = get_benchmark(name)
    path, row, shape = KINDS[name]
    for file in benchmark.files:
        full = root / file.path
        (full.parent if full.suffix else full).mkdir(parents=True, exist_ok=True)
    (root / path).write_text(file_text([row(number) for number in range(3)], shape))
    for other, rows, key in _BESIDE.get(name, ()):
        (root / other).write_text(json.dumps({key: rows}))
    questions, broken = load_questions(name, benchmark, root, None)
    assert not broken
    assert len(questions) == 3
    return questions


_BESIDE = {
    "scienceqa_img": [("scienceqa/pid_splits.json", ["q0", "q1", "q2"], "test")],
    "vqav2_val": [
        (
            "vqav2/v2_mscoco_val2014_annotations.json",
            [{"question_id": number, "answers": _ANSWERS, "answer_type": "other"} for number in range(3)],
            "annotations",
        )
    ],
    "okvqa_val": [
        (
            "okvqa/OpenEnded_mscoco_val2014_questions.json",
            [_vqa(number) for number in range(3)],
            "questions",
        )
    ],
}
