"""Every parameter's place per model preset and mesh, against files that a reviewer can read.

After a change on purpose: python -m tests.parallel.test_golden_shardings
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from jax.sharding import AbstractMesh, NamedSharding

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.tree import flatten
from owl2_jax.model import presets
from owl2_jax.model.owl2 import abstract_params, logical_axes
from owl2_jax.parallel import mesh as meshes
from owl2_jax.parallel.mesh import MESH_AXES, resolve_axes
from owl2_jax.parallel.shardings import check_params, param_specs

DIRECTORY = Path(__file__).parent.parent / "golden" / "shardings"
CASES = [(model, mesh) for model in presets.PRESETS for mesh in meshes.PRESETS]


@functools.cache
def shapes_and_axes(model):
    config = presets.preset(model)
    return abstract_params(config), logical_axes(config)


def placed(model: str, mesh_name: str) -> dict[str, str]:
    """{parameter: "shape over mesh axes -> shape per device"}, or what is wrong with the pair."""
    preset = meshes.preset(mesh_name)
    mesh = AbstractMesh(tuple(resolve_axes(preset.axes, preset.devices).values()), MESH_AXES)
    params, axes = shapes_and_axes(model)
    try:
        check_params(axes, params, mesh)
    except Owl2Error as error:
        return {"error": str(error)}
    shapes = flatten(params)
    return {
        name: f"{list(shapes[name].shape)} over {list(spec)} -> "
        f"{list(NamedSharding(mesh, spec).shard_shape(shapes[name].shape))}"
        for name, spec in param_specs(axes).items()
    }


@pytest.mark.parametrize(("model", "mesh_name"), CASES)
def test_parameters_lie_as_in_the_golden_file(model, mesh_name):
    golden = json.loads((DIRECTORY / f"{model}.{mesh_name}.json").read_text())
    assert placed(model, mesh_name) == golden


@pytest.mark.parametrize("model", ["owl2_7b", "owl2_1_7b"])
def test_the_full_models_fit_every_mesh_preset(model):
    assert not [mesh for mesh in meshes.PRESETS if "error" in placed(model, mesh)]


if __name__ == "__main__":
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        text = json.dumps(placed(*case), indent=1)
        (DIRECTORY / f"{'.'.join(case)}.json").write_text(text + "\n")
