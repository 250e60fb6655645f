"""A file of answers goes on where it was, and takes no others."""

from __future__ import annotations

import json

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.request import Result
from owl2_jax.offline.answer_file import check_settings, finished, to_line, write_answers

ANSWER = Result(
    text="A cat.", token_ids=[5, 6], logprobs=[-0.25, -0.5], finish_reason="stop", prompt_tokens=23
)
TOLD = {"text": "A cat.", "finish_reason": "stop", "new_tokens": 2, "logprob": -0.75}


def test_a_line_tells_of_one_answer_of_several_or_what_is_wrong():
    assert to_line("a", [ANSWER]) == {"id": "a", **TOLD, "prompt_tokens": 23}
    assert to_line("a", [ANSWER, ANSWER]) == {"id": "a", "prompt_tokens": 23, "choices": [TOLD, TOLD]}
    assert to_line(3, [ANSWER, Owl2Error("no")]) == {"id": 3, "error": "no"}


def test_answers_are_written_in_order_and_what_is_there_is_not_written_again(tmp_path):
    output, moved = tmp_path / "out.jsonl", []
    answers = iter([ANSWER, Owl2Error("no"), ANSWER, ANSWER])
    assert write_answers(output, [("a", 1), ("b", 1), ("c", 2)], answers, lambda: moved.append(1)) == 1
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == ["a", "b", "c"]
    assert len(moved) == 3
    with output.open("a") as file:
        file.write('{"id": "d", "te')
    assert finished(output, ["a", "b", "c", "d"]) == 3
    assert output.read_text().endswith("}\n"), "the half line is cut off"
    with pytest.raises(Owl2Error, match="answers other prompts than these"):
        finished(output, ["a", "c", "b"])


def test_answers_of_other_settings_are_refused_by_the_setting(tmp_path):
    output = tmp_path / "out.jsonl"
    check_settings(output, {"seed": 1, "checkpoint_files": "x"})
    output.touch()
    check_settings(output, {"seed": 1, "checkpoint_files": "x"})
    with pytest.raises(Owl2Error, match=r"another seed, checkpoint \(its files have changed since\); give"):
        check_settings(output, {"seed": 2, "checkpoint_files": "y"})
