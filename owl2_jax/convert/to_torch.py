"""Our parameters to the released PyTorch format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from owl2_jax.checkpoint.output_directory import new_directory, refuse_existing
from owl2_jax.checkpoint.overlap import write_behind
from owl2_jax.checkpoint.param_files import (
    ParamsReader,
    check_fit,
    read_model_json,
    read_tokenizer,
    resolve_checkpoint,
)
from owl2_jax.convert import tokenizer_files
from owl2_jax.convert.buffers import buffers
from owl2_jax.convert.finite import cast
from owl2_jax.convert.formats import rules_for
from owl2_jax.convert.hf_config_writer import write_hf_config
from owl2_jax.convert.safetensors_file import SafetensorsWriter, TensorSpec
from owl2_jax.convert.to_flax import by_leaf, leaf_shapes, numpy_dtype, row_blocks
from owl2_jax.convert.weight_names import Pair, in_their_order, pairs
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.file_writing import write_text
from owl2_jax.core.tokenizer_files import file_name
from owl2_jax.model.config import Owl2Config

DTYPES: Final = ("float32", "float16", "bfloat16")
DEFAULT_SHARD: Final = "5GB"
_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def convert_to_torch(
    checkpoint: str | Path,
    output: str | Path,
    *,
    dtype: str | None = None,
    max_shard_size: str | int = DEFAULT_SHARD,
    with_buffers: bool = False,
) -> list[str]:
    """Writes a directory that the original's `from_pretrained` loads.

    Args:
      checkpoint: model or run directory.
      output: directory to make.
      dtype: of the weights; by default that of the checkpoint.
      max_shard_size: bytes, or text such as "5GB" (10**9) or "500MiB".
      with_buffers: write the fixed position tables and rotary frequencies too
        (float32, as the original keeps them).

    Returns:
      Names of the weight files.

    Raises:
      Owl2Error: a checkpoint that is damaged or does not fit its own
        configuration, a value that `dtype` cannot hold, or an output that
        exists or does not fit on the disk.
    """
    refuse_existing(output)
    limit = parse_size(max_shard_size)
    found = resolve_checkpoint(checkpoint)
    config = Owl2Config.from_dict(read_model_json(found.directory)["model"])
    if config.lora is not None:
        raise Owl2Error(
            f"{checkpoint} has LoRA adapters; merge them first with `owl2 convert merge-lora`, or export "
            "them alone with `owl2 convert export-lora`"
        )
    dtype = dtype or config.param_dtype
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    reader, shapes = ParamsReader(found.params), leaf_shapes(config)
    check_fit(reader.shapes, shapes, str(found.params))
    listed = list(in_their_order(pairs(rules_for(config, shapes), shapes)))
    fixed = dict(buffers(config)) if with_buffers else {}
    specs = {pair.theirs: TensorSpec(pair.their_shape, numpy_dtype(dtype)) for pair in listed}
    specs |= {name: TensorSpec(values.shape, values.dtype) for name, values in fixed.items()}
    with new_directory(output, sum(spec.nbytes for spec in specs.values())) as directory:
        _write_settings(directory, config, dtype, read_tokenizer(found.directory))
        writers = _open_shards(directory, specs, limit)
        for name, values in fixed.items():
            writers[name].write(name, values)
        with write_behind() as write:
            for path, leaf_pairs in by_leaf(listed).items():
                _export_leaf(reader.blocks(path), leaf_pairs, writers, write)
    return sorted({writer.path.name for writer in writers.values()})


def _export_leaf(
    blocks: Iterable[np.ndarray],
    leaf_pairs: Sequence[Pair],
    writers: Mapping[str, SafetensorsWriter],
    write: Callable[..., None],
) -> None:
    """Writes the tensors of one leaf, which comes in blocks along its leading axis."""
    targets: dict[int | None, list[Pair]] = {}
    for pair in leaf_pairs:
        targets.setdefault(pair.layer, []).append(pair)
    if None in targets:
        pieces: Iterable[np.ndarray] = [_joined(list(blocks))]
    else:
        pieces = (layer for block in blocks for layer in block)
    for ours, layer_pairs in zip(pieces, targets.values(), strict=True):
        for pair in layer_pairs:
            writer = writers[pair.theirs]
            dtype = writer.specs[pair.theirs].dtype
            for rows in row_blocks(pair):
                part = cast(pair.rule.op.to_theirs(ours[:, rows]), dtype, pair.rule.ours)
                write(writer.write, pair.theirs, part, rows)
            if not row_blocks(pair):
                whole = cast(pair.rule.op.to_theirs(ours), dtype, pair.rule.ours)
                write(writer.write, pair.theirs, whole, pair.rows)


def _joined(blocks: Sequence[np.ndarray]) -> np.ndarray:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def parse_size(size: str | int) -> int:
    """Bytes of "5GB", "500MiB" or a plain number; raises `Owl2Error` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    if match is None or match[2].upper() not in _UNITS or not 0 < float(match[1]) < 2**63:
        raise Owl2Error(f"shard size {size!r} is not understood; write for example 5GB, 500MB or 2GiB")
    return max(1, int(float(match[1]) * _UNITS[match[2].upper()]))


def plan_shards(specs: Mapping[str, TensorSpec], limit: int) -> list[list[str]]:
    """Names in shards of at most `limit` bytes, in order; a larger tensor has a shard of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, spec in specs.items():
        if shards[-1] and filled + spec.nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += spec.nbytes
    return shards


def _open_shards(
    directory: Path, specs: Mapping[str, TensorSpec], limit: int
) -> dict[str, SafetensorsWriter]:
    """Makes the files, and the index when there is more than one: {tensor name: its file}."""
    shards = plan_shards(specs, limit)
    writers: dict[str, SafetensorsWriter] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        writer = SafetensorsWriter(directory / file, {name: specs[name] for name in names})
        writers.update(dict.fromkeys(names, writer))
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(spec.nbytes for spec in specs.values())},
            "weight_map": {name: writers[name].path.name for name in sorted(writers)},
        }
        _write_json(directory / "model.safetensors.index.json", index)
    return writers


def _write_settings(directory: Path, config: Owl2Config, dtype: str, tokenizer: bytes | None) -> None:
    """Every file of the released format except the weights."""
    bos_id, eos_id = tokenizer_files.special_ids(tokenizer)
    written = write_hf_config(config, dtype, bos_id, eos_id)
    _write_json(directory / "config.json", written)
    _write_json(directory / "generation_config.json", tokenizer_files.generation_config(written))
    size = config.vision.image_size
    _write_json(directory / "preprocessor_config.json", tokenizer_files.preprocessor_config(size))
    if tokenizer is not None:
        (directory / file_name(tokenizer)).write_bytes(tokenizer)
        for name, values in tokenizer_files.settings(tokenizer, config.decoder.max_length).items():
            _write_json(directory / name, values)


def _write_json(path: Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
