"""A JSONL file of answers in the order of their prompts, which an interrupted run goes on with.

A line:

    {"id": "a1", "text": "A cat.", "finish_reason": "stop", "prompt_tokens": 23,
     "new_tokens": 4, "logprob": -0.71}

or {"id": "a1", "error": "..."} for a prompt that cannot be answered. With "n" above 1, what is
told of an answer stands in "choices", once for each: {"id": "a1", "prompt_tokens": 23,
"choices": [{"text": ...}, ...]}. Beside the file lies FILE.settings.json, what its answers
have in common: others are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from owl2_jax.core.append_file import AppendFile
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import write_bytes
from owl2_jax.core.json_files import Json, JsonObject, read_json_object, write_json
from owl2_jax.core.text_files import read_bytes
from owl2_jax.inference.request import Result


def check_settings(output: Path, settings: Mapping[str, Json]) -> None:
    """Notes the settings beside the output, or raises `Owl2Error` when others are noted."""
    note = output.with_name(output.name + ".settings.json")
    if not output.exists():
        write_json(note, settings)
        return
    try:
        noted = read_json_object(note)
    except Owl2Error:
        raise Owl2Error(
            f"{output} exists and {note} does not tell what made it; give another --output"
        ) from None
    told = {"checkpoint_files": "checkpoint (its files have changed since)"}
    different = [
        told.get(name, name) for name in {**settings, **noted} if settings.get(name) != noted.get(name)
    ]
    if different:
        raise Owl2Error(
            f"{output} was made with another {', '.join(different)}; "
            "give another --output, or the same settings to go on"
        )


def finished(output: Path, ids: Sequence[str | int]) -> int:
    """How many prompts the output answers already; a half-written last line is cut off.

    Raises:
      Owl2Error: its lines are not those of these prompts.
    """
    if not output.exists():
        return 0
    content = read_bytes(output)
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        write_bytes(output, whole)
    try:
        found = [json.loads(line)["id"] for line in whole.splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise Owl2Error(f"{output} is no output of this command ({error}); give another --output") from error
    if found != list(ids[: len(found)]):
        raise Owl2Error(f"{output} answers other prompts than these; give another --output")
    return len(found)


def write_answers(
    output: Path,
    prompts: Sequence[tuple[str | int, int]],
    answers: Iterator[Result | Owl2Error],
    advance: Callable[[], None],
) -> int:
    """Appends the answers, each when it is there; returns how many prompts could not be answered.

    Args:
      prompts: the id of each, and how many answers it gets.
      answers: those of all prompts, in order.
      advance: called after every prompt.
    """
    failed = 0
    with AppendFile(output) as out:
        for row_id, count in prompts:
            line = to_line(row_id, list(islice(answers, count)))
            failed += "error" in line
            out.write_json(line)
            advance()
    return failed


def to_line(row_id: str | int, answers: Sequence[Result | Owl2Error]) -> JsonObject:
    """What is told of the answers to a prompt, or what is wrong with the first that failed."""
    told, prompt_tokens = [], 0
    for answer in answers:
        wrong = str(answer) if isinstance(answer, Owl2Error) else answer.error
        if wrong is not None:
            return {"id": row_id, "error": wrong}
        prompt_tokens = answer.prompt_tokens
        told.append(
            {
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "prompt_tokens": prompt_tokens,
                "new_tokens": len(answer.token_ids),
                "logprob": round(sum(answer.logprobs), 4),
            }
        )
    if len(told) == 1:
        return {"id": row_id, **told[0]}
    for one in told:
        del one["prompt_tokens"]
    return {"id": row_id, "prompt_tokens": prompt_tokens, "choices": told}
