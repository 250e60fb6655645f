"""`owl2 look`: a page that shows what a model paid attention to while it answered."""

from __future__ import annotations

import argparse
from pathlib import Path

from owl2_jax.core.ranges import Count
from owl2_jax.core.texts import BucketPath


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 look`."""
    from owl2_jax.cli.common import add_checkpoint_arguments

    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--image",
        required=True,
        action="append",
        type=BucketPath,
        metavar="FILE",
        help="an image; again for more",
    )
    parser.add_argument("--question", required=True, metavar="TEXT", help="about the images")
    parser.add_argument(
        "--compare",
        type=BucketPath,
        metavar="DIR",
        help="a second model beside the first, as one without module",
    )
    parser.add_argument(
        "--output", type=BucketPath, default=Path("look.html"), metavar="FILE", help="(default: %(default)s)"
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
    for image in args.image:
        check_image(image)

    from owl2_jax.attention_maps.inside import look_inside
    from owl2_jax.attention_maps.page import render
    from owl2_jax.loading import load_model

    keep_compiled_programs()
    models = []
    for checkpoint in filter(None, (args.checkpoint, args.compare)):
        model = load_model(checkpoint, dtype=args.dtype)
        content = model.prompt_format.image_tag * len(args.image) + args.question
        messages = [{"role": "user", "content": content}]
        models.append(look_inside(model, messages, [str(image) for image in args.image], args.max_new_tokens))
        print(f"{model.name}: {models[-1].answer}")
    write_text(args.output, render(args.question, models))
    print(f"wrote {args.output}")
    return 0
