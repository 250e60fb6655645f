"""A checkpoint against a golden file, array by array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jax
import numpy as np

from owl2_jax.checkpoint.param_files import check_fit, read_model_json, resolve_checkpoint, restore_params
from owl2_jax.convert.golden_file import INPUTS, read_golden
from owl2_jax.convert.golden_model import GoldenModel
from owl2_jax.convert.load import is_released_directory, load_hf
from owl2_jax.convert.to_flax import leaf_shapes
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import Params, flatten
from owl2_jax.model.config import Owl2Config

# Two runs of the original differ by 1.6e-5; five steps of Adam amplify rounding.
ATOL: Final = 5e-5
RTOL: Final = 1e-4
TRAIN_ATOL: Final = 2e-3
LOSS_ATOL: Final = 1e-4
# Results with a layer axis in front, and what that axis counts.
_LAYERED: Final = {
    "vision/hidden_states": "vision state", "vision/attentions": "vision layer",
    "abstractor/layer_outputs": "abstractor layer", "abstractor/attn_context": "abstractor layer",
    "hidden_states": "decoder state", "attentions": "decoder layer", "past_k": "decoder layer",
    "past_v": "decoder layer",
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """How one array differs.

    Attributes:
      name: "<group>/<array>" of the golden file.
      absolute, relative: largest over the elements; relative to the golden
        value, where that is not 0.
      within: whether the array is within tolerance; integers must be equal.
      layer: the first layer beyond tolerance, for arrays that have layers.
    """

    name: str
    absolute: float
    relative: float
    within: bool
    layer: str | None = None

    def __str__(self) -> str:
        verdict = "ok  " if self.within else "FAIL"
        where = f"  first differs at {self.layer}" if self.layer else ""
        return f"{verdict} {self.name:<44} abs {self.absolute:.1e}  rel {self.relative:.1e}{where}"


def verify_checkpoint(checkpoint: str | Path, golden: str | Path) -> Iterator[Difference]:
    """Compares a model directory, run directory or released directory with a golden file.

    Yields:
      One `Difference` per result in the file, from the images to the logits.

    Raises:
      Owl2Error: a damaged checkpoint or file, or a file of a model of another size.
    """
    arrays = read_golden(golden)
    if not any(name.partition("/")[2] not in INPUTS for name in arrays):
        raise Owl2Error(f"golden file {golden} holds no results to compare")
    config, params = load_any(checkpoint)
    with jax.default_matmul_precision("highest"):
        for name, actual in GoldenModel(config, params, arrays).answers():
            yield compare(name, actual, arrays[name])


def load_any(checkpoint: str | Path) -> tuple[Owl2Config, Params]:
    """Configuration and parameters (numpy) of a model, run or released directory."""
    if is_released_directory(checkpoint):
        loaded = load_hf(checkpoint)
        return loaded.config, loaded.params
    found = resolve_checkpoint(checkpoint)
    config = Owl2Config.from_dict(read_model_json(found.directory)["model"])
    params = restore_params(found.params)
    check_fit({n: leaf.shape for n, leaf in flatten(params).items()}, leaf_shapes(config), str(found.params))
    return config, params


def compare(name: str, actual: np.ndarray, expected: np.ndarray) -> Difference:
    """Measures one array; raises `Owl2Error` when the shapes differ, as then the models do."""
    if actual.shape != expected.shape:
        raise Owl2Error(
            f"{name} has shape {list(actual.shape)}, the golden file {list(expected.shape)}; "
            "is the golden file of another model?"
        )
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    distance = np.abs(actual - expected)
    nonzero = expected != 0
    relative = (distance[nonzero] / np.abs(expected[nonzero])).max(initial=0.0)
    beyond = ~(distance <= _allowed(name, expected))  # so that nan is beyond
    return Difference(
        name, float(distance.max(initial=0.0)), float(relative), not beyond.any(), _first_layer(name, beyond)
    )


def _allowed(name: str, expected: np.ndarray) -> np.ndarray:
    group, _, array = name.partition("/")
    if array in ("tokens", "grad_is_none") or array.startswith("expanded_"):
        return np.zeros_like(expected)
    if group == "train":
        return np.full_like(expected, LOSS_ATOL if array == "losses" else TRAIN_ATOL)
    return ATOL + RTOL * np.abs(expected)


def _first_layer(name: str, beyond: np.ndarray) -> str | None:
    kind = _LAYERED.get(name) or _LAYERED.get(name.partition("/")[2])
    if kind is None or not beyond.any():
        return None
    return f"{kind} {int(np.argmax(beyond.reshape(len(beyond), -1).any(1)))}"
