"""`owl2 generate`: a JSONL file of prompts to a JSONL file of answers.

A line of the input:

    {"id": "a1", "messages": [{"role": "user", "content": "<|image|>What is this?"}],
     "images": ["cat.png"], "max_new_tokens": 50, "temperature": 0.7, "seed": 3}

"prompt" (a finished text) may stand in place of "messages"; with
"control_tokens": true, `<s>`, `</s>` and `<unk>` in it are those ids and no
text. Messages are read as the server reads them (`owl2_jax.data.turns`): roles
in any order, an assistant's content may be null. Paths are relative to the input
file; "id" is the line's number when left out. All fields but the prompt are
optional, and win over the command line. The answers stand in the order of the
prompts:

    {"id": "a1", "text": "A cat.", "finish_reason": "stop", "prompt_tokens": 23,
     "new_tokens": 4, "logprob": -0.71}

or {"id": "a1", "error": "..."} for a prompt that cannot be answered. With "n" above 1, what is
told of an answer stands in "choices", once for each: {"id": "a1", "prompt_tokens": 23,
"choices": [{"text": ...}, ...]}.

What the answer must look like is told as to the server: "response_format" as in OpenAI's API,
or "structured_outputs" as in vLLM's.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import reprlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owl2_jax.checkpoint.param_files import check_checkpoint
from owl2_jax.cli.answering import add_end_arguments, add_sampling_arguments, ends_of, sampling_of
from owl2_jax.cli.common import (
    add_checkpoint_arguments,
    add_engine_arguments,
    add_int8_argument,
    add_length_argument,
    add_mesh_argument,
    engine_config,
    load_model,
)
from owl2_jax.core.append_file import AppendFile
from owl2_jax.core.errors import Owl2Error, counted, unknown_name
from owl2_jax.core.file_writing import check_file, is_stream, write_bytes
from owl2_jax.core.json_files import json_lines, read_json_object, write_json
from owl2_jax.core.locks import locked
from owl2_jax.core.paths import absolute, in_bucket
from owl2_jax.core.ranges import Beams, LengthPenalty
from owl2_jax.core.text_files import read_bytes
from owl2_jax.core.texts import BucketPath
from owl2_jax.data.sources.image_files import image_names, is_blank
from owl2_jax.inference.sampling import Choices

if TYPE_CHECKING:
    from owl2_jax.inference.engine import Engine
    from owl2_jax.inference.request import Request, Result
    from owl2_jax.inference.sampling import Sampling

_PENALTIES = ("presence_penalty", "frequency_penalty", "logit_bias")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", *_PENALTIES, "seed")
_REQUEST = (
    "max_new_tokens", "min_new_tokens", "stop", "stop_token_ids", "ignore_eos", "image_mode",
    "control_tokens",
)  # fmt: skip
_FORM = ("response_format", "structured_outputs")
_FIELDS = ("id", "messages", "prompt", "images", "n", *_REQUEST, *_FORM, *_SAMPLING)
SOME_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 generate`."""
    add_checkpoint_arguments(parser)
    add_int8_argument(parser)
    add_mesh_argument(parser)
    parser.add_argument("--input", required=True, type=BucketPath, metavar="FILE.jsonl")
    parser.add_argument(
        "--output", required=True, type=BucketPath, metavar="FILE.jsonl",
        help="what it holds already is not asked again; /dev/stdout for a pipe",
    )  # fmt: skip
    add_length_argument(parser)
    parser.add_argument(
        "--beams", type=Beams, metavar="N", help="beam search; by default one token after the other"
    )
    parser.add_argument(
        "--length-penalty",
        type=LengthPenalty,
        default=1.0,
        help="of beam search; more is longer (default: 1)",
    )
    add_engine_arguments(parser, "requests")
    parser.add_argument(
        "-n", "--choices", type=Choices, default=1, metavar="N", help="answers to each prompt (default: 1)"
    )
    add_sampling_arguments(parser)
    add_end_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 generate`; returns the exit code."""
    check_checkpoint(args.checkpoint)
    if not in_bucket(args.output) and not args.output.parent.is_dir():
        raise Owl2Error(f"the folder {args.output.parent} of the output does not exist")
    check_file(args.output, "--output")
    if _is_same_file(args.output, args.input):
        raise Owl2Error(f"--output {args.output} is the --input file; give another name for the answers")
    rows = read_rows(args.input)
    sampling, ends = sampling_of(args), ends_of(args)
    if args.beams is not None:
        from owl2_jax.inference.beam import check_settings as check_beams

        check_beams(args.beams, args.length_penalty)
    settings = {"max_new_tokens": args.max_new_tokens, **ends}
    requests = [to_requests(row, args.input.parent, sampling, settings, args.choices) for row in rows]
    stays = in_bucket(args.output) or not is_stream(args.output)  # a pipe is read by whoever reads it
    with only_writer(args.output) if stays else nullcontext():
        done = 0
        if stays:
            check_settings(args.output, settings_of(args, sampling, ends))
            done = finished(args.output, [row["id"] for row in rows])
        failed = write_answers(rows[done:], requests[done:], done, args)
    print(
        f"{counted(len(rows), 'answer')} in {args.output}"
        + (f", {done} of them from before" if done else ""),
        file=sys.stdout if stays else sys.stderr,
    )
    if failed:
        print(
            f"{counted(failed, 'prompt')} could not be answered; see 'error' in {args.output}",
            file=sys.stderr,
        )
    return SOME_FAILED if failed else 0


def only_writer(output: Path) -> AbstractContextManager:
    """The lock of an output. Raises `LockedError`: somebody else writes there, and who."""
    return locked(output.with_name(f"{output.name}.lock"), f"--output {output}")


def _is_same_file(one: Path, other: Path) -> bool:
    if in_bucket(one) or in_bucket(other):
        return one == other
    return one.exists() and one.samefile(other)


def write_answers(
    rows: Sequence[Mapping[str, Any]],
    requests: Sequence[Sequence[Request]],
    done: int,
    args: argparse.Namespace,
) -> int:
    """Asks and appends the answers, each when it is there; returns how many are errors."""
    if not rows:
        return 0
    failed, engine = 0, make_engine(args)
    with AppendFile(args.output) as out, progress_bar(done, done + len(rows)) as advance:
        answers = ask(engine, list(chain.from_iterable(requests)), args)
        for row, choices in zip(rows, requests, strict=True):
            line = to_line(row["id"], list(islice(answers, len(choices))))
            failed += "error" in line
            out.write_json(line)
            advance()
    return failed


def ask(
    engine: Engine, requests: Sequence[Request], args: argparse.Namespace
) -> Iterator[Result | Owl2Error]:
    """An answer, or what is wrong with the request, for each request in order."""
    if args.beams is None:
        yield from engine.answers(requests)
        return
    from owl2_jax.inference.beam import beam_search

    errors = {n: error for n, request in enumerate(requests) if (error := engine.fault(request))}
    sound = (request for n, request in enumerate(requests) if n not in errors)
    found = beam_search(engine.runner, sound, args.beams, args.length_penalty)
    for number in range(len(requests)):
        yield errors[number] if number in errors else next(found)[0]


def make_engine(args: argparse.Namespace) -> Engine:
    """The engine with the checkpoint and the sizes of the arguments. Raises `Owl2Error`."""
    from owl2_jax.inference.engine import Engine

    model = load_model(args, args.int8)
    return Engine(model, engine_config(model, args))


def read_rows(path: Path) -> list[dict[str, Any]]:
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


def _read_row(where: str, number: int, row: Any) -> dict[str, Any]:
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
    row: Mapping[str, Any], folder: Path, sampling: Sampling, settings: Mapping[str, Any], choices: int
) -> list[Request]:
    """A line as one request or several; raises `Owl2Error` for settings out of range, naming the id.

    Args:
      settings: those of a `Request` that hold where the line has no others.
      choices: answers to the line, where it does not say how many.
    """
    from owl2_jax.core.fields import check_value
    from owl2_jax.inference.request import Request
    from owl2_jax.inference.structured import from_fields

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


def to_line(row_id: str | int, answers: Sequence[Result | Owl2Error]) -> dict[str, Any]:
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


def settings_of(args: argparse.Namespace, sampling: Sampling, ends: Mapping[str, Any]) -> dict[str, Any]:
    """What the answers in an output file have in common; newer settings only where they change something."""
    from owl2_jax.checkpoint.identity import checkpoint_identity

    more = {name: list(value) if isinstance(value, tuple) else value for name, value in ends.items()}
    if "structured" in more:
        more["structured"] = dataclasses.asdict(more["structured"])
    if args.choices > 1:
        more["choices"] = args.choices
    chosen = dataclasses.asdict(sampling)
    return more | {
        "checkpoint": str(absolute(args.checkpoint)),
        "checkpoint_files": checkpoint_identity(args.checkpoint),
        "dtype": args.dtype,
        "input": hashlib.sha256(read_bytes(args.input)).hexdigest()[:16],
        "int8": args.int8,
        "beams": args.beams,
        "length_penalty": args.length_penalty,
        "max_new_tokens": args.max_new_tokens,
        **{name: value for name, value in chosen.items() if value or name not in _PENALTIES},
    }


def check_settings(output: Path, settings: Mapping[str, Any]) -> None:
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


@contextmanager
def progress_bar(done: int, total: int) -> Iterator[Any]:
    """Yields a function that moves a bar on the error stream on by one."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda: bar.advance(task)
