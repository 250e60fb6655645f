"""Conversion streams: peak memory is bounded by layers and pieces, not by the model or its vocabulary."""

from __future__ import annotations

import dataclasses
import filecmp
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.checkpoint.array_store import PIECE_BYTES
from owl2_jax.convert.formats import format_of
from owl2_jax.convert.safetensors_file import SafetensorsWriter, TensorSpec
from owl2_jax.convert.to_flax import leaf_shapes, numpy_dtype
from owl2_jax.convert.to_torch import _write_settings
from owl2_jax.convert.weight_names import in_their_order, pairs
from owl2_jax.model.config import AbstractorConfig, DecoderConfig, Owl2Config, VisionConfig

# 8 layers of a decoder as wide as deep: 133 M parameters, 266 MB in bfloat16.
CONFIG = Owl2Config(
    vision=VisionConfig(width=256, num_layers=4, num_heads=4, mlp_dim=1024, image_size=224),
    abstractor=AbstractorConfig(num_layers=2, num_heads=4, mlp_dim=704, num_queries=16),
    decoder=DecoderConfig(
        vocab_size=4096, width=1024, num_layers=8, num_heads=8, num_kv_heads=8, mlp_dim=2816
    ),
    param_dtype="bfloat16",
)
# An mPLUG-Owl2.1 that is nearly all embedding and head: 117 MB each.
VOCABULARY = dataclasses.replace(
    CONFIG,
    decoder=DecoderConfig(
        vocab_size=151_936, width=384, num_layers=1, num_heads=4, num_kv_heads=4, mlp_dim=704,
        adaptive="qkv", qkv_bias=True,
    ),
)  # fmt: skip
MB = 1e6
ROOT = Path(__file__).parents[2]

# Converts there and back in a process of its own; prints how far the peak rose above
# where it stood after a small conversion had loaded everything there is to load.
MEASURE = """
import resource, sys
from owl2_jax.checkpoint import array_store
from owl2_jax.convert.to_flax import convert_to_jax
from owl2_jax.convert.to_torch import convert_to_torch
small, source, output, back, piece = sys.argv[1:]
array_store.PIECE_BYTES = int(piece)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
convert_to_jax(small, output + ".a")
convert_to_torch(output + ".a", output + ".b")
before = peak()
convert_to_jax(source, output)
convert_to_torch(output, back)
print(peak() - before)
"""


def released(directory: Path, config: Owl2Config) -> Path:
    """A random checkpoint in the released format, one file."""
    directory.mkdir()
    shapes = leaf_shapes(config)
    specs = {
        pair.theirs: TensorSpec(pair.their_shape, numpy_dtype("bfloat16"))
        for pair in in_their_order(pairs(format_of(config).rules, shapes))
    }
    _write_settings(directory, config, "bfloat16", None)
    writer = SafetensorsWriter(directory / "model.safetensors", specs)
    generator = np.random.default_rng(0)
    for name, spec in specs.items():
        bits = generator.integers(0, 2**15, spec.shape, np.uint16) & 0xBFFF  # finite
        writer.write(name, bits.view(spec.dtype))
    return directory


def risen(source: Path, output: Path, back: Path, golden_directory: Path, piece: int) -> float:
    """MB by which the peak of resident memory rose."""
    arguments = [golden_directory / "B/hf", source, output, back, piece]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return float(run.stdout.split()[-1])


@pytest.mark.parametrize("config", [CONFIG, VOCABULARY], ids=["layers", "vocabulary"])
def test_neither_direction_holds_more_than_some_layers_or_pieces(
    config: Owl2Config, tmp_path: Path, golden_directory: Path
) -> None:
    hf = released(tmp_path / "released", config)
    total = (hf / "model.safetensors").stat().st_size / MB
    leaf = max(np.prod(shape) for shape in leaf_shapes(config).values()) * 2 / MB
    if config is CONFIG:
        assert total > 5 * leaf
        # A leaf of all layers and a source tensor, and what the allocator and the threads of the store keep.
        bound, piece = leaf * (1 + 1 / config.decoder.num_layers) + 50, PIECE_BYTES
    else:
        assert total > 2 * leaf
        bound, piece = leaf / 2, 1 << 22
    assert risen(hf, tmp_path / "model", tmp_path / "hf", golden_directory, piece) < bound
    assert filecmp.cmp(tmp_path / "hf" / "model.safetensors", hf / "model.safetensors", shallow=False)
