"""Our parameters to the released PyTorch format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from owl2_jax.checkpoint.array_store import longest_axis, piece_length, pieces
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
from owl2_jax.convert.safetensors_file import SafetensorsStream, SafetensorsWriter, TensorSpec
from owl2_jax.convert.to_flax import by_leaf, leaf_shapes, numpy_dtype, rows_axis
from owl2_jax.convert.weight_names import Pair, in_their_order, pairs
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.file_writing import write_text
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.tokenizer_files import file_name
from owl2_jax.model.config import Owl2Config

_ALL: Final = slice(0, None)
TensorWriter = SafetensorsWriter | SafetensorsStream
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
    groups = [[leaf] for leaf in by_leaf(listed)]
    if in_bucket(output):
        groups = _that_share_tensors(listed)
        specs = _in_order_of_export(specs, listed, groups)
    with new_directory(output, sum(spec.nbytes for spec in specs.values())) as directory:
        writers = _open_shards(directory, specs, limit)
        with _discarded(writers):
            for name, values in fixed.items():
                writers[name].write(name, values)
            with write_behind() as write:
                for leaves in groups:
                    _export_leaves(reader, leaves, listed, writers, write)
        # Last, as a reader asks for them: in a bucket a half-written directory has its name already.
        _write_index(directory, specs, writers)
        _write_settings(directory, config, dtype, read_tokenizer(found.directory))
    return _names(writers)


def _that_share_tensors(listed: Sequence[Pair]) -> list[list[str]]:
    """Our leaves in groups; one of their tensors, which may be of several leaves, is of one group."""
    groups: list[list[str]] = []
    home: dict[str, list[str]] = {}  # by their tensor
    for leaf, leaf_pairs in by_leaf(listed).items():
        group = next((home[pair.theirs] for pair in leaf_pairs if pair.theirs in home), None)
        if group is None:
            group = []
            groups.append(group)
        group.append(leaf)
        home.update(dict.fromkeys((pair.theirs for pair in leaf_pairs), group))
    return groups


def _in_order_of_export(
    specs: Mapping[str, TensorSpec], listed: Sequence[Pair], groups: Sequence[Sequence[str]]
) -> dict[str, TensorSpec]:
    """The tensors in the order in which they are made, as an object is written from its begin on.

    On a disk they stand in the order of the original's files.
    """
    made = [pair.theirs for leaves in groups for layer in _by_layer(leaves, listed) for pair in layer]
    fixed = {name: spec for name, spec in specs.items() if name not in set(made)}
    return {**fixed, **{name: specs[name] for name in made}}


@contextmanager
def _discarded(writers: Mapping[str, TensorWriter]) -> Iterator[None]:
    """Leaves no half-written object where the block fails."""
    try:
        yield
    except BaseException:
        for writer in {id(writer): writer for writer in writers.values()}.values():
            if isinstance(writer, SafetensorsStream):
                writer.discard()
        raise


def _export_leaves(
    reader: ParamsReader,
    leaves: Sequence[str],
    listed: Sequence[Pair],
    writers: Mapping[str, TensorWriter],
    write: Callable[..., None],
) -> None:
    """Writes the tensors of some leaves, of each of which a layer or a piece is in memory at a time."""
    layers = {leaf: _layers(reader.blocks(leaf)) for leaf in leaves}
    for pairs_of_layer in _by_layer(leaves, listed):
        if pairs_of_layer[0].layer is None:
            for pair in pairs_of_layer:
                _export_unstacked(reader.blocks(pair.rule.ours), pair, writers[pair.theirs], write)
            continue
        ours = {leaf: next(one) for leaf, one in layers.items()}
        for pair in pairs_of_layer:
            _export(ours[pair.rule.ours], pair, pair.rows, writers[pair.theirs], write)


def _layers(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    yield from (layer for block in blocks for layer in block)


def _export_unstacked(
    blocks: Iterable[np.ndarray], pair: Pair, writer: TensorWriter, write: Callable[..., None]
) -> None:
    """Some rows at a time where they lie together in ours, or the whole."""
    axis = rows_axis(pair)
    if axis is None:
        whole = np.concatenate(list(blocks), longest_axis(pair.shape))
        _export(whole, pair, pair.rows, writer, write)
        return
    start = 0
    for ours in pieces(blocks, axis, piece_length(pair.shape, writer.specs[pair.theirs].dtype)):
        rows = slice(start, start + ours.shape[axis])
        _export(ours, pair, rows, writer, write)
        start = rows.stop


def _export(
    ours: np.ndarray, pair: Pair, rows: slice | None, writer: TensorWriter, write: Callable[..., None]
) -> None:
    dtype = writer.specs[pair.theirs].dtype
    write(writer.write, pair.theirs, cast(pair.rule.op.to_theirs(ours), dtype, pair.rule.ours), rows)


def _by_layer(leaves: Sequence[str], listed: Sequence[Pair]) -> list[list[Pair]]:
    """What each layer of some leaves becomes: tensor by tensor, each by its rows."""
    layers: dict[int | None, dict[str, list[Pair]]] = {}
    for pair in listed:
        if pair.rule.ours in leaves:
            layers.setdefault(pair.layer, {}).setdefault(pair.theirs, []).append(pair)
    by_rows = lambda pair: (pair.rows or _ALL).start
    return [
        [pair for parts in tensors.values() for pair in sorted(parts, key=by_rows)]
        for tensors in layers.values()
    ]


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


def _open_shards(directory: Path, specs: Mapping[str, TensorSpec], limit: int) -> dict[str, TensorWriter]:
    """Makes the files: {tensor name: its file}."""
    shards = plan_shards(specs, limit)
    kind = SafetensorsStream if in_bucket(directory) else SafetensorsWriter
    writers: dict[str, TensorWriter] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors"
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        writer = kind(directory / file, {name: specs[name] for name in names})
        writers.update(dict.fromkeys(names, writer))
    return writers


def _names(writers: Mapping[str, TensorWriter]) -> list[str]:
    return sorted({writer.path.name for writer in writers.values()})


def _write_index(
    directory: Path, specs: Mapping[str, TensorSpec], writers: Mapping[str, TensorWriter]
) -> None:
    """The index, where there is more than one file."""
    if len(_names(writers)) > 1:
        index = {
            "metadata": {"total_size": sum(spec.nbytes for spec in specs.values())},
            "weight_map": {name: writers[name].path.name for name in sorted(writers)},
        }
        _write_json(directory / "model.safetensors.index.json", index)


def _write_settings(directory: Path, config: Owl2Config, dtype: str, tokenizer: bytes | None) -> None:
    """Every file of the released format except the weights."""
    bos_id, eos_id = tokenizer_files.special_ids(tokenizer)
    written = write_hf_config(config, dtype, bos_id, eos_id)
    _write_json(directory / "generation_config.json", tokenizer_files.generation_config(written))
    size = config.vision.image_size
    _write_json(directory / "preprocessor_config.json", tokenizer_files.preprocessor_config(size))
    if tokenizer is not None:
        (directory / file_name(tokenizer)).write_bytes(tokenizer)
        for name, values in tokenizer_files.settings(tokenizer, config.decoder.max_length).items():
            _write_json(directory / name, values)
    _write_json(directory / "config.json", written)


def _write_json(path: Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
