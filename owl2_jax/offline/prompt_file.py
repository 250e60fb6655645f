"""A JSONL file of prompts, as requests.

A line:

    {"id": "a1", "messages": [{"role": "user", "content": "<|image|>What is this?"}],
     "images": ["cat.png"], "max_new_tokens": 50, "temperature": 0.7, "seed": 3}

"prompt" (a finished text) may stand in place of "messages"; with
"control_tokens": true, `<s>`, `</s>` and `<unk>` in it are those ids and no
text. Messages are read as the server reads them (`owl2_jax.data.turns`): roles
in any order, an assistant's content may be null. Paths are relative to the input
file; "id" is the line's number when left out. All fields but the prompt are
optional, and win over the settings that hold for the file.

What the answer must look like is told as to the server: "response_format" as in OpenAI's API,
or "structured_outputs" as in vLLM's.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.fields import check_value
from owl2_jax.core.json_files import Json, JsonObject, json_lines
from owl2_jax.data.sources.image_files import image_names, is_blank
from owl2_jax.inference.request import Request
from owl2_jax.sampling.params import Choices, Sampling
from owl2_jax.structured.form import from_fields

PENALTIES: Final = ("presence_penalty", "frequency_penalty", "logit_bias")
_SAMPLING: Final = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", *PENALTIES, "seed")
_REQUEST: Final = (
    "max_new_tokens", "min_new_tokens", "stop", "stop_token_ids", "ignore_eos", "image_mode",
    "control_tokens",
)  # fmt: skip
_FORM: Final = ("response_format", "structured_outputs")
_FIELDS: Final = ("id", "messages", "prompt", "images", "n", *_REQUEST, *_FORM, *_SAMPLING)


def read_rows(path: Path) -> list[JsonObject]:
    """The objects of a JSONL file, each with its "id".

    Raises:
      Owl2Error: the file cannot be read, or a line is no prompt, naming the line.
    """
    lines = json_lines(path, one_of_each_key=True)
    rows = [_read_row(f"{path}, line {number}", number, row) for number, row in lines]
    if not rows:
        raise Owl2Error(f"{path} holds no prompts; expected one JSON object a line")
    ids = set()
    for row in rows:
        if row["id"] in ids:
            raise Owl2Error(f"{path} has the id {row['id']!r} twice; ids must differ")
        ids.add(row["id"])
    return rows


def _read_row(where: str, number: int, row: Json) -> JsonObject:
    if not isinstance(row, dict):
        raise Owl2Error(f"{where} is {reprlib.repr(row)}; expected an object")
    for key in row:
        if key not in _FIELDS:
            raise unknown_name(f"field of {where}", key, _FIELDS)
    if ("messages" in row) == ("prompt" in row):
        raise Owl2Error(f"{where} needs either 'messages' or 'prompt'")
    if not isinstance(row.get("prompt", ""), str) or not isinstance(row.get("messages", []), list):
        raise Owl2Error(f"{where}: 'prompt' is a text and 'messages' a list of messages")
    given = row.get("images")
    row["images"] = image_names(given)
    named = all(isinstance(image, str) and not is_blank(image) for image in row["images"])
    if row["images"] and not (named and isinstance(given, list)):
        raise Owl2Error(f"{where}: 'images' is {given!r:.80}; expected a list of paths")
    row.setdefault("id", number)
    if not isinstance(row["id"], (str, int)):
        raise Owl2Error(f"{where}: 'id' is a text or a number")
    return row


def to_requests(
    row: Mapping[str, Json], folder: Path, sampling: Sampling, settings: Mapping[str, Any], choices: int
) -> list[Request]:
    """A line as one request or several; raises `Owl2Error` for settings out of range, naming the id.

    Args:
      settings: those of a `Request` that hold where the line has no others.
      choices: answers to the line, where it does not say how many.
    """
    try:
        chosen = {name: row[name] for name in _SAMPLING if name in row}
        settings = {**settings, **{name: row[name] for name in _REQUEST if name in row}}
        if any(name in row for name in _FORM):
            settings["structured"] = from_fields(*(row.get(name) for name in _FORM))
        check_value(Choices, row.get("n", choices), "n")
        request = Request(
            row["prompt"] if "prompt" in row else row["messages"],
            [folder / image for image in row["images"]],
            dataclasses.replace(sampling, **chosen),
            **settings,
        )
        return request.choices(row.get("n", choices))
    except Owl2Error as error:
        raise Owl2Error(f"prompt {row['id']!r}: {error}") from error
