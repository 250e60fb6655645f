"""The actions of `owl2 convert` on LoRA adapters: merge, export and import in PEFT's format."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from owl2_jax.cli.convert_notes import print_notes
from owl2_jax.core.texts import BucketPath


def add_actions(commands: argparse._SubParsersAction) -> None:
    """The actions of `owl2 convert` that are about adapters."""
    _add_merge(commands)
    _add_export(commands)
    _add_import(commands)


def _add_merge(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("merge-lora", help="add the adapters of a checkpoint to its matrices")
    _add_paths(parser, "model or run directory with adapters", "model directory; must not exist")


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("export-lora", help="adapters to PEFT's format, for the original code")
    _add_paths(parser, "model or run directory with adapters", "PEFT directory; must not exist")
    parser.add_argument(
        "--base", default="", metavar="NAME",
        help="path or name of the base model, written into adapter_config.json",
    )  # fmt: skip


def _add_import(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("import-lora", help="adapters in PEFT's format onto a base model")
    _add_paths(
        parser, "base: model, run or released directory without adapters", "model directory; must not exist"
    )
    parser.add_argument(
        "--adapter", required=True, type=BucketPath, metavar="PEFT_DIR", help="directory that PEFT saved"
    )


def _add_paths(parser: argparse.ArgumentParser, checkpoint: str, output: str) -> None:
    parser.add_argument("--checkpoint", required=True, type=BucketPath, metavar="DIR", help=checkpoint)
    parser.add_argument("--output", required=True, type=BucketPath, metavar="DIR", help=output)


def _merge(args: argparse.Namespace) -> int:
    from owl2_jax.convert.merge import merge_checkpoint

    config = merge_checkpoint(args.checkpoint, args.output)
    print(f"wrote {args.output} ({config.param_dtype}, adapters merged)")
    return 0


def _export(args: argparse.Namespace) -> int:
    from owl2_jax.convert.peft import export_peft

    export_peft(args.checkpoint, args.output, args.base, _trained(args.checkpoint))
    print(f"wrote {args.output}")
    if not all(word in args.output.name.lower() for word in ("mplug_owl2", "lora")):
        print(
            "note: the original code takes it for an adapter of this model only when the directory's name "
            "contains mplug_owl2 and lora"
        )
    return 0


def _trained(checkpoint: Path) -> Callable[[str], bool]:
    """What trained beside the adapters, by the config of the run; the abstractor for a model directory."""
    from owl2_jax.checkpoint.param_files import resolve_checkpoint
    from owl2_jax.config import RunConfig, todays_names
    from owl2_jax.convert.peft import is_abstractor
    from owl2_jax.core.json_files import read_json_object
    from owl2_jax.model.owl2 import abstract_params
    from owl2_jax.training.param_groups import assign_groups
    from owl2_jax.training.run_directory import CONFIG_FILE

    path = resolve_checkpoint(checkpoint).directory / CONFIG_FILE
    if not path.is_file():
        return is_abstractor
    config = RunConfig.from_dict(todays_names(read_json_object(path)))
    specs = assign_groups(abstract_params(config.model), config.train)
    return lambda name: specs[name].trained


def _import(args: argparse.Namespace) -> int:
    from owl2_jax.convert.peft import import_peft

    config = import_peft(args.checkpoint, args.adapter, args.output)
    assert config.lora is not None
    print_notes(args.checkpoint)
    print(f"wrote {args.output} (rank {config.lora.rank} on {', '.join(config.lora.targets)})")
    return 0


ACTIONS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "merge-lora": _merge,
    "export-lora": _export,
    "import-lora": _import,
}
