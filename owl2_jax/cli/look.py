"""`owl2 look`: a page that shows what a model paid attention to while it answered."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from owl2_jax.core.ranges import Count
from owl2_jax.core.texts import BucketPath

if TYPE_CHECKING:
    from owl2_jax.inference.loaded_model import LoadedModel


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
        "--limit", type=Count, default=100, metavar="N", help="first questions of --benchmark (default: 100)"
    )
    parser.add_argument(
        "--unrelated",
        action="store_true",
        help="with --benchmark: each question gets the images of another",
    )
    parser.add_argument(
        "--data-root",
        type=BucketPath,
        default=Path("data"),
        metavar="DIR",
        help="of the benchmark's files (default: data)",
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
        "--max-new-tokens", type=Count, default=32, metavar="N", help="longest answer (default: 32)"
    )


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 look`; returns the exit code."""
    from owl2_jax.checkpoint.param_files import check_checkpoint
    from owl2_jax.cli.common import check_image, keep_compiled_programs
    from owl2_jax.core.errors import Owl2Error
    from owl2_jax.core.file_writing import check_file, write_text
    from owl2_jax.core.paths import in_bucket

    if not in_bucket(args.output) and not args.output.parent.is_dir():
        raise Owl2Error(f"--output {args.output}: there is no folder {args.output.parent}")
    check_file(args.output, "--output")
    for checkpoint in filter(None, (args.checkpoint, args.compare)):
        check_checkpoint(checkpoint)
    if args.benchmark is None and args.question is None:
        raise Owl2Error("--question is missing: what to ask about --image")
    if args.benchmark is not None and args.question is not None:
        raise Owl2Error("--benchmark has questions of its own; leave --question out")
    if args.benchmark is None and args.unrelated:
        raise Owl2Error("--unrelated exchanges the images of a benchmark's questions; give --benchmark")
    for image in args.image or ():
        check_image(image)
    keep_compiled_programs()
    write_text(args.output, _one_question(args) if args.benchmark is None else _benchmark(args))
    print(f"wrote {args.output}")
    return 0


def _one_question(args: argparse.Namespace) -> str:
    """The answers of the models, token by token."""
    from owl2_jax.attention_maps.inside import look_inside
    from owl2_jax.attention_maps.page import render

    models = []
    for model in _models(args):
        content = model.prompt_format.image_tag * len(args.image) + args.question
        messages = [{"role": "user", "content": content}]
        models.append(look_inside(model, messages, [str(image) for image in args.image], args.max_new_tokens))
        print(f"{model.name}: {models[-1].answer}")
    return render(args.question, models)


def _benchmark(args: argparse.Namespace) -> str:
    """Attention on images over many questions: a page, or a table where the output's name says so."""
    from owl2_jax.attention_maps.page import render_masses
    from owl2_jax.evals.asking import EngineModel
    from owl2_jax.evals.attention import image_mass, mass_csv, with_images, with_unrelated_images
    from owl2_jax.evals.loading import load_questions
    from owl2_jax.evals.registry import get_benchmark
    from owl2_jax.inference.engine import Engine, EngineConfig

    benchmark = get_benchmark(args.benchmark)
    for file in benchmark.files:
        file.require(args.data_root)
    read, _ = load_questions(args.benchmark, benchmark, args.data_root, args.limit)
    questions = with_images(args.benchmark, read)
    if args.unrelated:
        questions = with_unrelated_images(questions)
    masses = []
    for model in _models(args):
        asked = EngineModel(Engine(model, EngineConfig(sequences=1)))
        masses.append(image_mass(asked, questions, benchmark.decoding, benchmark.image_mode))
        shares = " ".join(f"{share:.1%}" for share in masses[-1].by_layer)
        print(f"{model.name}: attention on images by layer, over {len(questions)} questions: {shares}")
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


def _models(args: argparse.Namespace) -> Iterator[LoadedModel]:
    from owl2_jax.loading import load_model

    both = [checkpoint for checkpoint in (args.checkpoint, args.compare) if checkpoint is not None]
    alike = len({checkpoint.name for checkpoint in both}) < len(both)  # as two runs' folders are
    for checkpoint in both:
        model = load_model(checkpoint, dtype=args.dtype)
        yield replace(model, name=str(checkpoint)) if alike else model
