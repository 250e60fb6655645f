"""Every notebook runs from its first cell to its last, on an untrained model of the tiny preset."""

from __future__ import annotations

import os
from pathlib import Path

import jax
import nbformat
import pytest
from nbclient import NotebookClient

from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.data.sources.embedded import TOKENIZER
from owl2_jax.model.owl2 import init_params
from owl2_jax.model.presets import preset

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 200_000  # bytes of a committed notebook


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A model directory as the quickstart leaves it, but for the training."""
    config = preset("owl2_tiny")
    params = jax.device_get(init_params(config, jax.random.key(0)))
    path = tmp_path_factory.mktemp("quickstart") / "stage2"
    write_model_directory(path, model_json(config.to_dict()), params, TOKENIZER.read_bytes())
    return path


def environment(checkpoint: Path) -> dict[str, str]:
    """For a kernel that sees one device, not the eight of the tests."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    return {
        **os.environ,
        "XLA_FLAGS": " ".join(flags),
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "OWL2_CHECKPOINT": str(checkpoint),
        # All of them run the same model, one after the other.
        "JAX_COMPILATION_CACHE_DIR": str(checkpoint.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, checkpoint):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute(env=environment(checkpoint))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]


def test_notebooks_are_numbered_small_and_say_what_they_are():
    assert [path.name[:3] for path in NOTEBOOKS] == [f"{number:02}_" for number in range(1, len(NOTEBOOKS) + 1)]
    for path in NOTEBOOKS:
        assert path.stat().st_size < LARGEST, path.name
        first = nbformat.read(path, as_version=4).cells[0]
        assert (first.cell_type, first.source[:2]) == ("markdown", "# ")
