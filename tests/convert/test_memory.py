"""Conversion streams: peak memory is bounded by a leaf, not by the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.convert.safetensors_file import SafetensorsWriter, TensorSpec
from owl2_jax.convert.to_flax import leaf_shapes, numpy_dtype
from owl2_jax.convert.to_torch import _write_settings
from owl2_jax.convert.weight_names import OWL2, in_their_order, pairs
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
MB = 1e6
ROOT = Path(__file__).parents[2]

# Runs a conversion in a process of its own; prints how far the peak rose above
# where it stood after a small conversion had loaded everything there is to load.
MEASURE = """
import resource, sys
from owl2_jax.convert.to_flax import convert_to_jax
from owl2_jax.convert.to_torch import convert_to_torch
small, direction, source, output = sys.argv[1:]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
convert_to_jax(small, output + ".a")
convert_to_torch(output + ".a", output + ".b")
before = peak()
{"to-jax": convert_to_jax, "to-torch": convert_to_torch}[direction](source, output)
print(peak() - before)
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint in the released format, one file."""
    directory = tmp_path_factory.mktemp("released")
    shapes = leaf_shapes(CONFIG)
    specs = {
        pair.theirs: TensorSpec(pair.their_shape, numpy_dtype("bfloat16"))
        for pair in in_their_order(pairs(OWL2, shapes))
    }
    _write_settings(directory, CONFIG, "bfloat16", None)
    writer = SafetensorsWriter(directory / "model.safetensors", specs)
    generator = np.random.default_rng(0)
    for name, spec in specs.items():
        bits = generator.integers(0, 2**15, spec.shape, np.uint16) & 0xBFFF  # finite
        writer.write(name, bits.view(spec.dtype))
    return directory


def risen(direction: str, source: Path, output: Path, golden_directory: Path) -> float:
    """MB by which the peak of resident memory rose."""
    arguments = [golden_directory / "B/hf", direction, source, output]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return float(run.stdout.split()[-1])


def test_neither_direction_holds_more_than_a_leaf_and_a_source_tensor(
    released: Path, tmp_path: Path, golden_directory: Path
) -> None:
    total = (released / "model.safetensors").stat().st_size / MB
    leaf = max(np.prod(shape) for shape in leaf_shapes(CONFIG).values()) * 2 / MB
    source = leaf / CONFIG.decoder.num_layers
    assert total > 5 * leaf
    bound = leaf + source + 50  # what the allocator and the threads of the store keep
    assert risen("to-jax", released, tmp_path / "model", golden_directory) < bound
    assert risen("to-torch", tmp_path / "model", tmp_path / "hf", golden_directory) < bound
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == (
        released / "model.safetensors"
    ).read_bytes()
