"""`owl2 convert`: PyTorch checkpoints in and out, the start of stage 1, other sizes, adapters, checks."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from owl2_jax.cli import convert_lora
from owl2_jax.cli.common import keep_compiled_programs
from owl2_jax.cli.convert_notes import print_notes
from owl2_jax.core.ranges import Count, Seed
from owl2_jax.core.texts import BucketPath
from owl2_jax.core.tokenizer_files import FILE_NAMES
from owl2_jax.model.adaptive import PARTS, SETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `owl2 convert`."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_to_jax(commands)
    _add_to_torch(commands)
    _add_init(commands)
    _add_resize(commands)
    convert_lora.add_actions(commands)
    _add_verify(commands)


def main(args: argparse.Namespace) -> int:
    """Runs `owl2 convert`; returns the exit code."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "to-jax": _to_jax,
        "to-torch": _to_torch,
        "init": _init,
        "resize": _resize,
        "verify": _verify,
        **convert_lora.ACTIONS,
    }
    _check_places(args)
    from owl2_jax.core.host_memory import keep_freed_memory

    keep_freed_memory()  # tensor after tensor of the same sizes
    if args.action in ("init", "verify"):  # the others compute on the host
        keep_compiled_programs()
    return actions[args.action](args)


def _check_places(args: argparse.Namespace) -> None:
    """Refuses what can be refused before JAX is imported and gigabytes are read."""
    from owl2_jax.checkpoint.output_directory import refuse_existing
    from owl2_jax.checkpoint.param_files import check_checkpoint
    from owl2_jax.convert.source import check_directory
    from owl2_jax.core.file_writing import check_folder

    for name in ("source", "language", "clip", "adapter"):
        folder = getattr(args, name, None)
        if folder is not None:
            check_directory(folder, f"--{'llama' if name == 'language' else name} ")
    if getattr(args, "checkpoint", None) is not None:
        check_checkpoint(args.checkpoint)
    if getattr(args, "output", None) is not None:
        refuse_existing(args.output)
        check_folder(args.output.parent, "--output: the folder")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", required=True, type=BucketPath, metavar="DIR",
        help="model directory, run directory (latest step) or released directory",
    )  # fmt: skip


def _add_to_jax(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("to-jax", help="released PyTorch directory to a model directory")
    parser.add_argument(
        "--source", required=True, type=BucketPath, metavar="HF_DIR",
        help="directory of a PyTorch checkpoint: config.json, weights, tokenizer",
    )  # fmt: skip
    parser.add_argument("--output", required=True, type=BucketPath, metavar="DIR", help="must not exist")
    parser.add_argument("--tokenizer", type=BucketPath, metavar="FILE", help="when HF_DIR has none")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the stored parameters; by default the narrowest of the two that changes no value",
    )


def _to_jax(args: argparse.Namespace) -> int:
    from owl2_jax.convert.to_flax import convert_to_jax
    from owl2_jax.convert.tokenizer_files import why_no_tokenizer

    model = convert_to_jax(args.source, args.output, dtype=args.dtype, tokenizer=args.tokenizer)
    print(f"wrote {args.output} ({model['model']['param_dtype']})")
    print_notes(args.source)
    if model["tokenizer"] is None:
        print(
            f"note: {why_no_tokenizer(args.source)}. {args.output} takes token ids only; "
            "to chat or evaluate, convert it once more with --tokenizer FILE"
        )
    return 0


def _add_to_torch(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("to-torch", help="model or run directory to the released PyTorch format")
    _add_checkpoint(parser)
    parser.add_argument("--output", required=True, type=BucketPath, metavar="HF_DIR", help="must not exist")
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"), help="of the weights; by default as stored"
    )
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="for example 5GB or 500MiB")
    parser.add_argument(
        "--with-buffers", action="store_true", help="write fixed position tables and rotary frequencies too"
    )


