"""`owl2 look`: a page that shows what a model paid attention to while it answered."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.ranges import Count
from owl2_jax.core.texts import BucketPath

if TYPE_CHECKING:
    from owl2_jax.attention_maps.inside import Inside
    from owl2_jax.evals.attention import Mass
    from owl2_jax.inference.loaded_model import LoadedModel

_QUESTIONS: Final = 100
_NEW_TOKENS: Final = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 look`."""
    from owl2_jax.cli.common import add_checkpoint_arguments

    add_checkpoint_arguments(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--image", action="append", type=BucketPath, metavar="FILE", help="an image; again for more"
    )
    asked.add_argument(
        "--benchmark",
        metavar="NAME",
        help="instead of a question: attention on images by layer, mean over the questions of a benchmark "
        "(`owl2 evaluate --list`)",
    )
    parser.add_argument("--question", metavar="TEXT", help="about the images")
    parser.add_argument(
        "--limit", type=Count, metavar="N", help=f"first questions of --benchmark (default: {_QUESTIONS})"
    )
    parser.add_argument(
        "--unrelated",
        action="store_true",
        help="with --benchmark: each question gets the images of another",
    )
    parser.add_argument(
        "--data-root",
        type=BucketPath,
        metavar="DIR",
        help="of the files of --benchmark (default: data)",
    )
    parser.add_argument(
        "--compare",
        type=BucketPath,
        metavar="DIR",
        help="a second model beside the first, as one without module",
    )
    parser.add_argument(
        "--output",
        type=BucketPath,
        default=Path("look.html"),
        metavar="FILE",
        help="a page; of --benchmark, FILE.csv is a table (default: %(default)s)",
    )
    parser.add_argument(
        "--max-new-tokens",
        type=Count,
        metavar="N",
        help=f"longest answer to --question (default: {_NEW_TOKENS})",
    )


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 look`; returns the exit code."""
    from owl2_jax.checkpoint.param_files import check_checkpoint
    from owl2_jax.cli.common import check_image, keep_compiled_programs
    from owl2_jax.core.file_writing import check_file, write_text
    from owl2_jax.core.paths import in_bucket

    if not in_bucket(args.output) and not args.output.parent.is_dir():
        raise Owl2Error(f"--output {args.output}: there is no folder {args.output.parent}")
    check_file(args.output, "--output")
    for checkpoint in filter(None, (args.checkpoint, args.compare)):
        check_checkpoint(checkpoint)
    _check_fits(args)
    for image in args.image or ():
        check_image(image)
    keep_compiled_programs()
    write_text(args.output, _one_question(args) if args.benchmark is None else _benchmark(args))
    print(f"wrote {args.output}")
    return 0


def _check_fits(args: argparse.Namespace) -> None:
    """Raises `Owl2Error` for an option of the other way to look."""
    if args.benchmark is None and args.question is None:
        raise Owl2Error("--question is missing: what to ask about --image")
    if args.benchmark is not None and args.question is not None:
        raise Owl2Error("--benchmark has questions of its own; leave --question out")
    if args.benchmark is not None and args.max_new_tokens is not None:
        raise Owl2Error("--benchmark looks at the first token of every answer; leave --max-new-tokens out")
    if args.benchmark is None and args.unrelated:
        raise Owl2Error("--unrelated exchanges the images of a benchmark's questions; give --benchmark")
    for name in ("limit", "data_root"):
        if args.benchmark is None and getattr(args, name) is not None:
            raise Owl2Error(f"--{name.replace('_', '-')} is of a benchmark's questions; give --benchmark")
    if args.benchmark is None and args.output.suffix == ".csv":
        raise Owl2Error(f"--output {args.output}: one answer is a page (.html); --benchmark has a table")


def _one_question(args: argparse.Namespace) -> str:
    """The answers of the models, token by token."""
    from owl2_jax.attention_maps.inside import look_inside
    from owl2_jax.attention_maps.page import render

    images = [str(image) for image in args.image]

    def inside(checkpoint: Path) -> Inside:
        model = _load(checkpoint, args)
        content = model.prompt_format.image_tag * len(images) + args.question
        messages = [{"role": "user", "content": content}]
        found = look_inside(model, messages, images, args.max_new_tokens or _NEW_TOKENS)
        print(f"{found.name}: {found.answer}")
        return found

    return render(args.question, [inside(checkpoint) for checkpoint in _checkpoints(args)])


def _benchmark(args: argparse.Namespace) -> str:
    """Attention on images over many questions: a page, or a table where the output's name says so."""
    from owl2_jax.attention_maps.page import render_masses
    from owl2_jax.evals.asking import EngineModel
    from owl2_jax.evals.attention import image_mass, mass_csv, with_images, with_unrelated_images
    from owl2_jax.evals.loading import load_questions
    from owl2_jax.evals.registry import get_benchmark
    from owl2_jax.inference.engine import Engine, EngineConfig

    benchmark = get_benchmark(args.benchmark)
    root = args.data_root or Path("data")
    for file in benchmark.files:
        file.require(root)
    read, broken = load_questions(args.benchmark, benchmark, root, args.limit or _QUESTIONS)
    questions = with_images(args.benchmark, read)
    if broken:
        print(f"note: {len(broken)} rows are broken and left out, first {broken[0]}", file=sys.stderr)
    if len(questions) < len(read):
        left = f"{len(read) - len(questions)} of {len(read)} questions"
        print(f"note: {left} have no image or are answered by options: left out", file=sys.stderr)
    if args.unrelated:
        questions = with_unrelated_images(questions)

    def mass(checkpoint: Path) -> Mass:
        asked = EngineModel(Engine(_load(checkpoint, args), EngineConfig(sequences=1)))
        found = image_mass(asked, questions, benchmark.decoding, benchmark.image_mode)
        shares = " ".join(f"{share:.1%}" for share in found.by_layer)
        print(f"{found.name}: attention on images by layer, over {len(questions)} questions: {shares}")
        return found

    masses = [mass(checkpoint) for checkpoint in _checkpoints(args)]
    if args.output.suffix == ".csv":
        return mass_csv(masses)
    exchanged = ", each with the images of another" if args.unrelated else ""
    title = f"{benchmark.title}: {len(questions)} questions{exchanged}"
    note = "Mean over heads and questions, of the state that gives the answer's first token."
    return render_masses(
        title,
        [
            (mass.name, mass.by_layer, f"{note} {mass.positions:.0%} of the positions are of images.")
            for mass in masses
        ],
    )


def _checkpoints(args: argparse.Namespace) -> list[Path]:
    """One or two; the first model is given up before the second is loaded."""
    return [checkpoint for checkpoint in (args.checkpoint, args.compare) if checkpoint is not None]


def _load(checkpoint: Path, args: argparse.Namespace) -> LoadedModel:
    from owl2_jax.loading import load_model

    model, both = load_model(checkpoint, dtype=args.dtype), _checkpoints(args)
    alike = len({one.name for one in both}) < len(both)  # as two runs' folders are
    return replace(model, name=str(checkpoint)) if alike else model
