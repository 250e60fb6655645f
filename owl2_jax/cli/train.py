"""`owl2 train`: one training run from a config file."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE.py[:ARGUMENT]", help="config file")
    parser.add_argument("--workdir", required=True, type=Path, help="run directory; resumed if it exists")
    parser.add_argument(
        "overrides", nargs="*", metavar="FIELD=VALUE", help="changed fields, as train.total_steps=100"
    )


def main(args: argparse.Namespace) -> int:
    from owl2_jax.config import differences, load_config
    from owl2_jax.core.memory import keep_freed_memory

    keep_freed_memory()

    config = load_config(args.config, args.overrides)

    from owl2_jax.data.pipeline import Pipeline, load_tokenizer
    from owl2_jax.parallel.mesh import make_mesh
    from owl2_jax.parallel.placement import data_shard
    from owl2_jax.parallel.shardings import check_batch
    from owl2_jax.training.checkpoints import open_run_directory
    from owl2_jax.training.loop import train
    from owl2_jax.training.trainer import make_trainer

    tokenizer = load_tokenizer(config.data)
    check_tokenizer(tokenizer.vocab_size, config.model.decoder.vocab_size)
    mesh = make_mesh(config.mesh)
    check_batch(config.data.rows, mesh, "data.rows", config.train.accumulate_steps)
    trainer = make_trainer(config.model, config.train, mesh)
    pipeline = Pipeline(
        config.data,
        config.model.vision.image_size,
        config.model.tokens_per_image,
        data_shard(mesh),
        args.workdir / "rejected.jsonl",
    )
    try:
        open_run_directory(args.workdir, config.to_dict(), tokenizer.bytes, differences)
        train(trainer, pipeline, args.workdir, title=Path(args.config.partition(":")[0]).stem)
    finally:
        pipeline.close()
    return 0


def check_tokenizer(found: int, expected: int) -> None:
    """Raises `Owl2Error` when tokenizer and model disagree about the vocabulary."""
    from owl2_jax.core.errors import Owl2Error

    if found != expected:
        raise Owl2Error(
            f"the tokenizer has {found} pieces, model.decoder.vocab_size is {expected}; "
            "give the tokenizer the model was made for (data.tokenizer)"
        )