def _to_torch(args: argparse.Namespace) -> int:
    from owl2_jax.convert.to_torch import convert_to_torch

    files = convert_to_torch(
        args.checkpoint,
        args.output,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        with_buffers=args.with_buffers,
    )
    print(f"wrote {args.output} ({len(files)} weight file{'s' if len(files) > 1 else ''})")
    if not any((args.output / name).exists() for name in FILE_NAMES):
        print(f"note: {args.checkpoint} has no tokenizer, so no tokenizer files were written")
    return 0


def _add_init(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("init", help="start stage 1 from LLaMA-2 or Qwen, and CLIP")
    parser.add_argument(
        "--llama", "--qwen", dest="language", required=True, type=BucketPath, metavar="HF_DIR",
        help="a LLaMA-2, which makes an mPLUG-Owl2, or a Qwen, which makes an mPLUG-Owl2.1",
    )  # fmt: skip
    parser.add_argument(
        "--clip",
        required=True,
        type=BucketPath,
        metavar="HF_DIR",
        help="a CLIP, for the vision encoder",
    )
    parser.add_argument("--output", required=True, type=BucketPath, metavar="DIR", help="must not exist")
    parser.add_argument("--image-size", type=Count, default=224, help="pixels (default: 224)")
    parser.add_argument("--num-queries", type=Count, default=64, help="of the abstractor (default: 64)")
    parser.add_argument("--abstractor-layers", type=Count, default=6, help="of cross-attention (default: 6)")
    parser.add_argument("--seed", type=Seed, default=0, help="of the random abstractor (default: 0)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the stored parameters; by default the narrowest of the two that changes no value",
    )


def _init(args: argparse.Namespace) -> int:
    from owl2_jax.convert.init_from import init_checkpoint

    config = init_checkpoint(
        args.language,
        args.clip,
        args.output,
        image_size=args.image_size,
        num_queries=args.num_queries,
        abstractor_layers=args.abstractor_layers,
        seed=args.seed,
        dtype=args.dtype,
    )
    print(f"wrote {args.output} ({config.param_dtype}, {config.vision.image_size} pixels)")
    print_notes(args.language, args.clip)
    return 0


def _add_resize(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("resize", help="another image size, query count or module")
    _add_checkpoint(parser)
    parser.add_argument("--output", required=True, type=BucketPath, metavar="DIR", help="must not exist")
    parser.add_argument("--image-size", type=Count, help="pixels; by default as it is")
    parser.add_argument(
        "--num-queries",
        type=Count,
        help="fewer keep the first ones, more repeat them in order; by default as it is",
    )
    parser.add_argument(
        "--adaptive", metavar="SET",
        help=f"what has a copy per modality: {', '.join(SETS)}, or some of {', '.join(PARTS)} with + between "
        "them; a missing one is copied from text; by default as it is",
    )  # fmt: skip


def _resize(args: argparse.Namespace) -> int:
    from owl2_jax.convert.resize import resize_checkpoint

    config = resize_checkpoint(
        args.checkpoint,
        args.output,
        image_size=args.image_size,
        num_queries=args.num_queries,
        adaptive=args.adaptive,
    )
    print(f"wrote {args.output} ({config.vision.image_size} pixels, {config.abstractor.num_queries} queries)")
    print_notes(args.checkpoint)
    return 0


def _add_verify(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("verify", help="compare with golden results of the original")
    _add_checkpoint(parser)
    parser.add_argument(
        "--golden", required=True, type=BucketPath, metavar="FILE.npz", help="arrays that the original gave"
    )


def _verify(args: argparse.Namespace) -> int:
    from owl2_jax.convert.verify import verify_checkpoint

    count, beyond = 0, []
    for difference in verify_checkpoint(args.checkpoint, args.golden):
        print(difference, flush=True)
        count += 1
        if not difference.within:
            beyond.append(difference)
    if not beyond:
        print(f"all {count} arrays are within tolerance")
        return 0
    first = next((difference for difference in beyond if difference.layer), beyond[0])
    where = f"{first.name}, {first.layer}" if first.layer else first.name
    print(f"{len(beyond)} of {count} arrays are beyond tolerance; the first layer that differs: {where}")
    return 1
