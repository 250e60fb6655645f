"""`owl2 generate`: a JSONL file of prompts to a JSONL file of answers.

The lines of both are told in `offline/prompt_file.py` and `offline/answer_file.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from owl2_jax.checkpoint.param_files import check_checkpoint
from owl2_jax.cli.common import (
    add_checkpoint_arguments,
    add_engine_arguments,
    add_int8_argument,
    add_length_argument,
    add_mesh_argument,
    engine_config,
    load_model,
)
from owl2_jax.cli.sampling_arguments import add_end_arguments, add_sampling_arguments, ends_of, sampling_of
from owl2_jax.core.errors import Owl2Error, counted
from owl2_jax.core.file_writing import check_file, is_stream
from owl2_jax.core.locks import locked
from owl2_jax.core.paths import absolute, in_bucket
from owl2_jax.core.ranges import Beams, LengthPenalty
from owl2_jax.core.text_files import read_bytes
from owl2_jax.core.texts import BucketPath
from owl2_jax.offline.answer_file import check_settings, finished, write_answers
from owl2_jax.offline.prompt_file import PENALTIES, read_rows, to_requests
from owl2_jax.sampling.params import Choices

if TYPE_CHECKING:
    from owl2_jax.inference.request import Request
    from owl2_jax.sampling.params import Sampling

SOME_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 generate`."""
    add_checkpoint_arguments(parser)
    add_int8_argument(parser)
    add_mesh_argument(parser)
    parser.add_argument(
        "--input",
        required=True,
        type=BucketPath,
        metavar="FILE.jsonl",
        help="prompts, a JSON object per line",
    )
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
        from owl2_jax.beam_search.search import check_settings as check_beams

        check_beams(args.beams, args.length_penalty)
    settings = {"max_new_tokens": args.max_new_tokens, **ends}
    requests = [to_requests(row, args.input.parent, sampling, settings, args.choices) for row in rows]
    stays = in_bucket(args.output) or not is_stream(args.output)  # a pipe is read by whoever reads it
    with only_writer(args.output) if stays else nullcontext():
        done = 0
        if stays:
            check_settings(args.output, settings_of(args, sampling, ends))
            done = finished(args.output, [row["id"] for row in rows])
        failed = answer(rows[done:], requests[done:], done, args)
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


def answer(
    rows: Sequence[Mapping[str, Any]],
    requests: Sequence[Sequence[Request]],
    done: int,
    args: argparse.Namespace,
) -> int:
    """Loads the model, asks and appends the answers; returns how many prompts could not be answered."""
    if not rows:
        return 0
    from owl2_jax.inference.engine import Engine

    model = load_model(args, args.int8)
    engine, each = Engine(model, engine_config(model, args)), list(chain.from_iterable(requests))
    if args.beams is None:
        answers = engine.answers(each)
    else:
        from owl2_jax.beam_search.search import beam_answers

        answers = beam_answers(engine, each, args.beams, args.length_penalty)
    prompts = [(row["id"], len(choices)) for row, choices in zip(rows, requests, strict=True)]
    with progress_bar(done, done + len(rows)) as advance:
        return write_answers(args.output, prompts, answers, advance)


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
        **{name: value for name, value in chosen.items() if value or name not in PENALTIES},
    }


@contextmanager
def progress_bar(done: int, total: int) -> Iterator[Callable[[], None]]:
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
